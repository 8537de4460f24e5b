"""The convolution as torch sees it: shapes, gradients, torch.compile and torch.export."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck

import sparsekit.kernels
from sparsekit import ops
from sparsekit.errors import InputError, LayerError
from sparsekit.formats import CSR, BlockCSR
from sparsekit.kernels import ConvKernel, Convolution
from sparsekit.kernels.conv_reference import REFERENCE_CONV_KERNELS
from sparsekit.nn import SparseConv2d
from tests.nn.test_conv import conv_mask, every_format, sparse_conv
from tests.numerics import assert_convolution
from tests.weights import random_weight, same_bits

PADDED = Convolution(4, (3, 3), (1, 1), (1, 1, 1, 1))
UNEVEN = Convolution(4, (3, 2), (2, 1), (0, 2, 1, 0), (1, 2), 2, "silu")
POINTS = Convolution(4, (1, 1), activation="relu")
SIZES = {PADDED: (2, 5, 4), UNEVEN: (1, 6, 7), POINTS: (2, 3, 1)}


def packed_in(family, convolution, outputs=4, dtype=torch.float32):
    shape = convolution.weight_shape(outputs)
    return family.pack(random_weight(shape, dtype), conv_mask(family, shape))


def images(convolution, seed=1, dtype=torch.float32):
    n, h, w = SIZES[convolution]
    return random_weight((n, convolution.in_channels, h, w), dtype, seed)


def trained_in(family, convolution):
    """The operands of a weight whose stored values ask for gradients."""
    packed = packed_in(family, convolution)
    parts = [t.requires_grad_(t.is_floating_point()) for t in packed.tensors().values()]
    return parts, list(packed.integers().values()), packed.name


@pytest.mark.parametrize(
    ("convolution", "layout"),
    [(PADDED, torch.contiguous_format), (UNEVEN, torch.channels_last), (POINTS, torch.channels_last)],
    ids=["padded", "uneven", "points"],
)
def test_opcheck(convolution, layout):
    operands, linear = trained_in(CSR, convolution), replace(convolution, activation="none").text
    x = images(convolution).contiguous(memory_format=layout).requires_grad_()
    bias = random_weight((4,), seed=2).requires_grad_()
    opcheck(torch.ops.sparsekit.conv2d.default, (x, bias, *operands, convolution.text, "1x2x3=unknown"))
    y = torch.ops.sparsekit.conv2d.default(x, None, *operands, linear, "").detach().requires_grad_()
    size = (x.shape[0], x.shape[2], x.shape[3])
    opcheck(torch.ops.sparsekit.conv2d_grad_x.default, (y, *operands, linear, size))
    opcheck(torch.ops.sparsekit.conv2d_grad_part.default, (y, x, *operands, linear, 0))


@every_format
def test_opcheck_in_every_format(family):
    operands = trained_in(family, POINTS)
    opcheck(torch.ops.sparsekit.conv2d.default, (images(POINTS), None, *operands, POINTS.text, ""))


@every_format
@pytest.mark.parametrize("convolution", SIZES, ids=["padded", "uneven", "points"])
def test_gradients_to_second_order(family, convolution):
    packed = packed_in(family, convolution, dtype=torch.float64)
    x, bias = images(convolution, dtype=torch.float64), random_weight((4,), torch.float64, 2)
    floating = [name for name, part in packed.tensors().items() if part.is_floating_point()]

    def call(x, bias, *parts):
        # gradcheck changes its inputs through .data, which no count of changes shows
        changed = {name: part.clone() for name, part in zip(floating, parts)}
        changed = packed.from_parts({**packed.tensors(), **changed}, packed.integers())
        return ops.conv2d(x, changed, convolution, bias)

    inputs = (x, bias, *(packed.tensors()[name] for name in floating))
    inputs = tuple(tensor.detach().clone().requires_grad_() for tensor in inputs)
    assert torch.autograd.gradcheck(call, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(lambda x: ops.conv2d(x, packed, convolution), (inputs[0],), fast_mode=True)


def test_gradients_are_the_dense_ones_where_weights_are_kept():
    packed = packed_in(CSR, UNEVEN, 6)
    parts = {name: t.requires_grad_(t.is_floating_point()) for name, t in packed.tensors().items()}
    weight = packed.unpack().detach().reshape(UNEVEN.weight_shape(6)).requires_grad_()
    x, same = images(UNEVEN).requires_grad_(), images(UNEVEN).requires_grad_()
    ops.conv2d(x, packed, UNEVEN).square().sum().backward()
    padded = nn.functional.pad(same, (1, 0, 0, 2))
    nn.functional.silu(nn.functional.conv2d(padded, weight, None, (2, 1), 0, (1, 2), 2)).square().sum().backward()
    kept = weight.detach().flatten() != 0
    torch.testing.assert_close(parts["values"].grad, weight.grad.flatten()[kept], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(x.grad, same.grad, rtol=1e-4, atol=1e-4)


def test_no_images_give_gradients_of_zeros():
    packed = packed_in(CSR, PADDED)
    packed.values.requires_grad_()
    x, bias = torch.zeros(0, 4, 5, 5).requires_grad_(), torch.zeros(4).requires_grad_()
    y = ops.conv2d(x, packed, PADDED, bias)
    assert y.shape == (0, 4, 5, 5)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert not torch.count_nonzero(bias.grad)
    assert not torch.count_nonzero(packed.values.grad)


def test_gradients_under_autocast_keep_the_weights_dtype():
    packed, x = packed_in(CSR, PADDED), images(PADDED).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ops.conv2d(x, packed, PADDED)
        (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    (exact,) = torch.autograd.grad(ops.conv2d(x, packed, PADDED).sum(), x)
    assert y.dtype == torch.float32
    assert same_bits(grad, exact)


def test_refuses_what_does_not_fit():
    packed = packed_in(CSR, PADDED)
    for x, bias, message in (
        (torch.zeros(1, 5, 4, 4), None, "expected an input of 4 channels, got 5"),
        (torch.zeros(4, 4, 4), None, "expected an input of 4 dimensions"),
        (torch.zeros(1, 4, 4, 4).double(), None, "expected float32 input, got float64"),
        (torch.zeros(1, 4, 4, 4), torch.zeros(3), r"expected a bias of shape \(4,\), got \(3,\)"),
        (torch.zeros(1, 4, 4, 4, device="meta"), None, "expected input on cpu, got it on meta"),
    ):
        with pytest.raises(InputError, match=f"sparsekit::conv2d: {message}"):
            ops.conv2d(x, packed, PADDED, bias)
    with pytest.raises(LayerError, match="sparsekit::conv2d: expected a weight of 4 columns, got 4 x 36"):
        ops.conv2d(torch.zeros(1, 4, 4, 4), packed, POINTS)


@pytest.fixture
def counted(monkeypatch):
    """Replace the kernels by two CSR kernels that record their binds and calls."""
    binds, calls = [], []

    def kernel(name):
        def bind(packed, convolution):
            binds.append(name)
            run = REFERENCE_CONV_KERNELS[1].bind(packed, convolution)

            def counting(x, bias):
                calls.append(name)
                return run(x, bias)

            return counting

        return ConvKernel(name, CSR, lambda problem: None, bind)

    monkeypatch.setattr(sparsekit.kernels, "CONV_KERNELS", (kernel("first"), kernel("second")))
    return binds, calls


def test_binds_once_per_weight_and_kernel_and_follows_the_names(counted):
    packed, (binds, calls) = packed_in(CSR, PADDED), counted
    for size in (3, 3, 4):
        ops.conv2d(torch.zeros(1, 4, size, size), packed, PADDED)
    names = {(1, 3, 3): "second", (2, 3, 3): "unknown"}
    for batch in (1, 2, 1):
        ops.conv2d(torch.zeros(batch, 4, 3, 3), packed, PADDED, kernels=names)
    assert calls == ["first"] * 3 + ["second", "first", "second"]
    assert binds == ["first", "second"]
    ops.conv2d(torch.zeros(1, 4, 3, 3), packed, replace(PADDED, stride=(2, 2)))
    assert binds == ["first", "second", "first"]


def test_sees_changes_in_place():
    packed, x = packed_in(CSR, PADDED), images(PADDED)
    before = ops.conv2d(x, packed, PADDED)
    packed.values.mul_(2.0)
    assert torch.equal(ops.conv2d(x, packed, PADDED), 2.0 * before)


def model_of(family):
    return nn.Sequential(sparse_conv(family, "silu"), sparse_conv_of(family, 8, 4, "relu")).eval()


def sparse_conv_of(family, inputs, outputs, activation):
    conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, padding_mode="circular")
    return SparseConv2d.from_dense(conv, conv_mask(family, conv.weight.shape), family, activation=activation)


@pytest.fixture
def _fresh_compiler():
    torch.compiler.reset()


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("family", [CSR, BlockCSR], ids=lambda f: f.name)
def test_compiles_with_dynamic_shapes(family):
    model = model_of(family)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((2, 6, 9, 8), (3, 6, 12, 7)):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = random_weight(shape).contiguous(memory_format=layout)
            with torch.no_grad():
                y, want = compiled(x), model(x)
            assert torch.equal(y, want)
            assert y.stride() == want.stride()


@pytest.mark.usefixtures("_fresh_compiler")
@every_format
def test_compiled_gradients(family):
    layer = sparse_conv(family, "silu")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    grads = []
    for call in (layer, compiled):
        x = random_weight((2, 6, 5, 5)).requires_grad_()
        layer.bias.grad = None
        call(x).square().sum().backward()
        grads.append((x.grad, layer.bias.grad))
    assert all(torch.equal(a, b) for a, b in zip(*grads))


@every_format
def test_exports_saves_and_loads(family):
    model, file = model_of(family), io.BytesIO()
    batch = torch.export.Dim("batch", min=2, max=64)
    x = random_weight((3, 6, 8, 8))
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},), strict=False)
    torch.export.save(program, file)
    file.seek(0)
    again = torch.export.load(file).module()
    for size in (3, 7):
        x = random_weight((size, 6, 8, 8))
        assert same_bits(again(x), model(x))


def test_tracers_see_the_operator():
    with torch.no_grad():
        graph = make_fx(sparse_conv(), tracing_mode="real")(torch.zeros(1, 6, 4, 4))
    assert torch.ops.sparsekit.conv2d.default in {node.target for node in graph.graph.nodes}


def test_fake_tensors_see_shape_and_order():
    layer = sparse_conv(stride=2)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        y = layer(torch.empty(2, 6, 9, 8).to(memory_format=torch.channels_last))
    assert y.shape == (2, 8, 5, 4)
    assert y.is_contiguous(memory_format=torch.channels_last)


@every_format
def test_a_trained_layer_keeps_its_zeros(family):
    conv = nn.Conv2d(6, 8, 3, padding=1)
    with torch.no_grad():
        conv.weight.copy_(random_weight(conv.weight.shape))
    mask = conv_mask(family, conv.weight.shape)
    if family.name == "dense":
        mask = conv_mask(family, conv.weight.shape, 0.0)
    layer = SparseConv2d.from_dense(conv, mask, family, trainable=True)
    before, optimizer = layer.weight, torch.optim.SGD(layer.parameters(), lr=0.1)
    x = random_weight((2, 6, 5, 5))
    layer(x).square().mean().backward()
    optimizer.step()
    assert torch.equal((layer.weight != 0) | (before == 0), torch.ones_like(mask.keep))
    assert not torch.count_nonzero(layer.weight[~mask.keep])
    assert not torch.equal(layer.weight, before)
    with torch.no_grad():
        assert_convolution(layer(x), x, layer.weight, layer.convolution, layer.bias)
