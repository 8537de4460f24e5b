"""What holds for every kernel of the tuple."""

import re

import pytest
import torch

from sparsekit.formats import FORMATS, QUANTIZED_FORMATS, DeltaCSR
from sparsekit.kernels import GRADIENT_KERNELS as EVERY_GRADIENT_KERNEL
from sparsekit.kernels import KERNELS as EVERY_KERNEL
from sparsekit.kernels import REFERENCE_GRADIENT_KERNELS, REFERENCE_KERNELS, Problem
from sparsekit.kernels.candidates import candidates
from sparsekit.patterns import NM, Block, Unstructured
from tests.numerics import assert_integer_product, assert_product
from tests.weights import random_mask, random_weight

KERNELS = tuple(kernel for kernel in EVERY_KERNEL if kernel.format not in QUANTIZED_FORMATS)
GRADIENT_KERNELS = tuple(kernel for kernel in EVERY_GRADIENT_KERNEL if kernel.format not in QUANTIZED_FORMATS)
PATTERNS = ((Unstructured(), 0.6), (Block(4, 4), 0.5), (NM(2, 4), 0.1))


def test_names_tell_format_operation_and_backend_and_are_unique():
    names = [kernel.name for kernel in KERNELS]
    assert len(set(names)) == len(names)
    for kernel in KERNELS:
        backends = "native(_bf16|_half)?|reference|onednn|mkl|triton|cuda|cusparselt"
        assert re.fullmatch(rf"{kernel.format.name}_(mv|mm|linear)_({backends})", kernel.name)


def test_every_format_has_a_reference_that_comes_after_the_sparse_kernels():
    assert {kernel.format for kernel in REFERENCE_KERNELS} == set(FORMATS)
    order = {kernel.name: at for at, kernel in enumerate(KERNELS)}
    for kernel in KERNELS:
        if kernel.name.endswith(("native", "bf16", "half", "triton", "cuda", "cusparselt")):
            assert order[kernel.name] < order[f"{kernel.format.name}_linear_reference"]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
@pytest.mark.parametrize("batch", [1, 3, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_refuses_in_a_sentence_or_multiplies(kernel, batch, dtype):
    for pattern, sparsity in PATTERNS:
        mask, weight = random_mask((14, 22), pattern, sparsity), random_weight((14, 22), dtype)
        if kernel.format.accepts(mask) is not None:
            continue
        packed = kernel.format.pack(weight, mask)
        refusal = kernel.refuses(Problem(packed, batch))
        if refusal is not None:
            assert len(str(refusal).split()) > 3
            continue
        x, bias = torch.randn(batch, 22).to(dtype), torch.randn(14).to(dtype)
        for stored in (bias, bias.repeat_interleave(2)[::2]):
            assert_product(kernel.bind(packed)(x, stored), x, weight * mask.keep, bias)
        residual = torch.randn(14, batch).to(dtype).T
        y = kernel.bind_with(packed, "none")(x, bias, residual)
        inputs = torch.cat([x, residual], 1)  # a residual is one more product, by the identity
        assert_product(y, inputs, torch.cat([weight * mask.keep, torch.eye(14).to(dtype)], 1), bias)


@pytest.mark.parametrize("kernel", [k for k in EVERY_KERNEL if k not in KERNELS], ids=lambda k: k.name)
@pytest.mark.parametrize("batch", [1, 3, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_kernels_of_8_bits_refuse_in_a_sentence_or_multiply_exact_integers(kernel, batch, dtype):
    assert re.fullmatch(rf"{kernel.format.name}_(mv|mm|linear)_(native|reference)", kernel.name)
    for pattern, sparsity in PATTERNS:
        mask, weight = random_mask((14, 22), pattern, sparsity), random_weight((14, 22), dtype)
        if kernel.format.accepts(mask) is not None:
            continue
        packed = kernel.format.pack(weight, mask)
        refusal = kernel.refuses(Problem(packed, batch))
        if refusal is not None:
            assert len(str(refusal).split()) > 3
            continue
        x, bias = torch.randn(batch, 22).to(dtype), torch.randn(14).to(dtype)
        assert_integer_product(kernel.bind(packed)(x, bias), packed, x, bias)


def test_gradient_kernels_are_named_like_the_others_and_end_with_a_reference_per_format():
    names = [kernel.name for kernel in GRADIENT_KERNELS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(rf"{k.format.name}_gradients_(native|reference|triton)", k.name) for k in GRADIENT_KERNELS)
    assert GRADIENT_KERNELS[-len(FORMATS) :] == REFERENCE_GRADIENT_KERNELS
    assert {kernel.format for kernel in REFERENCE_GRADIENT_KERNELS} == set(FORMATS)


@pytest.mark.parametrize("kernel", GRADIENT_KERNELS, ids=lambda k: k.name)
@pytest.mark.parametrize("batch", [1, 3, 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_refuses_in_a_sentence_or_gives_both_gradients(kernel, batch, dtype):
    for pattern, sparsity in PATTERNS:
        mask, weight = random_mask((14, 22), pattern, sparsity), random_weight((14, 22), dtype)
        if kernel.format.accepts(mask) is not None:
            continue
        packed = kernel.format.pack(weight, mask)
        refusal = kernel.refuses(Problem(packed, batch))
        if refusal is not None:
            assert len(str(refusal).split()) > 3
            continue
        x, grad = random_weight((batch, 22), dtype, 1), random_weight((batch, 14), dtype, 2)
        gradients = kernel.bind(packed, {})
        assert_product(gradients.of_x(grad), grad, (weight * mask.keep).T)
        floating = {name: t for name, t in packed.tensors().items() if t.is_floating_point()}
        ones = {name: torch.ones_like(tensor) for name, tensor in floating.items()}
        kept = packed.from_parts({**packed.tensors(), **ones}, packed.integers()).unpack().bool()
        parts = {name: gradients.of_part(grad, x, name) for name in floating}
        assert all(parts[name].shape == t.shape for name, t in floating.items())
        found = packed.from_parts({**packed.tensors(), **parts}, packed.integers()).unpack()
        assert not torch.count_nonzero(found[~kept])
        assert_product(torch.where(kept, found, grad.T @ x), grad.T, x.T)


def test_candidates_leave_out_what_cannot_pay():
    weight, mask = random_weight((14, 22)), random_mask((14, 22), Unstructured(), 0.5)
    names = [kernel.name for kernel, _ in candidates(weight, mask, 3)]
    assert "dense_linear_reference" in names
    assert not {"csr_linear_reference", "bitmask_linear_reference", "block_csr_mm_native"} & set(names)
    dense = random_mask((14, 22), Unstructured(), 0.0)
    assert all(name.startswith("dense") for name in (k.name for k, _ in candidates(weight, dense, 3)))


def test_nothing_is_packed_for_kernels_that_run_elsewhere(monkeypatch):
    monkeypatch.setattr(DeltaCSR, "pack", lambda weight, mask: pytest.fail("packed for a GPU that is not there"))
    assert list(candidates(random_weight((14, 22)), random_mask((14, 22), Unstructured(), 0.5), 3))
