"""CSR for few tokens: by windows of activations, rows of nearly one length in lockstep, all others one by one."""

from __future__ import annotations

import pytest
import torch

from sparsekit.formats import CSR
from sparsekit.mask import Mask
from tests.kernels.test_native import CSR_MV, ISAS, check, running
from tests.weights import random_weight


def with_lengths(lengths, columns):
    """A CSR weight whose rows keep so many columns each, at random."""
    keep = torch.zeros(len(lengths), columns, dtype=torch.bool)
    for row, length in enumerate(lengths):
        keep[row, torch.randperm(columns)[:length]] = True
    return CSR.pack(random_weight((len(lengths), columns)), Mask(keep))


@pytest.mark.parametrize("isa", ISAS[:3])
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 127, 128, 129, 300])
@pytest.mark.parametrize("spread", [0, 3])
def test_rows_of_nearly_one_length(isa, rows, spread):
    lengths = [120 + int(n) for n in torch.randint(spread + 1, (rows,))]
    packed = with_lengths(lengths, 257)
    for threads, batch in ((1, 1), (2, 3), (1, 5)):
        with running(CSR_MV, isa, threads):
            check(CSR_MV, packed, random_weight((batch, 257)), random_weight((rows,)))


@pytest.mark.parametrize("isa", ISAS[:3])
@pytest.mark.parametrize("columns", [2**16, 2**16 + 1])
def test_lockstep_reaches_as_far_as_16_bits(isa, columns):
    packed = with_lengths([columns // 5] * 16, columns)
    with running(CSR_MV, isa):
        check(CSR_MV, packed, random_weight((1, columns)))


@pytest.mark.parametrize("isa", ISAS[:3])
def test_rows_of_many_lengths(isa):
    packed = with_lengths([0, 100, 1, 3, 4, 5, 15, 16, 17, 99, 0, 20] * 12, 100)
    with running(CSR_MV, isa, threads=2):
        for batch in (1, 4):
            check(CSR_MV, packed, random_weight((batch, 100)), random_weight((144,)))


@pytest.mark.parametrize("batch", [0, 1, 2, 3])
@pytest.mark.parametrize("columns", [1, 15, 16, 63, 64, 65, 79, 81, 128, 333, 2**16])
def test_windows_reach_every_column_and_none_beyond(columns, batch):
    packed = with_lengths([columns - columns // 4] * 17, columns)
    beside = torch.full((batch + 2, columns + 70), torch.nan)
    x = beside[1 : batch + 1, 3 : columns + 3]
    x.copy_(random_weight((batch, columns)))
    with running(CSR_MV, "avx512"):
        check(CSR_MV, packed, x, random_weight((17,)))


def scattered(rows):
    """Rows that keep one column in three, some hardly any, and one all of them."""
    keep = torch.rand(rows, 400) < torch.tensor([0.3, 0.33, 0.01]).repeat(rows)[:rows, None]
    keep[rows // 2] = True
    return keep


def apart(rows):
    """Rows of one length whose columns are far from each other's: a window would serve one of them."""
    keep = torch.zeros(rows, 64 * rows, dtype=torch.bool)
    for row in range(rows):
        keep[row, 64 * row : 64 * row + 40] = True
    return keep


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("rows", [5, 16, 130])
@pytest.mark.parametrize("made", [scattered, apart])
def test_rows_that_fit_windows_badly(made, rows, batch):
    keep = made(rows)
    packed = CSR.pack(random_weight(tuple(keep.shape)), Mask(keep))
    with running(CSR_MV, "avx512", threads=2):
        check(CSR_MV, packed, random_weight((batch, keep.shape[1])), random_weight((rows,)))
