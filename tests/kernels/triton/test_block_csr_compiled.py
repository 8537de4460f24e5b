"""What the compiler makes of block CSR, for GPUs that need not be there."""

from dataclasses import replace

import pytest
import torch

from sparsekit.kernels.gpu import H100
from sparsekit.kernels.triton.block_bands import bands_of, transposed_bands_of
from sparsekit.kernels.triton.block_csr import launches
from sparsekit.kernels.triton.block_csr_grad import sampling
from sparsekit.kernels.triton.block_tiles import block_tiles, sample_tile, shared_bytes
from sparsekit.kernels.triton.tiled import Operands
from tests.kernels.triton.blocks import large
from tests.kernels.triton.compiled import assert_fits, compile_ahead, count
from tests.kernels.triton.test_block_tiles import A100, work_of

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="compiles for GPUs that are not there")

GPU = {80: A100, 90: H100}
SIDE = 256
"""Of the weights that are compiled for: it divides as those of the size do that the tiles are chosen for."""


def product(capability, side, batch, transposed=False, activation="none"):
    """The launches of a large product by half precision, and the tile they have."""
    packed, tile = large((side, side)), block_tiles(work_of(batch, side, side), GPU[capability])[0]
    bands = transposed_bands_of(packed, {}) if transposed else bands_of(packed)
    x, bias = torch.zeros(16, SIDE, dtype=torch.bfloat16), torch.zeros(SIDE, dtype=torch.bfloat16)
    return launches(bands, Operands(x, bias, torch.empty_like(x), activation), tile), tile


def sampled(capability, side, rows=SIDE):
    """The launches of the gradient of the values, and their tile, inputs for tokens."""
    packed, tile = large((side, side), side=rows), sample_tile(work_of(4096, side, side), GPU[capability])
    x = torch.zeros(64, rows, dtype=torch.bfloat16)
    return sampling(packed, {}, (x, x), packed.values, tile), replace(tile, tokens=tile.inner, inner=tile.tokens)


CASES = {
    "16": (90, product(90, 16, 4096, activation="relu")),
    "32": (90, product(90, 32, 4096)),
    "64": (90, product(90, 64, 4096)),
    "64 transposed": (90, product(90, 64, 4096, transposed=True)),
    "128": (90, product(90, 128, 4096)),
    "few tokens": (90, product(90, 64, 16)),
    "sampled 32, uneven": (90, sampled(90, 32, rows=240)),
    "sampled 128": (90, sampled(90, 128)),
    "A100 32": (80, product(80, 32, 4096)),
    "A100 64": (80, product(80, 64, 4096)),
    "A100 128": (80, product(80, 128, 4096)),
    "A100 few tokens": (80, product(80, 64, 16)),
    "A100 sampled 64": (80, sampled(80, 64)),
}


@pytest.fixture(scope="module")
def compiled():
    """What the compiler made of each case, by name."""
    cases = [(name, capability, programs) for name, (capability, (programs, _)) in CASES.items()]
    return {found["name"]: found for found in compile_ahead(cases)}


@pytest.mark.parametrize("name", CASES)
def test_fits_and_spills_nothing(name, compiled):
    capability, (_, tile) = CASES[name]
    assert_fits(compiled[name])
    program = compiled[name]["programs"][0]
    assert program["shared"] <= shared_bytes(tile, 2, GPU[capability]) <= 1.05 * program["shared"]


@pytest.mark.parametrize("name", CASES)
def test_multiplies_by_matrix_instructions_while_it_loads(name, compiled):
    capability, (_, tile) = CASES[name]
    found = compiled[name]
    hopper = capability == 90 and tile.tokens >= 64
    assert count(found, "HGMMA" if hopper else "HMMA")
    assert not count(found, "HMMA" if hopper else "HGMMA")
    # Copies go past the registers, and are waited for with some under way.
    assert count(found, "LDGSTS.E.BYPASS.128")
    assert count(found, "LDGSTS") == count(found, "LDGSTS.E.BYPASS.128")
    # One wait for the product of the step before, one at the end: more mean that each waits for the one before.
    assert count(found, "WARPGROUP.DEPBAR") == (2 if hopper else 0)
