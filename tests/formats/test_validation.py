"""Indices that no pack writes are found before a kernel reads them."""

from __future__ import annotations

import pytest
import torch

from sparsekit.errors import FormatError
from sparsekit.formats import CSR, Bitmask, BlockCSR, DeltaCSR, NMPacked
from sparsekit.patterns import NM, Block, Unstructured
from tests.weights import random_mask, random_weight

SHAPE = (8, 22)


def broken(family, pattern, **changed):
    packed = family.pack(random_weight(SHAPE), random_mask(SHAPE, pattern, 0.0))
    tensors = {**packed.tensors(), **{name: change(packed.tensors()[name].clone()) for name, change in changed.items()}}
    return family.from_parts(tensors, packed.integers())


def put(index, value):
    def change(tensor):
        tensor[index] = torch.tensor(value).to(tensor.dtype)
        return tensor

    return change


@pytest.mark.parametrize(
    ("family", "pattern", "part", "change", "message"),
    [
        (CSR, Unstructured(), "row_offsets", put(0, 1), "offsets from 0 to 176, got 1 to 176"),
        (CSR, Unstructured(), "row_offsets", put(-1, 177), "got 0 to 177"),
        (CSR, Unstructured(), "row_offsets", put(3, 5), "never decrease"),
        (CSR, Unstructured(), "column_indices", put(5, 22), r"in \[0, 22\), got 22"),
        (CSR, Unstructured(), "column_indices", put(5, 4), "ascend within each row"),
        (BlockCSR, Block(4, 4), "block_offsets", put(1, 13), "never decrease"),
        (BlockCSR, Block(4, 4), "block_indices", put(5, 6), r"in \[0, 6\), got 6"),
        (BlockCSR, Block(4, 4), "block_indices", put(5, -1), r"in \[0, 6\), got -1"),
        (BlockCSR, Block(4, 4), "block_indices", put(1, 0), "ascend within each row"),
        (DeltaCSR, Unstructured(), "chunk_offsets", put(-1, 25), "got 0 to 25"),
        (DeltaCSR, Unstructured(), "first_columns", put(5, 20), r"in \[0, 22\), got 22"),
        (DeltaCSR, Unstructured(), "first_columns", put(1, 3), "ascend within each row"),
        (DeltaCSR, Unstructured(), "distances", put((5, 0), 255), r"in \[0, 22\)"),
        (DeltaCSR, Unstructured(), "values", put((2, 7), 1.0), "0 in slots without a weight"),
        (Bitmask, Unstructured(), "row_offsets", put(-1, 3), "got 0 to 3"),
        (Bitmask, Unstructured(), "bits", put((2, 0), 0), "expected 22 bits in row 2 as row_offsets say, got 6"),
        (Bitmask, Unstructured(), "bits", put((2, 1), 2**16 - 1), "spare bits of 0"),
        (NMPacked, NM(2, 4), "positions", put((2, 1), 0), "ascending positions in each group"),
        (NMPacked, NM(2, 3), "positions", put((2, 1), 255), r"in \[0, 3\), got 3"),
    ],
)
def test_validate_finds(family, pattern, part, change, message):
    packed = broken(family, pattern, **{part: change})
    with pytest.raises(FormatError, match=message):
        packed.validate()


@pytest.mark.parametrize(
    ("family", "pattern", "sizes"),
    [
        (NMPacked, NM(2, 4), {"n": 5}),
        (NMPacked, NM(2, 4), {"m": 0}),
        (BlockCSR, Block(4, 4), {"block_rows": 0}),
        (DeltaCSR, Unstructured(), {"bits": 5}),
    ],
)
def test_impossible_sizes_are_refused(family, pattern, sizes):
    packed = family.pack(random_weight(SHAPE), random_mask(SHAPE, pattern, 0.0))
    with pytest.raises(FormatError, match="expected"):
        family.from_parts(packed.tensors(), {**packed.integers(), **sizes})


def test_nm_refuses_groups_wider_than_a_byte():
    assert "8 bits" in str(NMPacked.accepts(random_mask((4, 514), NM(2, 257), 0.0)))
    assert NMPacked.accepts(random_mask((4, 514), NM(2, 256), 0.0)) is None
