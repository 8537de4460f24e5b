"""What is measured on a GPU, and what each case has to reach.

Every speedup is over cuBLAS in the same dtype, with the weight out of the second-level cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from sparsekit.bench.problems import ConvLayer
from sparsekit.patterns import NM, AllTaps, Block, Pattern, Unstructured

FEW = 64
"""Tokens up to which a layer is timed as a stack of layers, since one alone is too short."""

CUSPARSELT, CUSPARSELT_SEARCHED = "cusparselt", "cusparselt, searched"
BSR, BSR_TUNED = "bsr_dense_addmm", "bsr_dense_addmm, tuned"
CUSPARSE = "cusparse csr"
"""Names of the peers."""


@dataclass(frozen=True)
class Floor:
    """What the fastest kernel of a case promises; None promises nothing.

    Args:
        dense: the speedup over the fastest dense way.
        peers: the speedup over peers, by name.
    """

    dense: float | None = None
    peers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class GpuLinear:
    """One product ``(batch, columns) @ (rows, columns).T``.

    Args:
        pattern: how the weight is pruned.
        batch: tokens, M.
        columns: inputs, K.
        rows: outputs, N.
        floors: by sparsity; one entry where the pattern fixes it.
        dtype: of all operands.
        tunes_peer: whether torch's block-sparse kernel is tuned too, which takes a minute.
        backward: whether the gradients are measured, and not the product.
    """

    pattern: Pattern
    batch: int
    columns: int
    rows: int
    floors: Mapping[float, Floor]
    dtype: torch.dtype = torch.bfloat16
    tunes_peer: bool = False
    backward: bool = False

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        what = "gradients " if self.backward else ""
        return f"{what}{self.pattern} {dtype} M={self.batch} K={self.columns} N={self.rows}"


@dataclass(frozen=True)
class GpuConv:
    """One convolution of ``batch`` images.

    Args:
        layer: what is convolved.
        pattern: how the weight is pruned.
        floors: by sparsity.
        batch: images.
        dtype: of all operands.
    """

    layer: ConvLayer
    pattern: Pattern
    floors: Mapping[float, Floor]
    batch: int = 32
    dtype: torch.dtype = torch.bfloat16

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.layer} {self.pattern} {dtype} batch {self.batch}"


GpuCase = GpuLinear | GpuConv


def _blocks(side: int, batch: int, size: int, tunes_peer: bool = False) -> GpuLinear:
    dense = {0.7: 1.5, 0.9: 3.5} if side == 32 else {0.5: 1.5, 0.8: 3.5, 0.9: 6.0}
    floors = {zeros: Floor(floor, {BSR: 2.0, BSR_TUNED: 1.15}) for zeros, floor in dense.items()}
    return GpuLinear(Block(side, side), batch, size, size, floors, tunes_peer=tunes_peer)


def _two_of_four(batch: int, size: int) -> GpuLinear:
    few = {1: 1.55, 16: 1.4}
    peers = {CUSPARSELT_SEARCHED: 1.5 if batch in few else 0.95}
    return GpuLinear(NM(2, 4), batch, size, size, {0.5: Floor(few.get(batch, 1.3), peers)})


def _unstructured(batch: int, size: int) -> GpuLinear:
    dense = {0.5: 1.35, 0.7: 2.0, 0.9: 3.5}
    floors = {zeros: Floor(floor, {CUSPARSE: 2.0}) for zeros, floor in dense.items()}
    return GpuLinear(Unstructured(), batch, size, size, floors)


def _backward(side: int) -> GpuLinear:
    return GpuLinear(Block(side, side), 4096, 4096, 4096, {0.5: Floor(), 0.8: Floor(), 0.9: Floor()}, backward=True)


def _convolution(side: int) -> GpuConv:
    floors = {0.5: Floor(), 0.8: Floor(), 0.9: Floor()}
    return GpuConv(ConvLayer(256, 256, 3, 28), AllTaps(Block(side, side)), floors)


GPU_CASES: tuple[GpuCase, ...] = (
    *(_blocks(64, 4096, 4096), _blocks(128, 4096, 4096), _blocks(32, 4096, 4096)),
    *(_two_of_four(1, 4096), _two_of_four(16, 4096), _two_of_four(4096, 4096)),
    *(_unstructured(1, 4096), _unstructured(16, 4096)),
    *(_backward(64), _convolution(32)),
    *(_blocks(64, 1024, 4096), _blocks(128, 1024, 4096), _blocks(32, 1024, 4096), _two_of_four(1024, 4096)),
    *(_unstructured(1, 8192), _unstructured(16, 8192), _two_of_four(1, 8192), _two_of_four(16, 8192)),
    *(_two_of_four(4096, 8192), _two_of_four(1024, 8192)),
    *(_blocks(64, 4096, 8192), _blocks(128, 4096, 8192), _blocks(32, 4096, 8192)),
    *(_blocks(64, 1024, 8192), _blocks(128, 1024, 8192), _blocks(32, 1024, 8192)),
    *(_backward(32), _convolution(64)),
    *(_blocks(64, 1024, 4096, tunes_peer=True), _blocks(32, 1024, 4096, tunes_peer=True)),
)
"""What matters most comes first: the time may end before the cases do."""

QUICK_GPU_CASES: tuple[GpuCase, ...] = GPU_CASES[:10]

_DTYPES = (torch.float32, torch.bfloat16)
_ANY = Floor(1.0, {BSR: 1.0, CUSPARSELT_SEARCHED: 1.0, CUSPARSE: 1.0})
DRY_GPU_CASES: tuple[GpuCase, ...] = (
    *(GpuLinear(Block(16, 16), batch, 64, 48, {0.5: _ANY}, dtype) for batch in (3, 80) for dtype in _DTYPES),
    GpuLinear(NM(2, 4), 3, 64, 48, {0.5: _ANY}),
    GpuLinear(Unstructured(), 2, 64, 48, {0.5: _ANY, 0.9: Floor()}, torch.float32),
    GpuLinear(Block(16, 16), 33, 64, 48, {0.5: Floor()}, torch.float32, backward=True),
    GpuLinear(Block(16, 16), 80, 64, 48, {0.5: _ANY}, tunes_peer=True),
    GpuConv(ConvLayer(32, 32, 3, 6), AllTaps(Block(16, 16)), {0.5: Floor()}, 2, torch.float32),
)
"""Small ones, which show on any machine that a run goes through."""
