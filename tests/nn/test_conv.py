"""SparseConv2d against the dense layer."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparsekit.kernels
import sparsekit.nn.choice
from sparsekit.errors import InputError, KernelError, LayerError
from sparsekit.formats import CSR, FORMATS, BlockCSR, Dense
from sparsekit.kernels import ConvKernel, Convolution, gpu
from sparsekit.kernels.conv_reference import REFERENCE_CONV_KERNELS
from sparsekit.mask import Mask
from sparsekit.nn import SparseConv2d
from sparsekit.nn.choice import conv_by_rule
from sparsekit.patterns import NM, Block, KernelSlice, Unstructured
from tests.numerics import assert_convolution
from tests.weights import FLOATING, random_weight, same_bits

every_format = pytest.mark.parametrize("family", FORMATS, ids=lambda f: f.name)
AFTER = {"none": lambda y: y, "relu": F.relu, "silu": F.silu}


def dense_conv(*sizes, dtype=torch.float32, **settings):
    """A Conv2d of ordinary weights; (6, 8, 3) with a padding of 1 where nothing is said."""
    conv = nn.Conv2d(*(sizes or (6, 8, 3)), dtype=dtype, **(settings if sizes else {"padding": 1, **settings}))
    with torch.no_grad():
        for seed, parameter in enumerate(conv.parameters()):
            parameter.copy_(random_weight(tuple(parameter.shape), dtype, seed))
    return conv


def conv_mask(family, shape, sparsity=0.5):
    """A mask of a pattern that the format stores."""
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    for pattern in (Unstructured(), Block(4, 1), NM(1, 2)):
        mask = Mask(pattern.select(scores, None if pattern.fixes_sparsity else sparsity), pattern)
        if family.accepts(mask) is None:
            return mask
    raise AssertionError(family)


def sparse_conv(family=CSR, activation="none", dtype=torch.float32, **settings):
    conv = dense_conv(dtype=dtype, **settings)
    return SparseConv2d.from_dense(conv, conv_mask(family, conv.weight.shape), family, activation=activation)


def dense_result(layer, x):
    """What torch computes with the weight of a layer, in float64."""
    done, mode = layer.convolution, layer.padding_mode
    top, bottom, left, right = done.padding
    x = F.pad(x.double(), (left, right, top, bottom), "constant" if mode == "zeros" else mode)
    bias = None if layer.bias is None else layer.bias.detach().double()
    y = F.conv2d(x, layer.weight.double(), bias, done.stride, 0, done.dilation, done.groups)
    return AFTER[done.activation](y)


@pytest.mark.parametrize(
    ("sizes", "settings"),
    [
        ((6, 8, 3), {}),
        ((6, 8, 3), {"stride": 2, "padding": 1, "bias": False}),
        ((6, 8, (5, 3)), {"stride": (1, 3), "padding": (2, 0)}),
        ((6, 8, 3), {"padding": "same", "dilation": 2}),
        ((6, 8, (2, 4)), {"padding": "same"}),
        ((6, 8, 3), {"padding": "valid", "groups": 2}),
        ((6, 6, 3), {"padding": 1, "groups": 6}),
        ((6, 8, 1), {"stride": 2}),
        ((6, 8, 7), {"padding": 3}),
        *(((6, 8, 3), {"padding": (1, 2), "padding_mode": mode}) for mode in ("reflect", "replicate", "circular")),
        *(((6, 8, 4), {"padding": "same", "padding_mode": mode}) for mode in ("reflect", "replicate", "circular")),
    ],
    ids=str,
)
@pytest.mark.parametrize("activation", AFTER)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
def test_does_what_the_dense_layer_and_its_activation_do(sizes, settings, activation):
    conv = dense_conv(*sizes, **settings)
    mask = conv_mask(CSR, conv.weight.shape)
    layer = SparseConv2d.from_dense(conv, mask, CSR, activation=activation)
    masked = copy.deepcopy(conv)
    masked.weight.data.masked_fill_(~mask.keep, 0.0)
    assert same_bits(layer.weight, masked.weight.detach() + 0.0)
    back = layer.to_dense()
    for shape in ((1, 6, 9, 9), (3, 6, 10, 7), (0, 6, 9, 9)):
        x = random_weight(shape, seed=5)
        want = AFTER[activation](masked.double()(x.double()))
        for layout in (torch.contiguous_format, torch.channels_last):
            for grad in (False, True):
                with torch.set_grad_enabled(grad):
                    y = layer(x.contiguous(memory_format=layout))
                assert y.requires_grad == (grad and conv.bias is not None)
                assert y.is_contiguous(memory_format=layout)
                assert y.shape == want.shape
                torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(back(x).double(), want, rtol=1e-5, atol=1e-4)
        masked.float()


@every_format
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_every_format_and_dtype(family, dtype):
    layer, x = sparse_conv(family, dtype=dtype), random_weight((2, 6, 5, 7), dtype)
    assert layer.format is family
    for y in (layer(x), layer(x).detach()):
        assert_convolution(y.detach(), x, layer.weight, layer.convolution, layer.bias)
    with torch.inference_mode():
        assert_convolution(layer(x), x, layer.weight, layer.convolution, layer.bias)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[:, :, ::2, 1:],
        lambda x: x.transpose(2, 3),
        lambda x: x.to(memory_format=torch.channels_last)[:, :, 1:, 1:],
        lambda x: x[:1].expand(3, -1, -1, -1),
        lambda x: x[:, :1].expand(-1, 6, -1, -1),
        lambda x: x[:, :, :1, :1],
    ],
    ids=["strided", "transposed", "part of channels_last", "one image", "one channel", "one pixel"],
)
def test_inputs_of_any_strides(change, mode):
    layer, x = sparse_conv(padding_mode=mode), change(random_weight((3, 6, 9, 9)))
    with torch.no_grad():
        y = layer(x)
    assert y.is_contiguous(memory_format=torch.channels_last if x.stride(1) < x.stride(3) else torch.contiguous_format)
    assert y.stride() == layer(x).stride()
    torch.testing.assert_close(y.double(), dense_result(layer, x), rtol=1e-5, atol=1e-4)


def test_from_dense_reads_the_zeros_and_leaves_the_layer_alone():
    conv = dense_conv().eval()
    with torch.no_grad():
        conv.weight[random_weight(conv.weight.shape, seed=9).abs() < 1.5] = 0.0
    conv.bias.requires_grad_(False)
    before = conv.weight.detach().clone()
    layer = SparseConv2d.from_dense(conv)
    assert layer.format is CSR
    assert same_bits(layer.weight, before)
    assert same_bits(conv.weight.detach(), before)
    assert not layer.training
    assert not layer.bias.requires_grad
    conv.bias.data.zero_()
    assert not torch.equal(layer.bias, conv.bias)


@pytest.mark.parametrize(
    ("pattern", "sparsity", "family"),
    [
        (Unstructured(), 0.5, Dense),
        (Unstructured(), 0.61, CSR),
        (Block(4, 4), 0.1, BlockCSR),
        (Block(16, 1), 0.1, BlockCSR),
        (NM(2, 4), None, Dense),
        (NM(1, 4), None, CSR),
    ],
    ids=str,
)
def test_the_rule(pattern, sparsity, family):
    mask = Mask(pattern.select(torch.rand(16, 8, 3, 3), sparsity), pattern)
    assert conv_by_rule(mask) is family
    assert SparseConv2d.from_dense(dense_conv(8, 16, 3), mask).format is family


@pytest.mark.parametrize(
    ("pattern", "sparsity", "family"), [(Unstructured(), 0.9, Dense), (Block(16, 16), 0.5, BlockCSR)], ids=str
)
def test_the_rule_on_a_gpu(pattern, sparsity, family, monkeypatch):
    monkeypatch.setattr(gpu, "DEVICES", ("cpu",))
    mask = Mask(pattern.select(torch.rand(16, 8, 4, 4), sparsity), pattern)
    assert conv_by_rule(mask) is family
    assert conv_by_rule(mask, trainable=True) is (CSR if family is Dense else family)


def test_the_rule_takes_no_dense_format_for_zeros_that_stay_in_training():
    mask = Mask(Unstructured().select(torch.rand(8, 6, 3, 3), 0.3))
    assert conv_by_rule(mask, trainable=True) is CSR
    assert conv_by_rule(Mask(torch.ones(8, 6, 3, 3, dtype=torch.bool)), trainable=True) is Dense


def test_an_example_decides_by_measurement(monkeypatch):
    def bind(packed, convolution):
        run = REFERENCE_CONV_KERNELS[1].bind(packed, convolution)
        return lambda x, bias: run(x, bias).contiguous()

    own = ConvKernel("csr_conv_own", CSR, lambda problem: None, bind)
    monkeypatch.setattr(sparsekit.kernels, "CONV_KERNELS", (own, *REFERENCE_CONV_KERNELS))
    seen = []

    def fastest(candidates, budget_s, before, clock):
        seen.extend(candidates)
        for call in candidates.values():
            assert call().shape == (2, 8, 5, 7)
            assert call().is_contiguous(memory_format=torch.channels_last)
        return {"csr_conv_own": 1.0, "dense_conv_reference": 2.0}

    monkeypatch.setattr(sparsekit.nn.choice, "fastest", fastest)
    conv, x = dense_conv(), torch.zeros(2, 6, 5, 7).to(memory_format=torch.channels_last)
    layer = SparseConv2d.from_dense(conv, conv_mask(CSR, conv.weight.shape), example=x)
    assert layer.format is CSR
    assert layer.kernel_by_size == {(2, 5, 7): "csr_conv_own"}
    assert seen == ["dense_conv_reference", "csr_conv_own"]


def test_an_example_is_really_timed():
    layer = SparseConv2d.from_dense(dense_conv(), example=torch.zeros(1, 6, 5, 7))
    assert layer.format is Dense
    assert layer.kernel_by_size[1, 5, 7].startswith("dense_conv_")


def constant(name, value, family=CSR, refuses=lambda problem: None):
    def bind(packed, convolution):
        return lambda x, bias: torch.full((x.shape[0], packed.rows, *convolution.output_size(*x.shape[2:])), value)

    return ConvKernel(name, family, refuses, bind)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_kernels_follow_the_size_of_the_input(monkeypatch, mode):
    monkeypatch.setattr(sparsekit.kernels, "CONV_KERNELS", (constant("first", 1.0), constant("second", 2.0)))
    packed, convolution = sparse_conv().packed, Convolution(6, (3, 3), (1, 1), (1, 1, 1, 1))
    names = {(2, 5, 7): "second", (1, 5, 7): "from_another_machine"}
    layer = SparseConv2d.from_packed(packed, convolution, kernel_by_size=names, padding_mode=mode)
    for shape, value in (((2, 6, 5, 7), 2.0), ((1, 6, 5, 7), 1.0), ((2, 6, 7, 5), 1.0), ((2, 6, 5, 7), 2.0)):
        for grad in (False, True):
            x = torch.zeros(shape).requires_grad_(grad)
            assert torch.equal(layer(x), torch.full((shape[0], 8, *shape[2:]), value))
    assert "kernel=second at 2 x 5 x 7, from_another_machine at 1 x 5 x 7" in repr(layer)


def test_kernels_of_the_user_come_first():
    layer = sparse_conv()
    mine = (constant("mine", 3.0), *REFERENCE_CONV_KERNELS)
    own = SparseConv2d.from_packed(layer.packed, layer.convolution, kernels=mine)
    assert torch.equal(own(torch.zeros(2, 6, 4, 4)), torch.full((2, 8, 4, 4), 3.0))
    assert "kernel=mine" in repr(own)


def test_a_changed_number_of_threads_chooses_anew(monkeypatch):
    alone = constant("alone", 1.0, refuses=lambda p: "one thread only" if p.threads > 1 else None)
    monkeypatch.setattr(sparsekit.kernels, "CONV_KERNELS", (alone, constant("many", 2.0)))
    layer, threads = sparse_conv(bias=False), torch.get_num_threads()
    try:
        for count, value in ((1, 1.0), (2, 2.0), (1, 1.0)):
            torch.set_num_threads(count)
            assert layer(torch.zeros(1, 6, 4, 4))[0, 0, 0, 0] == value
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("grad", [False, True])
def test_no_kernel_sees_an_empty_batch(grad):
    layer = sparse_conv()
    own = SparseConv2d.from_packed(layer.packed, layer.convolution, kernels=())
    x = torch.zeros(0, 6, 4, 5).requires_grad_(grad)
    assert own(x).shape == (0, 8, 4, 5)
    with torch.no_grad(), pytest.raises(KernelError, match="no kernel convolves 1 images of 4 x 5 with csr"):
        own(torch.zeros(1, 6, 4, 5))


def test_a_kernel_is_bound_once_for_all_sizes(monkeypatch):
    binds = []

    def bind(packed, convolution):
        binds.append(convolution)
        return REFERENCE_CONV_KERNELS[1].bind(packed, convolution)

    counting = ConvKernel("counting", CSR, lambda problem: None, bind)
    monkeypatch.setattr(sparsekit.kernels, "CONV_KERNELS", (counting,))
    layer = sparse_conv(bias=False)
    twin = SparseConv2d.from_packed(layer.packed, Convolution(6, (3, 3)))
    for size in (4, 5, 4):
        assert layer(torch.zeros(1, 6, size, size)).shape[2] == size
        assert twin(torch.zeros(1, 6, size, size)).shape[2] == size - 2
    assert binds == [layer.convolution, twin.convolution]


def test_sees_changes_of_its_buffers():
    layer, x = sparse_conv(bias=False), random_weight((2, 6, 5, 5))
    before = layer(x)
    layer.packed_values.mul_(2.0)
    assert torch.equal(layer(x), 2.0 * before)
    layer.packed_values = torch.zeros_like(layer.packed_values)
    assert not torch.count_nonzero(layer(x))


def test_repr():
    layer = sparse_conv(activation="relu", stride=(2, 1), groups=2, dilation=(1, 2), padding_mode="circular")
    assert repr(layer).startswith(
        "SparseConv2d(6, 8, kernel_size=(3, 3), stride=(2, 1), padding=(1, 1, 1, 1) of circular, dilation=(1, 2), "
        "groups=2, activation=relu, bias=True, sparsity=0.5000, format=csr, kernel=csr_conv_"
    )
    plain = SparseConv2d.from_dense(dense_conv(6, 8, 1, bias=False), format="dense")
    assert repr(plain).startswith("SparseConv2d(6, 8, kernel_size=(1, 1), stride=(1, 1), bias=False, sparsity=0.0000")


def test_a_padding_that_torch_has_not_stays_packed():
    layer = SparseConv2d.from_packed(sparse_conv().packed, Convolution(6, (3, 3), padding=(0, 1, 0, 1)))
    assert layer(torch.zeros(1, 6, 4, 4)).shape == (1, 8, 3, 3)
    with pytest.raises(LayerError, match=r"expected a padding that torch\.nn\.Conv2d has, got \(0, 1, 0, 1\)"):
        layer.to_dense()


def test_autocast_keeps_the_weights_dtype():
    layer, x = sparse_conv(activation="silu"), random_weight((2, 6, 5, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                for images in (x, x.bfloat16(), x):
                    y = layer(images).detach()
                    assert_convolution(y, images.float(), layer.weight, layer.convolution, layer.bias)
        with pytest.raises(InputError, match="expected float32 input, got int64"):
            layer(torch.zeros(1, 6, 4, 4, dtype=torch.int64))


def test_a_kernel_slice_mask_is_kept():
    conv, pattern = dense_conv(), KernelSlice()
    mask = Mask(pattern.select(conv.weight.detach().abs(), 0.75), pattern)
    layer, x = SparseConv2d.from_dense(conv, mask), random_weight((1, 6, 5, 5))
    assert same_bits(layer.weight, torch.where(mask.keep, conv.weight.detach(), 0.0))
    assert_convolution(layer(x).detach(), x, layer.weight, layer.convolution, layer.bias)


@every_format
def test_a_layer_made_in_inference_mode_can_be_trained(family):
    with torch.inference_mode():
        layer = sparse_conv(family)
    x = random_weight((1, 6, 5, 5)).requires_grad_()
    layer(x).sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("x_order", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last, None], ids=str)
def test_the_order_of_the_result_can_be_set(order, x_order, grad):
    conv = dense_conv()
    mask = conv_mask(CSR, conv.weight.shape)
    packed = CSR.pack(conv.weight.detach(), mask)
    layer = SparseConv2d.from_packed(packed, Convolution.of(conv), conv.bias, memory_format=order)
    for shape in ((2, 6, 9, 7), (0, 6, 9, 7)):
        x = random_weight(shape).to(memory_format=x_order)
        with torch.set_grad_enabled(grad):
            y = layer(x)
        assert y.is_contiguous(memory_format=order or x_order)
        assert_convolution(y.detach(), x, layer.weight, layer.convolution, layer.bias)
    assert repr(layer) == repr(SparseConv2d.from_packed(packed, Convolution.of(conv), conv.bias))


@pytest.mark.parametrize("order", [torch.channels_last_3d, torch.preserve_format, "channels_last"])
def test_other_orders_are_refused(order):
    conv = dense_conv()
    packed = CSR.pack(conv.weight.detach(), conv_mask(CSR, conv.weight.shape))
    with pytest.raises(LayerError, match=r"SparseConv2d: expected contiguous_format or channels_last, got "):
        SparseConv2d.from_packed(packed, Convolution.of(conv), memory_format=order)


def test_settings_of_one_number_are_of_both_directions():
    conv = dense_conv()
    conv.stride, conv.padding, conv.dilation = 2, 1, 2
    layer, x = SparseConv2d.from_dense(conv, format=CSR), random_weight((1, 6, 9, 8))
    with torch.no_grad():
        assert_convolution(layer(x), x, conv.weight, Convolution(6, (3, 3), (2, 2), (1, 1, 1, 1), (2, 2)), conv.bias)
        assert layer(x).shape == conv(x).shape


def test_a_layer_says_what_models_ask_of_theirs():
    conv = torch.nn.Conv2d(4, 6, (3, 5), (2, 1), (1, 2), (1, 2), groups=2)
    sparse = SparseConv2d.from_dense(conv)
    for name in ("kernel_size", "stride", "dilation", "groups", "in_channels", "out_channels", "padding_mode"):
        assert getattr(sparse, name) == getattr(conv, name)
