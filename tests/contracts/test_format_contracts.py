"""What every format promises, over the family tuple."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsekit.errors import FormatError, MaskError
from sparsekit.formats import FORMATS, Format
from sparsekit.mask import Mask
from sparsekit.patterns import NM, Block, Unstructured
from tests.weights import (
    FLOATING,
    PATTERNS,
    hard_weight,
    random_mask,
    random_weight,
    same_bits,
    seeds,
    shapes,
    sparsities,
)

every_format = pytest.mark.parametrize("family", FORMATS, ids=lambda f: f.name)


def pattern_for(family: type[Format]):
    return next(p for p in PATTERNS if family.accepts(random_mask((8, 16), p, 0.5)) is None)


def expected(weight, mask):
    return torch.where(mask.keep, weight, torch.zeros((), dtype=weight.dtype))


@every_format
@settings(max_examples=120, deadline=None)
@given(data=st.data(), shape=shapes, sparsity=sparsities, dtype=st.sampled_from(FLOATING), seed=seeds)
def test_round_trip_is_exact(family, data, shape, sparsity, dtype, seed):
    accepted = [p for p in PATTERNS if family.accepts(random_mask((8, 16), p, 0.5)) is None]
    mask = random_mask(shape, data.draw(st.sampled_from(accepted)), sparsity, seed)
    weight = hard_weight(shape, dtype, seed)
    packed = family.pack(weight, mask)
    packed.validate()
    assert same_bits(packed.unpack(), expected(weight, mask))
    again = family.from_parts(packed.tensors(), packed.integers())
    assert same_bits(again.unpack(), expected(weight, mask))
    assert (packed.rows, packed.columns) == shape


@every_format
@pytest.mark.parametrize("shape", [(0, 0), (0, 16), (16, 0), (1, 1), (17, 31)], ids=str)
@pytest.mark.parametrize("sparsity", [0.0, 1.0])
def test_empty_and_full_masks(family, shape, sparsity):
    mask, weight = random_mask(shape, pattern_for(family), sparsity), hard_weight(shape, torch.float32)
    packed = family.pack(weight, mask)
    packed.validate()
    assert same_bits(packed.unpack(), expected(weight, mask))


@every_format
def test_empty_rows(family):
    pattern = pattern_for(family)
    mask, weight = random_mask((64, 64), pattern, 0.5), random_weight((64, 64))
    keep = mask.keep.clone()
    keep[:16] = keep[48:] = False
    assert same_bits(family.pack(weight, Mask(keep, pattern)).unpack(), expected(weight, Mask(keep, pattern)))


@every_format
def test_strided_convolution_weight_that_needs_a_gradient(family):
    mask = random_mask((12, 6 * 9), pattern_for(family), 0.5)
    weight = hard_weight((9, 6, 12), torch.float32).permute(2, 1, 0).requires_grad_()
    shaped = Mask(mask.keep.reshape(12, 6, 9), mask.pattern)
    packed = family.pack(weight, shaped)
    assert same_bits(packed.unpack(), expected(weight.detach(), shaped).reshape(12, 54))
    assert not any(t.requires_grad for t in packed.tensors().values())


@every_format
def test_packing_copies(family):
    weight, mask = random_weight((8, 16)), random_mask((8, 16), pattern_for(family), 0.0)
    packed = family.pack(weight, mask)
    before = packed.unpack().clone()
    weight.zero_()
    packed.unpack().fill_(7.0)
    assert same_bits(packed.unpack(), before)


@every_format
def test_autocast_and_grad_mode_change_nothing(family):
    weight, mask = random_weight((32, 48)), random_mask((32, 48), pattern_for(family), 0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        assert same_bits(family.pack(weight, mask).unpack(), expected(weight, mask))


def test_uninitialised_memory_is_poisoned():
    assert torch.empty(3).isnan().all()
    assert torch.ones(3).new_empty(2, 2).isnan().all()


@every_format
def test_meta_parts_keep_their_shapes(family):
    packed = family.pack(random_weight((8, 16)), random_mask((8, 16), pattern_for(family), 0.5))
    meta = family.from_parts({n: t.to("meta") for n, t in packed.tensors().items()}, packed.integers())
    assert meta.nbytes == packed.nbytes


@every_format
def test_pickles(family):
    packed = family.pack(hard_weight((8, 16), torch.float32), random_mask((8, 16), pattern_for(family), 0.5))
    assert same_bits(pickle.loads(pickle.dumps(packed)).unpack(), packed.unpack())


@every_format
def test_is_a_frozen_dataclass_of_tensors_and_integers(family):
    packed = family.pack(random_weight((8, 16)), random_mask((8, 16), pattern_for(family), 0.5))
    assert set(packed.tensors()) | set(packed.integers()) == {f.name for f in dataclasses.fields(packed)}
    assert all(type(v) is int for v in packed.integers().values())
    assert all(t.is_contiguous() for t in packed.tensors().values())
    assert packed.nbytes == sum(t.nbytes for t in packed.tensors().values())
    assert packed.nbytes == sum(t.untyped_storage().nbytes() for t in packed.tensors().values())
    assert f"{packed.rows} x {packed.columns}" in repr(packed)
    with pytest.raises(dataclasses.FrozenInstanceError):
        packed.rows = 3


@every_format
@pytest.mark.parametrize("pattern", [Unstructured(), NM(2, 4), Block(4, 4)], ids=str)
def test_packs_what_it_accepts_and_refuses_the_rest_in_words(family, pattern):
    weight, mask = random_weight((8, 16)), random_mask((8, 16), pattern, 0.5)
    refusal = family.accepts(mask)
    if refusal is None:
        assert same_bits(family.pack(weight, mask).unpack(), expected(weight, mask))
    else:
        with pytest.raises(FormatError, match="patterns only"):
            family.pack(weight, mask)


@every_format
def test_refuses_integer_weights_and_foreign_masks(family):
    mask = random_mask((8, 16), pattern_for(family), 0.5)
    with pytest.raises(FormatError, match=r"got torch\.int8"):
        family.pack(torch.zeros(8, 16, dtype=torch.int8), mask)
    with pytest.raises(MaskError, match=r"expected a mask of shape \(8, 15\), got \(8, 16\)"):
        family.pack(random_weight((8, 15)), mask)


@every_format
def test_refuses_parts_that_do_not_belong_together(family):
    packed = family.pack(random_weight((8, 16)), random_mask((8, 16), pattern_for(family), 0.5))
    tensors, integers = packed.tensors(), packed.integers()
    for name, tensor in tensors.items():
        with pytest.raises(FormatError, match=f"expected {name} of shape"):
            family.from_parts({**tensors, name: tensor.to(torch.int8)}, integers)
        with pytest.raises(FormatError, match="expected"):
            family.from_parts({**tensors, name: tensor.unsqueeze(0)}, integers)
        with pytest.raises(FormatError, match="expected the parts"):
            family.from_parts({n: t for n, t in tensors.items() if n != name}, integers)
    with pytest.raises(FormatError, match="expected sizes from 0 to 2147483647"):
        family.from_parts(tensors, {**integers, "rows": -1})
    if len(tensors) > 1:
        with pytest.raises(FormatError, match="on one device, got cpu, meta"):
            family.from_parts({**tensors, "values": packed.values.to("meta")}, integers)


@every_format
@pytest.mark.parametrize("weights", [1, 40, 200])
@pytest.mark.parametrize("shape", [(0, 5), (40, 0), (1, 70), (37, 70), (64, 16)], ids=str)
def test_strips_of_any_size_give_the_same_parts(family, weights, shape, monkeypatch):
    accepted = [p for p in PATTERNS if family.accepts(random_mask((8, 16), p, 0.5)) is None]
    for pattern, sparsity in ((pattern, sparsity) for pattern in accepted for sparsity in (0.0, 0.5, 0.95)):
        weight, mask = hard_weight(shape, torch.float32), random_mask(shape, pattern, sparsity)
        whole = family.pack(weight, mask)
        with monkeypatch.context() as patch:
            patch.setattr("sparsekit.formats.strips.STRIP_WEIGHTS", weights)
            packed = family.pack(weight, mask)
        assert packed.integers() == whole.integers()
        for name, tensor in packed.tensors().items():
            same = same_bits if tensor.is_floating_point() else torch.equal
            assert same(tensor, whole.tensors()[name]), name
