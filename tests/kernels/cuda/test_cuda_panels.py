"""The kernels' work on the panels, step by step, on emulated instructions and with the kernels' own index functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsekit.formats import NMPacked
from sparsekit.kernels.cuda import extension
from sparsekit.kernels.cuda.layout import mma_panels, wgmma_panels
from sparsekit.patterns import NM
from tests.kernels.cuda.instructions import (
    floats,
    ldmatrix_x4,
    mma_sp,
    stmatrix_x4_transposed,
    tensor_copy,
    wgmma_sp,
)
from tests.weights import random_mask, random_weight

BUILT = pytest.mark.skipif(extension.MODULE is None, reason=extension.WHY_NOT)
DTYPES = (torch.bfloat16, torch.float16)
BASE = 2048  # where shared memory starts in the emulation


def weights_and_tokens(shape: tuple[int, int], batch: int, dtype: torch.dtype) -> tuple[NMPacked, Tensor, np.ndarray]:
    """A weight, some of whose groups keep fewer than two, tokens, and their product in float64."""
    packed = NMPacked.pack(random_weight(shape, dtype), random_mask(shape, NM(2, 4), 0.1))
    x = random_weight((batch, shape[1]), dtype, seed=1)
    return packed, x, (x.double() @ packed.unpack().double().T).numpy()


def raw(tensor: Tensor) -> np.ndarray:
    return tensor.contiguous().view(torch.uint8).numpy()


def over(value: int, by: int) -> int:
    return -(-value // by)


class Outputs:
    """Outputs ``(batch, rows)``, each of which each of ``parts`` has to write exactly once."""

    def __init__(self, batch: int, rows: int, parts: int) -> None:
        self.sums, self.written, self.parts = np.zeros((batch, rows)), np.zeros((batch, rows), dtype=int), parts

    def add(self, token: int, row: int, value: float) -> None:
        if token < self.sums.shape[0] and row < self.sums.shape[1]:
            self.sums[token, row] += value
            self.written[token, row] += 1

    def check(self, exact: np.ndarray) -> None:
        assert (self.written == self.parts).all()
        np.testing.assert_allclose(self.sums, exact, rtol=1e-10, atol=1e-10)


def mma_stage(packed: NMPacked, x: Tensor, block: int, tile: tuple[int, int], tokens: int) -> np.ndarray:
    """What ``load`` of nm_mma.cu leaves in a stage: eight panels, and chunks of the tokens with zeros outside."""
    places, panels = extension.MODULE.mma, raw(mma_panels(packed)).reshape(-1)
    blocks = over(packed.columns, places.columns)
    found = [places.panel_at(tile[0] * places.warps + warp, block, blocks) for warp in range(places.warps)]
    stage = np.concatenate([panels[at : at + places.panel_bytes] for at in found])
    area = np.full(tokens * places.columns * 2, 0xFF, dtype=np.uint8)
    padded = torch.zeros(over(x.shape[0], tokens) * tokens, blocks * places.columns, dtype=x.dtype)
    padded[: x.shape[0], : x.shape[1]] = x
    stored = raw(padded)
    for token in range(tokens):
        for chunk in range(places.columns // 8):
            at, column = places.chunk_at(token, chunk), (block * places.columns + chunk * 8) * 2
            area[at : at + 16] = stored[tile[1] * tokens + token, column : column + 16]
    return np.concatenate([stage, area])


@BUILT
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "batch", "tokens", "splits"),
    [((20, 24), 3, 8, 1), ((133, 258), 5, 8, 2), ((150, 129), 33, 32, 1), ((17, 140), 66, 64, 2)],
)
def test_mma_reads_its_panels(dtype, shape, batch, tokens, splits):
    packed, x, exact = weights_and_tokens(shape, batch, dtype)
    module, places = extension.MODULE, extension.MODULE.mma
    row_tiles, token_tiles = over(shape[0], module.tile_rows), over(batch, tokens)
    blocks, outputs = over(shape[1], places.columns), Outputs(batch, shape[0], splits)
    for index in range(row_tiles * token_tiles * splits):
        tile = module.tile_of(index % (row_tiles * token_tiles), row_tiles, token_tiles)
        split = index // (row_tiles * token_tiles)
        sums = np.zeros((places.warps, tokens // 8, 32, 4))
        for block in range(module.first_block(split, splits, blocks), module.first_block(split + 1, splits, blocks)):
            stage = mma_stage(packed, x, block, tile, tokens)
            for warp in range(places.warps):
                panel = stage[warp * places.panel_bytes :]
                words = np.stack([panel[places.metadata_at(lane) :][:8] for lane in range(32)]).view(np.uint32)
                for step in range(places.steps):
                    a = floats(np.stack([panel[places.values_at(step, lane) :][:16] for lane in range(32)]), dtype)
                    for n in range(tokens // 8):
                        rows = [places.ldmatrix_at(step, n, lane) for lane in range(32)]
                        b = ldmatrix_x4(stage[places.warps * places.panel_bytes :], rows, dtype)
                        sums[warp, n] += mma_sp(a, b, words[:, step // 2], step % 2)
        for (warp, n, lane, i), value in np.ndenumerate(sums):
            row, token = places.place_of(lane, i)
            outputs.add(tile[1] * tokens + n * 8 + token, tile[0] * module.tile_rows + warp * 16 + row, value)
    outputs.check(exact)


def store(sums: np.ndarray, tile: tuple[int, int], tokens: int, outputs: Outputs) -> None:
    """``store`` of nm_wgmma_sm90a.cu: through the buffer of each warp."""
    module, places = extension.MODULE, extension.MODULE.wgmma
    for warp in range(4 * places.consumers):
        own = sums[32 * warp : 32 * warp + 32]
        for part in range(tokens // places.out_tokens):
            buffer = np.full(places.out_tokens * places.out_pitch // 2, np.nan)
            for tokens8 in range(0, places.out_tokens // 8, 2):
                first = [places.first_sum(part, tokens8, matrix) for matrix in range(4)]
                registers = np.stack([own[:, at : at + 2] for at in first], axis=1)
                rows = [places.stmatrix_at(tokens8, lane) for lane in range(32)]
                stmatrix_x4_transposed(registers, rows, buffer)
            for chunk in range(2 * places.out_tokens):
                token, half = chunk // 2, chunk % 2
                for i, value in enumerate(buffer[(token * places.out_pitch + half * 16) // 2 :][:8]):
                    row = tile[0] * module.tile_rows + warp * 16 + half * 8 + i
                    outputs.add(tile[1] * tokens + part * places.out_tokens + token, row, value)


def multiplied(packed: NMPacked, x: Tensor, tile: tuple[int, int], tokens: int, blocks: range) -> np.ndarray:
    """The accumulators of both warpgroups: stages filled as ``feed`` does, and multiplied as ``sum_up`` does."""
    places, panels = extension.MODULE.wgmma, raw(wgmma_panels(packed)).reshape(-1)
    shared = np.full(BASE + places.shared_bytes(tokens), 0xFF, dtype=np.uint8)
    sums = np.zeros((128 * places.consumers, tokens // 2))
    for turn, block in enumerate(blocks):
        stage = BASE + turn % places.stages(tokens) * places.stage_bytes(tokens)
        at = places.panel_at(tile[0], block, over(packed.columns, places.columns))
        shared[stage : stage + places.panel_bytes] = panels[at : at + places.panel_bytes]
        start = (tile[1] * tokens, block * places.columns * 2)
        copied = tensor_copy(shared, stage + places.panel_bytes, raw(x), (tokens, places.columns * 2), start)
        assert copied + places.panel_bytes == places.stage_bytes(tokens)  # what the barrier is told to expect
        words = [shared[stage + places.metadata_at(thread) :][:4] for thread in range(len(sums))]
        metadata = np.stack(words).view(np.uint32)[:, 0]
        for group in range(places.consumers):
            own = slice(128 * group, 128 * group + 128)
            for step in range(places.steps):
                weights, described = places.weights_at(stage, group, step), (places.tokens_at(stage, step), tokens)
                sums[own] += wgmma_sp(shared, weights, described, metadata[own], step, x.dtype)
    return sums


@BUILT
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "batch", "tokens", "splits"),
    [((20, 24), 3, 128, 1), ((133, 130), 140, 128, 2), ((140, 701), 129, 256, 1)],
)
def test_wgmma_reads_its_panels(dtype, shape, batch, tokens, splits):
    packed, x, exact = weights_and_tokens(shape, batch, dtype)
    module, places = extension.MODULE, extension.MODULE.wgmma
    row_tiles, token_tiles = over(shape[0], module.tile_rows), over(batch, tokens)
    blocks, outputs = over(shape[1], places.columns), Outputs(batch, shape[0], splits)
    for index in range(row_tiles * token_tiles * splits):
        tile = module.tile_of(index % (row_tiles * token_tiles), row_tiles, token_tiles)
        first, last = (module.first_block(index // (row_tiles * token_tiles) + i, splits, blocks) for i in (0, 1))
        sums = multiplied(packed, x, tile, tokens, range(first, last))
        if splits == 1:
            store(sums, tile, tokens, outputs)
            continue
        for (thread, i), value in np.ndenumerate(sums):
            row, token = places.place_of(thread, i)
            outputs.add(tile[1] * tokens + token, tile[0] * module.tile_rows + row, value)
    outputs.check(exact)


@BUILT
@pytest.mark.parametrize(("row_tiles", "token_tiles"), [(1, 1), (3, 5), (8, 2), (19, 4)])
def test_every_tile_is_walked_once(row_tiles, token_tiles):
    walked = [extension.MODULE.tile_of(index, row_tiles, token_tiles) for index in range(row_tiles * token_tiles)]
    assert sorted(walked) == [(row, token) for row in range(row_tiles) for token in range(token_tiles)]


@BUILT
@pytest.mark.parametrize("tokens", [128, 256])
def test_stages_keep_the_swizzles_aligned_and_fit_shared_memory(tokens):
    places = extension.MODULE.wgmma
    assert places.stage_bytes(tokens) % 1024 == 0
    assert places.panel_bytes % 1024 == 0
    assert places.shared_bytes(tokens) + 1024 <= 228 * 1024  # 1024 bytes of a block are the system's


@BUILT
def test_rows_of_matrices_lie_in_different_banks():
    """Eight rows of 16 bytes that one phase of a load or store touches have to cover all 32 banks."""
    mma, wgmma = extension.MODULE.mma, extension.MODULE.wgmma
    for lanes in (range(first, first + 8) for first in range(0, 32, 8)):
        for step in range(mma.steps):
            assert len({mma.ldmatrix_at(step, 1, lane) % 128 // 16 for lane in lanes}) == 8
        assert len({wgmma.stmatrix_at(2, lane) % 128 // 16 for lane in lanes}) == 8
