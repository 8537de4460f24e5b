"""Linear layers that add a residual to their result."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.library import opcheck

from sparsekit.errors import InputError, KernelError
from sparsekit.formats import CSR, FORMATS, BlockCSR, Dense, NMPacked
from sparsekit.kernels import KERNELS, Problem
from sparsekit.kernels.activation import ACTIVATIONS, APPLY
from sparsekit.nn import SparseLinear
from sparsekit.patterns import NM, Block, Unstructured
from tests.nn.test_linear import sparse_layer
from tests.numerics import assert_within, bound_of
from tests.weights import random_mask, random_weight

OURS = [kernel for kernel in KERNELS if kernel.adds_residual and kernel.format in FORMATS]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()


def expected(x, weight, bias, residual, activation="none"):
    """The result in float64 and how far from it a sum of fp32 may be; no activation here passes on more than 1.2."""
    exact = APPLY[activation](x.double() @ weight.double().T + bias.double()) + residual.double()
    scale = x.double().abs() @ weight.double().abs().T + bias.double().abs() + residual.double().abs()
    return exact, 1.2 * bound_of(scale, weight.shape[1], weight.dtype) + 8 * torch.finfo(weight.dtype).eps * scale


@given(st.sampled_from(OURS), st.sampled_from(ACTIVATIONS), st.integers(1, 37), st.integers(1, 40), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_kernels_add_it_on_their_own_after_the_activation(kernel, activation, batch, rows, columns):
    pattern = {BlockCSR: Block(4, 4), NMPacked: NM(2, 4)}.get(kernel.format, Unstructured())
    mask, weight = random_mask((rows, columns), pattern, 0.5), random_weight((rows, columns))
    weight = torch.where(mask.keep, weight, 0.0)
    packed = kernel.format.pack(weight, mask)
    if kernel.refuses(Problem(packed, batch)) is not None:
        return
    x, bias = random_weight((batch, columns), seed=1), random_weight((rows,), seed=2)
    wide = random_weight((batch, 2 * rows), seed=3)
    for residual in (wide[:, :rows].contiguous(), wide[:, ::2], wide[:, :rows].T.contiguous().T, wide[:, rows:]):
        kept = residual.clone()
        y = kernel.bind_with(packed, activation)(x, bias, residual)
        assert_within(y, *expected(x, weight, bias, residual, activation))
        assert torch.equal(residual, kept)


@pytest.mark.parametrize("family", FORMATS, ids=lambda f: f.name)
@pytest.mark.parametrize("lead", [(5,), (2, 3), (), (0,), (2, 0)], ids=str)
def test_every_way_of_calling_adds_it(family, lead):
    layer = sparse_layer(family)
    x, residual = random_weight((*lead, 20)), random_weight((*lead, 12), seed=1)
    wanted, bound = expected(x, layer.weight, layer.bias.detach(), residual)
    assert_within(layer(x, residual).detach(), wanted, bound)  # with gradients, through the operator
    with torch.no_grad():
        assert_within(layer(x, residual), wanted, bound)  # the kernel directly
        assert_within(torch.compile(layer, fullgraph=True, backend="aot_eager")(x, residual), wanted, bound)
        assert torch.equal(layer(x), layer(x, torch.zeros_like(residual)))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_gradients_are_those_of_the_sum(activation):
    linear = nn.Linear(20, 12)
    layer = SparseLinear.from_dense(linear, format=CSR, activation=activation)
    for parts in ((True, True), (True, False), (False, True)):
        x, residual, far = random_weight((5, 20)), random_weight((5, 12), seed=1), random_weight((5, 12), seed=2)
        wanted = [t.clone().requires_grad_(needs) for t, needs in zip((x, residual), parts)]
        given = [t.clone().requires_grad_(needs) for t, needs in zip((x, residual), parts)]
        (APPLY[activation](linear(wanted[0])) + wanted[1]).backward(far)
        layer(*given).backward(far)
        torch.testing.assert_close([t.grad for t in given], [t.grad for t in wanted])
        frozen = [t.clone().requires_grad_(needs) for t, needs in zip((x, residual), parts)]
        SparseLinear.from_dense(linear.requires_grad_(False), format=CSR, activation=activation)(*frozen).backward(far)
        torch.testing.assert_close([t.grad for t in frozen], [t.grad for t in wanted])
        linear.requires_grad_(True)


@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_compiled_and_exported_it_is_one_call_where_nothing_asks_for_gradients(activation):
    layer = SparseLinear.from_dense(nn.Linear(20, 12), format=CSR, activation=activation).eval().requires_grad_(False)
    x, residual = random_weight((5, 20)), random_weight((5, 12), seed=1)
    program = torch.export.export(layer, (x, residual))
    called = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert called == [torch.ops.sparsekit.linear_finished.default]
    torch.testing.assert_close(program.module()(x, residual), layer(x, residual))


@pytest.mark.parametrize("family", [CSR, Dense], ids=lambda f: f.name)
@pytest.mark.parametrize("activation", ["none", "silu"])
def test_the_operator_without_gradients(family, activation):
    packed = sparse_layer(family).packed
    parts, integers = list(packed.tensors().values()), list(packed.integers().values())
    x, bias, residual = random_weight((2, 3, 20)), random_weight((12,)), random_weight((2, 3, 12))
    names = (packed.name, "", activation)
    opcheck(torch.ops.sparsekit.linear_finished.default, (x, bias, residual, parts, integers, *names))
    opcheck(torch.ops.sparsekit.linear_finished.default, (x[0, 0], None, None, parts, integers, *names))
    y = torch.ops.sparsekit.linear_finished.default(x.requires_grad_(), bias, residual, parts, integers, *names)
    with pytest.raises(KernelError, match="has no gradient: call sparsekit::linear"):
        y.sum().backward()


def test_under_autocast_it_is_cast_as_the_input_is():
    layer = sparse_layer(CSR)
    x, residual = random_weight((3, 20)), random_weight((3, 12), seed=1)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x.bfloat16(), residual.bfloat16())
    assert_within(y, *expected(x.bfloat16().float(), layer.weight, layer.bias.detach(), residual.bfloat16().float()))


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(
    ("residual", "says"),
    [
        (torch.zeros(12), r"SparseLinear: expected a residual of shape \(2, 3, 12\), got \(12,\)"),
        (torch.zeros(2, 3, 1), r"expected a residual of shape \(2, 3, 12\), got \(2, 3, 1\)"),
        (torch.zeros(6, 12), r"expected a residual of shape \(2, 3, 12\), got \(6, 12\)"),
        (torch.zeros(2, 3, 12).double(), "expected float32 residual, got float64"),
        (torch.zeros(2, 3, 12, device="meta"), "expected residual on cpu, got it on meta"),
    ],
)
def test_one_that_does_not_fit_is_refused(grad, residual, says):
    with torch.set_grad_enabled(grad), pytest.raises(InputError, match=says):
        sparse_layer(CSR)(torch.zeros(2, 3, 20), residual)
