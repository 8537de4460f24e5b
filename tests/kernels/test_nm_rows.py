"""N:M for few tokens: positions are decoded in every form that n and m give them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsekit.errors import FormatError
from sparsekit.formats import NMPacked
from sparsekit.kernels import Problem
from sparsekit.kernels.native.nm import MOST_REACH, NM_MV, reach
from sparsekit.patterns import NM
from tests.kernels.test_native import check, running
from tests.weights import random_mask, random_weight, seeds

ISAS = ("scalar", "avx512")
PAIRS = [(n, m) for m in range(1, 17) for n in range(1, m + 1) if reach(n, m) <= MOST_REACH]


def packed_as(n, m, shape, seed=0):
    return NMPacked.pack(random_weight(shape, seed=seed), random_mask(shape, NM(n, m), 1 - n / m, seed))


def test_reach_counts_the_columns_that_a_vector_of_weights_touches():
    for n, m in ((2, 4), (1, 4), (4, 8), (3, 5), (16, 16), (7, 9)):
        spans = []
        for first in range(0, 16 * n, 16):
            groups = {i // n for i in range(first, first + 16)}
            spans.append(len(groups) * m)
        assert reach(n, m) == max(spans)


@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=150, deadline=None)
@given(
    pair=st.sampled_from(PAIRS),
    sizes=st.tuples(st.integers(0, 9), st.integers(0, 40), st.integers(0, 150)),
    options=st.tuples(seeds, st.booleans(), st.sampled_from([1, 2])),
)
def test_product(isa, pair, sizes, options):
    (batch, rows, columns), (seed, with_bias, threads) = sizes, options
    with running(NM_MV, isa, threads):
        bias = random_weight((rows,), seed=seed + 1) if with_bias else None
        check(NM_MV, packed_as(*pair, (rows, columns), seed), random_weight((batch, columns), seed=seed + 2), bias)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_every_pair_at_a_size_of_many_pieces(isa, pair):
    with running(NM_MV, isa, threads=2):
        check(NM_MV, packed_as(*pair, (131, 517)), random_weight((3, 517)), random_weight((131,)))


@pytest.mark.parametrize("isa", ISAS)
def test_inputs_and_parts_of_any_strides(isa):
    packed = packed_as(2, 4, (20, 70))
    apart = {name: torch.stack([part, part], dim=-1)[..., 0] for name, part in packed.tensors().items()}
    with running(NM_MV, isa):
        check(NM_MV, packed.from_parts(apart, packed.integers()), random_weight((70, 3)).T, random_weight((40,))[::2])
        check(NM_MV, packed, random_weight((1, 70)).expand(4, 70))


def test_wide_groups_are_refused_in_a_sentence():
    packed = packed_as(1, 16, (4, 32))
    assert "CSR runs others" in str(NM_MV.refuses(Problem(packed, 1)))
    with pytest.raises(FormatError, match="within 64 columns, got 1 of 16"):
        NM_MV.bind(packed)


def test_a_position_beyond_its_group_is_refused():
    packed = packed_as(2, 3, (4, 30))
    packed.positions[2] = 255
    with pytest.raises(FormatError, match="row 2: expected positions that ascend in a group and lie below 3, got 3"):
        NM_MV.bind(packed)
