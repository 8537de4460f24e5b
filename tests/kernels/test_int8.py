"""Products by 8-bit weights against exact integers, in every instruction set."""

import pytest
import torch

from sparsekit.formats import QUANTIZED_FORMATS, Int8Bitmask, Int8BlockCSR, Int8Dense
from sparsekit.kernels import QUANTIZED_REFERENCE_KERNELS
from sparsekit.kernels.native import NATIVE_INT8_KERNELS, describe
from sparsekit.patterns import Block, Unstructured
from tests.numerics import assert_within
from tests.weights import random_mask, random_weight

ISAS = ("scalar", "avx2", "avx512", "avx512vnni", "avx512vbmi2")


def exact(packed, x, bias):
    """The product and the bound of its four roundings, in float64."""
    size = x.double().abs().amax(dim=1, keepdim=True)
    inverse = (127 / size).float().double()
    integers = (x.double() * inverse).float().double().round()
    steps = (size / 127).float().double()
    weight = packed.integer_matrix(torch.float64)
    product = (integers @ weight.T) * steps * packed.scales.double()
    return product + bias.double(), 6 * torch.finfo(torch.float32).eps * (product.abs() + bias.double().abs())


def pattern_for(family):
    return Block(16, 8) if family is Int8BlockCSR else Unstructured()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", [*NATIVE_INT8_KERNELS, *QUANTIZED_REFERENCE_KERNELS], ids=lambda k: k.name)
def test_integer_products_are_exact(kernel, isa, monkeypatch):
    monkeypatch.setenv("SPARSEKIT_ISA", isa)
    if describe()["in_use"].get("int8_block_csr") is None:
        pytest.skip("the extension is not built")
    for rows, columns in ((1, 1), (17, 31), (64, 128), (67, 131)):
        for batch in (1, 2, 3, 4) if kernel.format is Int8Bitmask else (1, 2, 3, 4, 5, 9, 16, 17, 37):
            mask = random_mask((rows, columns), pattern_for(kernel.format), 0.5, batch)
            packed = kernel.format.pack(random_weight((rows, columns), seed=batch), mask)
            x, bias = random_weight((batch, columns), seed=1), random_weight((rows,), seed=2)
            assert_within(kernel.bind(packed)(x, bias), *exact(packed, x, bias))


@pytest.mark.parametrize("family", QUANTIZED_FORMATS, ids=lambda f: f.name)
def test_weights_are_rounded_by_half_a_step_and_only_once(family):
    assert {Int8Dense, Int8Bitmask, Int8BlockCSR} == set(QUANTIZED_FORMATS)
    mask, weight = random_mask((37, 50), pattern_for(family), 0.5), random_weight((37, 50))
    packed = family.pack(weight, mask)
    packed.validate()
    error = (packed.unpack() - weight * mask.keep).abs()
    assert bool((error <= packed.scales[:, None] / 2).all())
    assert not bool(packed.unpack()[~mask.keep].any())
    again = family.pack(packed.unpack(), mask)
    assert all(torch.equal(part, again.tensors()[name]) for name, part in packed.tensors().items())
