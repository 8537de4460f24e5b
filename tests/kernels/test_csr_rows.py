"""CSR for few tokens: rows of nearly one length run in lockstep, all others one by one."""

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


@pytest.mark.parametrize("isa", ISAS[:2])
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 127, 128, 129, 300])
@pytest.mark.parametrize("spread", [0, 3])
def test_rows_of_nearly_one_length(isa, rows, spread):
    lengths = [120 + int(n) for n in torch.randint(spread + 1, (rows,))]
    packed = with_lengths(lengths, 257)
    for threads, batch in ((1, 1), (2, 3), (1, 5)):
        with running(CSR_MV, isa, threads):
            check(CSR_MV, packed, random_weight((batch, 257)), random_weight((rows,)))


@pytest.mark.parametrize("isa", ISAS[:2])
@pytest.mark.parametrize("columns", [2**16, 2**16 + 1])
def test_lockstep_reaches_as_far_as_16_bits(isa, columns):
    packed = with_lengths([columns // 5] * 16, columns)
    with running(CSR_MV, isa):
        check(CSR_MV, packed, random_weight((1, columns)))


@pytest.mark.parametrize("isa", ISAS[:2])
def test_rows_of_many_lengths(isa):
    packed = with_lengths([0, 100, 1, 3, 4, 5, 15, 16, 17, 99, 0, 20] * 12, 100)
    with running(CSR_MV, isa, threads=2):
        for batch in (1, 4):
            check(CSR_MV, packed, random_weight((batch, 100)), random_weight((144,)))
