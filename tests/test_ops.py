"""The operator as torch sees it."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch.library import opcheck

import sparsekit.kernels
from sparsekit import ops
from sparsekit.errors import InputError
from sparsekit.formats import CSR, FORMATS
from sparsekit.kernels.base import Kernel
from sparsekit.kernels.reference import REFERENCE_KERNELS
from tests.numerics import assert_product
from tests.weights import PATTERNS, random_mask, random_weight

every_format = pytest.mark.parametrize("family", FORMATS, ids=lambda f: f.name)


def packed_in(family, shape=(12, 18), dtype=torch.float32):
    pattern = next(p for p in PATTERNS if family.accepts(random_mask((8, 16), p, 0.5)) is None)
    return family.pack(random_weight(shape, dtype), random_mask(shape, pattern, 0.5))


def operands(packed):
    return list(packed.tensors().values()), list(packed.integers().values()), packed.name


@every_format
@pytest.mark.parametrize("lead", [(), (1,), (0,), (5,), (2, 3), (2, 0, 3)], ids=str)
@pytest.mark.parametrize("with_bias", [True, False])
def test_any_leading_dimensions(family, lead, with_bias):
    packed = packed_in(family)
    x, bias = random_weight((*lead, 18), seed=1), random_weight((12,), seed=2) if with_bias else None
    assert_product(ops.linear(x, packed, bias), x, packed.unpack(), bias)


@every_format
@pytest.mark.parametrize("shape", [(0, 18), (12, 0), (0, 0)], ids=str)
def test_empty_weights(family, shape):
    packed = packed_in(family, shape)
    x, bias = random_weight((2, 3, shape[1])).requires_grad_(), random_weight((shape[0],)).requires_grad_()
    y = ops.linear(x, packed, bias)
    assert_product(y.detach(), x.detach(), packed.unpack(), bias.detach())
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert torch.equal(bias.grad, torch.full_like(bias, 6.0))


@every_format
@pytest.mark.parametrize("grad", [True, False])
def test_opcheck(family, grad):
    parts, integers, name = operands(packed_in(family))
    x, bias = random_weight((2, 3, 18)).requires_grad_(grad), random_weight((12,)).requires_grad_(grad)
    opcheck(torch.ops.sparsekit.linear.default, (x, bias, parts, integers, name, ""))
    opcheck(torch.ops.sparsekit.linear.default, (x.detach()[0, 0], None, parts, integers, name, "1=unknown"))
    y = random_weight((2, 3, 12)).requires_grad_(grad)
    opcheck(torch.ops.sparsekit.linear_grad_x.default, (y, parts, integers, name))
    parts = [part.detach().requires_grad_(grad and part.is_floating_point()) for part in parts]
    opcheck(torch.ops.sparsekit.linear.default, (x, bias, parts, integers, name, ""))
    opcheck(torch.ops.sparsekit.linear_grad_x.default, (y, parts, integers, name))
    for part in (at for at, tensor in enumerate(parts) if tensor.is_floating_point()):
        opcheck(torch.ops.sparsekit.linear_grad_part.default, (y, x, parts, integers, name, part))


@every_format
def test_gradients_to_second_order(family):
    packed = packed_in(family, (5, 9), torch.float64)
    x = random_weight((2, 3, 9), torch.float64, 1).requires_grad_()
    bias = random_weight((5,), torch.float64, 2).requires_grad_()

    def call(x, bias):
        return ops.linear(x, packed, bias)

    assert torch.autograd.gradcheck(call, (x, bias))
    assert torch.autograd.gradgradcheck(call, (x, bias))
    assert torch.autograd.gradcheck(lambda x: ops.linear(x, packed), (x[0, 0].detach().requires_grad_(),))

    floating = [name for name, part in packed.tensors().items() if part.is_floating_point()]

    def call_with(x, bias, *parts):
        # gradcheck changes its inputs through .data, which no count of changes shows
        changed = {name: part.clone() for name, part in zip(floating, parts)}
        changed = packed.from_parts({**packed.tensors(), **changed}, packed.integers())
        return ops.linear(x, changed, bias)

    parts = [packed.tensors()[name].detach().requires_grad_() for name in floating]
    assert torch.autograd.gradcheck(call_with, (x, bias, *parts))
    assert torch.autograd.gradgradcheck(call_with, (x, bias, *parts))


def test_gradients_under_autocast_keep_the_weights_dtype():
    packed = packed_in(CSR)
    x = random_weight((4, 18)).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ops.linear(x, packed)
        (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert y.dtype == torch.float32
    assert_product(grad, torch.ones(4, 12), packed.unpack().T)


def test_refuses_what_does_not_fit():
    packed = packed_in(CSR)
    with pytest.raises(InputError, match=r"expected an input of shape \(..., 18\), got \(2, 17\)"):
        ops.linear(torch.zeros(2, 17), packed)
    with pytest.raises(InputError, match="expected float32 input, got float64"):
        ops.linear(torch.zeros(2, 18, dtype=torch.float64), packed)
    with pytest.raises(InputError, match=r"expected a bias of shape \(12,\), got \(13,\)"):
        ops.linear(torch.zeros(2, 18), packed, torch.zeros(13))
    with pytest.raises(InputError, match="expected float32 bias, got float16"):
        ops.linear(torch.zeros(2, 18), packed, torch.zeros(12, dtype=torch.float16))
    with pytest.raises(InputError, match=r"sparsekit::linear: expected input on cpu, got it on meta"):
        ops.linear(torch.zeros(2, 18, device="meta"), packed)


@pytest.fixture
def counted(monkeypatch):
    """Replace the kernels by two CSR kernels that record their binds and calls."""
    binds, calls = [], []

    def kernel(name):
        def bind(packed):
            binds.append(name)
            multiply = REFERENCE_KERNELS[1].bind(packed)

            def counting(x, bias):
                calls.append(name)
                return multiply(x, bias)

            return counting

        return Kernel(name, CSR, lambda problem: None, bind)

    monkeypatch.setattr(sparsekit.kernels, "KERNELS", (kernel("first"), kernel("second")))
    return binds, calls


def test_binds_once_per_weight_and_kernel(counted):
    packed, (binds, calls) = packed_in(CSR), counted
    for batch in (1, 1, 2, 5, 5):
        ops.linear(torch.zeros(batch, 18), packed)
    ops.linear(torch.zeros(7, 18), packed, kernels={7: "second", 5: "unknown"})
    ops.linear(torch.zeros(5, 18), packed, kernels={7: "second", 5: "unknown"})
    ops.linear(torch.zeros(5, 18), packed, kernels={5: "second"})
    assert calls == ["first"] * 5 + ["second", "first", "second"]
    assert binds == ["first", "second"]


def test_sees_changes_in_place(counted):
    packed, x = packed_in(CSR), random_weight((3, 18))
    before = ops.linear(x, packed)
    packed.values.mul_(2.0)
    assert torch.equal(ops.linear(x, packed), 2.0 * before)
    packed.values.data = packed.values.data.clone().fill_(0.0)
    assert torch.equal(ops.linear(x, packed), torch.zeros_like(before))


def test_keeps_no_weight_alive(counted):
    packed = packed_in(CSR)
    ops.linear(torch.zeros(3, 18), packed)
    gone = weakref.ref(packed.values)
    del packed
    gc.collect()
    assert gone() is None


@every_format
def test_compiled_calls_bind_once(family, monkeypatch):
    torch.compiler.reset()
    packed, binds = packed_in(family), []
    parts, integers, name = operands(packed)
    reference = next(k for k in REFERENCE_KERNELS if k.format is family)

    def bind(packed):
        binds.append(packed)
        return reference.bind(packed)

    monkeypatch.setattr(sparsekit.kernels, "KERNELS", (Kernel("counting", family, lambda p: None, bind),))

    def call(x):
        return torch.ops.sparsekit.linear(x, None, parts, integers, name, "").relu()

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for seed in range(3):
        x = random_weight((4, 18), seed=seed)
        assert torch.equal(compiled(x), call(x))
    assert len(binds) == 1
