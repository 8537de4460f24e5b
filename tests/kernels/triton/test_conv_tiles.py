"""Which tiles convolutions run by, and what the compiler makes of them."""

from __future__ import annotations

import pytest
import torch

from sparsekit.kernels import Convolution, ConvProblem
from sparsekit.kernels.gpu import H100
from sparsekit.kernels.triton import tiled_conv
from sparsekit.kernels.triton.conv import BLOCK_CSR_CONV, ConvWeight, launches, tiles
from sparsekit.kernels.triton.tile import Case, Tile, TunedTable
from sparsekit.kernels.triton.tiled_conv import case_of, laid_out
from sparsekit.patterns import Block, PerTap
from tests.kernels.triton.compiled import assert_fits, compile_ahead, count
from tests.kernels.triton.convolutions import images_of, packed_of
from tests.numerics import assert_convolution

WIDE = Convolution(64, (3, 3), (1, 1), (1, 1, 1, 1))
ODD = Convolution(40, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), activation="silu")


def problem_of(convolution, outputs, size, dtype=torch.bfloat16, sparsity=0.6):
    return ConvProblem(
        packed_of(PerTap(Block(16, 16)), convolution, outputs, dtype, "cpu", sparsity)[0], convolution, size
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 7, 7), (1, 56, 56), (64, 56, 56)])
@pytest.mark.parametrize(("channels", "outputs"), [(16, 16), (64, 24), (64, 256)])
def test_tiles_are_of_the_problem(channels, outputs, size, dtype):
    convolution = Convolution(channels, (1, 1))
    found = tiles(problem_of(convolution, outputs, size, dtype), H100)
    assert found
    assert len(set(found)) == len(found)
    for tile in found:
        assert tile.tokens < 2 * max(size[0] * size[1] * size[2], 16)
        assert tile.outputs < 2 * outputs
        assert tile.inner < 2 * channels
        assert tile.stages * (tile.tokens + tile.outputs) * tile.inner * dtype.itemsize <= H100.shared_bytes


def test_more_images_take_larger_tiles_and_more_zeros_narrower_ones():
    few, many = (tiles(problem_of(WIDE, 256, (n, 14, 14)), H100)[0] for n in (1, 256))
    assert few.tokens * few.outputs < many.tokens * many.outputs
    kept, gone = (tiles(problem_of(WIDE, 256, (256, 14, 14), sparsity=s), H100)[0] for s in (0.1, 0.95))
    assert gone.outputs < kept.outputs


def test_sums_are_split_only_where_that_keeps_more_multiprocessors_busy():
    deep = Convolution(128, (3, 3), (1, 1), (1, 1, 1, 1))
    few, many = (tiles(problem_of(deep, 128, (n, 28, 28), sparsity=0.1), H100) for n in (1, 32))
    assert any(tile.splits > 1 for tile in few)
    assert all(tile.splits == 1 for tile in many)


def test_a_case_tells_kernels_and_strides_apart_and_counts_the_pixels_of_the_result():
    case = case_of("mine", problem_of(ODD, 48, (3, 10, 13)))
    assert case == Case("mine", "bfloat16", "16x1 3x3 by 2x2", 48, 360, 3 * 5 * 7, case.density)
    assert case.distance(case_of("mine", problem_of(ODD, 48, (6, 10, 13)))) == 1.0


def test_a_tuned_tile_goes_before_the_first(monkeypatch, device):
    packed, weight = packed_of(PerTap(Block(16, 16)), ODD, 48, device=device)
    problem, ran = ConvProblem(packed, ODD, (1, 6, 5)), []
    tuned = Tile(64, 64, 32, stages=2)
    assert tuned not in tiles(problem, H100)
    table = TunedTable({case_of(BLOCK_CSR_CONV.name, problem): tuned})
    monkeypatch.setattr(tiled_conv, "tuned_for", lambda gpu: table)
    cut = ConvWeight.steps
    monkeypatch.setattr(ConvWeight, "steps", lambda self, *sides: ran.append(sides) or cut(self, *sides))
    x = images_of(ODD, (1, 6, 5), device=device)
    assert_convolution(BLOCK_CSR_CONV.bind(packed, ODD)(x, None), x, weight, ODD)
    assert ran == [(64, 32)]


def launches_of(convolution, dtype, tile):
    packed, _ = packed_of(PerTap(Block(16, 16)), convolution, tile.outputs, dtype)
    images = laid_out(images_of(convolution, (1, 8, 8), dtype), None, tile.outputs, convolution)
    return launches(ConvWeight(packed, convolution), images, tile)


@pytest.mark.skipif(torch.cuda.is_available(), reason="compiles for GPUs that are not there")
def test_compiles(monkeypatch):
    halves = launches_of(WIDE, torch.bfloat16, Tile(128, 128, 64, 8))
    odd = launches_of(ODD, torch.float16, Tile(64, 32, 64, 4, 4, splits=4))
    exact = launches_of(WIDE, torch.float32, Tile(128, 64, 16, 8))
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    rounded = launches_of(WIDE, torch.float32, Tile(128, 64, 32, 4, 4))
    cases = [("halves", 80, halves), ("exact", 80, exact)]
    cases += [("halves", 90, halves), ("odd", 90, odd), ("rounded", 90, rounded)]
    for found in compile_ahead(cases):
        assert_fits(found)
        assert count(found, "LDGSTS.E.BYPASS.128") > 0, found
        assert count(found, "LDG.E.U16") == 0, found
        wanted = set() if found["name"] == "exact" else {"HGMMA" if found["capability"] == 90 else "HMMA"}
        assert {unit for unit in ("HGMMA", "HMMA") if count(found, unit)} == wanted, found
