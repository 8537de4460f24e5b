"""Which tiles blocks are given on GPUs that need not be there."""

import itertools
from dataclasses import replace

import pytest
import torch

from sparsekit.kernels import Problem
from sparsekit.kernels.gpu import H100, Gpu
from sparsekit.kernels.triton import block_csr
from sparsekit.kernels.triton.block_tiles import MOST, BlockWork, block_tiles, runs, sample_tile, shared_bytes
from sparsekit.kernels.triton.tile import Tile
from tests.kernels.triton.blocks import packed_of
from tests.weights import random_weight

H200 = replace(H100, name="NVIDIA H200", cache_bytes=60 << 20)
A100 = Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 166_912, 40 << 20)
SMALL = Gpu("NVIDIA GeForce RTX 3050", (8, 6), 20, 101_376, 2 << 20)
GPUS = (H100, H200, A100, SMALL)


def work_of(batch, high, wide, *, size=4096, density=0.3, bytes=2, exact=False):
    """A product by a square weight."""
    bands = -(-size // high)
    return BlockWork(batch, bands, high, wide, int(density * bands * -(-size // wide)), bytes, exact)


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_every_tile_runs_and_fits(gpu):
    sides, batches = (16, 32, 48, 64, 96, 128, 256, 512), (1, 2, 16, 17, 64, 100, 128, 1000, 4096, 100_000)
    for high, wide, batch, (bytes, exact) in itertools.product(sides, sides, batches, ((2, 0), (4, 0), (4, 1))):
        for density in (0.0, 0.02, 1.0):
            work = work_of(batch, high, wide, density=density, bytes=bytes, exact=bool(exact))
            found = block_tiles(work, gpu)
            assert 1 <= len(found) <= MOST
            assert len(set(found)) == len(found)
            for tile in found:
                assert runs(tile, high, wide)
                assert shared_bytes(tile, bytes, gpu) <= gpu.shared_bytes
                assert tile.splits == 1 or tile.splits <= work.steps(tile)
                sizes = (tile.tokens, tile.outputs, tile.inner)
                assert all(size >= 16 and size & (size - 1) == 0 for size in sizes)
                assert tile.warps in (4, 8)
            sampled = sample_tile(work, gpu)
            assert runs(sampled, high, wide)
            assert shared_bytes(replace(sampled, tokens=sampled.inner, inner=sampled.tokens), bytes, gpu) <= (
                gpu.shared_bytes
            )


@pytest.mark.parametrize(
    ("gpu", "work", "tile"),
    [
        (H200, work_of(4096, 16, 16), Tile(128, 16, 64, 4, 4)),
        (H200, work_of(4096, 32, 32), Tile(128, 32, 64, 4, 4)),
        (H200, work_of(4096, 64, 64), Tile(128, 64, 64, 4, 4)),
        (H200, work_of(4096, 128, 128), Tile(128, 128, 64, 8, 3)),
        (H200, work_of(4096, 48, 48), Tile(128, 16, 16, 4, 4)),
        (H200, work_of(4096, 64, 64, bytes=4), Tile(128, 64, 32, 4, 4)),
        (H200, work_of(4096, 64, 64, bytes=4, exact=True), Tile(64, 64, 16, 4, 4)),
        (H200, work_of(100, 64, 64), Tile(64, 64, 64, 4, 4, splits=2)),
        (H200, work_of(16, 64, 64), Tile(16, 64, 64, 4, 5, splits=4)),
        (H200, work_of(1, 128, 128), Tile(16, 128, 64, 4, 5, splits=5)),
        (A100, work_of(4096, 64, 64), Tile(128, 64, 64, 4, 4)),
        (A100, work_of(4096, 128, 128), Tile(128, 128, 64, 8, 3)),
        (SMALL, work_of(4096, 128, 128), Tile(128, 128, 64, 8, 2)),
    ],
)
def test_the_likeliest(gpu, work, tile):
    assert block_tiles(work, gpu)[0] == tile


def test_sums_are_cut_up_only_where_programs_are_few_and_long():
    assert block_tiles(work_of(16, 64, 64, size=65_536), H200)[0].splits == 1
    assert block_tiles(work_of(16, 64, 64, density=0.03), H200)[0].splits == 1
    assert block_tiles(work_of(16, 64, 64, size=1024, density=1.0), H200)[0].splits == 4


def test_programs_persist_only_where_there_are_many():
    many, few = (block_tiles(work_of(batch, 64, 64), H200) for batch in (4096, 128))
    assert any(tile.persistent for tile in many)
    assert not any(tile.persistent for tile in few)


def test_samples():
    assert sample_tile(work_of(4096, 64, 64), H200) == Tile(64, 64, 64, 4, 4)
    assert sample_tile(work_of(4096, 16, 16), H200) == Tile(64, 16, 64, 4, 4)
    assert sample_tile(work_of(4096, 128, 128), H200) == Tile(64, 128, 128, 8, 3)
    few = sample_tile(work_of(4096, 64, 64, size=256, density=1.0), H200)
    assert few == Tile(64, 64, 64, 4, 4, splits=16)


def test_the_kernel_asks_for_the_tiles_of_its_problem(monkeypatch):
    packed, _ = packed_of((96, 128), (32, 64), torch.float32, "cpu", 0.0)
    monkeypatch.setattr(block_csr, "block_tiles", lambda work, gpu: (work, gpu))
    assert block_csr.tiles(Problem(packed, 9), A100) == (BlockWork(9, 3, 32, 64, 6, 4, True), A100)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert not BlockWork.of(9, 96, (32, 64), packed.values).exact
    finally:
        torch.set_float32_matmul_precision(before)
    assert not BlockWork.of(9, 96, (32, 64), random_weight((6, 64, 32), torch.float16)).exact
