"""The fastest tile of a kernel for one problem: each is checked, then timed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any

from torch import Tensor

from sparsekit.bench.gpu.exact import Exact, poisoned
from sparsekit.bench.gpu.session import COMPILERS, Session
from sparsekit.kernels.base import PackedProblem, Runs
from sparsekit.kernels.gpu import gpu_of
from sparsekit.kernels.timing import Call, fastest
from sparsekit.kernels.triton.launch import compiling
from sparsekit.kernels.triton.tile import Case, Tile, trying

MOST_TILES = 12
"""Tiles that are tried for one problem; they come with the likeliest first."""

BUDGET_S = 0.15
CONTENDERS = 1.2
"""Only tiles within this factor of the fastest at first look are measured at length."""

Bind = Callable[[], Callable[[], Tensor]]
"""Binds a kernel anew; the result computes what is to be tuned."""


def tune_kernel(
    kernel: Runs[Any], problem: PackedProblem, bind: Bind, exact: Exact, x: Tensor, session: Session
) -> None:
    """Find the fastest tile and log it; nothing happens for a kernel that has no tiles, or but one.

    Args:
        kernel: what is tuned, if it has a ``tiling``.
        problem: what for.
        bind: see :data:`Bind`.
        exact: what is to be computed.
        x: the activations.
        session: where.
    """
    tiling = getattr(kernel, "tiling", None)
    tiles = tiling.tiles(problem, gpu_of(session.device))[:MOST_TILES] if tiling is not None else ()
    if len(tiles) < 2:
        return
    if session.device.type == "cuda":
        with compiling(COMPILERS), suppress(Exception):  # what does not compile says so below
            for tile in tiles:
                with suppress(Exception), trying(tile):
                    bind()()
    calls: dict[Tile, Call] = {}
    cases: list[Case] = []
    for tile in tiles:
        call = session.attempt(
            kernel.name, partial(_checked, bind, tile, exact, cases), partial(_refused, kernel.name, tile, session)
        )
        if call is not None:
            calls[tile] = call
    if calls and cases:
        best, seconds = _fastest(calls, x, session)
        session.log.add("tuned", case=asdict(cases[-1]), tile=asdict(best), seconds=seconds, tried=len(calls))


def _checked(bind: Bind, tile: Tile, exact: Exact, cases: list[Case]) -> Call:
    """Bind with ``tile`` and see that the result is right; adds the cases that the kernel asked a tile for."""
    with trying(tile) as asked:
        call = bind()
        with poisoned():
            y = call()
    exact.expect(str(tile), y)
    cases.extend(asked)
    return call


def _refused(kernel: str, tile: Tile, session: Session, reason: str) -> None:
    session.log.add("wrong", case=str(tile), way=kernel, reason=reason)


def _fastest(calls: dict[Tile, Call], x: Tensor, session: Session) -> tuple[Tile, float]:
    """Return the fastest tile and its seconds, with the weight out of the caches."""
    clock, names = session.clock, {str(number): tile for number, tile in enumerate(calls)}
    before = clock.eviction(clock.evicted, x)
    times = fastest({name: calls[tile] for name, tile in names.items()}, 0.0, before, clock)
    limit = CONTENDERS * min(times.values())
    contenders = {name: calls[names[name]] for name in times if times[name] <= limit}
    times = fastest(contenders, BUDGET_S, before, clock)
    best = next(iter(times))
    return names[best], times[best]
