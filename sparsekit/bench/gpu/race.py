"""Ways to compute one case, each checked, then timed in the same rounds with the weight out of the caches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparsekit.bench.gpu.cases import FEW, Floor
from sparsekit.bench.gpu.exact import Exact, poisoned, rounds_once
from sparsekit.bench.gpu.rows import KERNEL, rows_of
from sparsekit.bench.gpu.session import NotingClock, Session
from sparsekit.kernels.gpu import gpu_of
from sparsekit.kernels.timing import Call, fastest

CACHES = 2.5
"""The weights of a stack of layers fill the second-level cache so many times."""

MOST_LAYERS = 32

Make = Callable[[], Callable[[], Tensor]]
"""Binds one layer, with a weight of its own; the result computes the case with it."""


@dataclass(frozen=True)
class About:
    """What is to be known of a way beside its name.

    Args:
        kind: as in :class:`~sparsekit.bench.gpu.rows.GpuRow`.
        exact: what it has to compute.
        nbytes: of its weight.
        operations: two per kept weight and token.
        traffic: bytes of input and output.
    """

    kind: str
    exact: Exact
    nbytes: int
    operations: float
    traffic: int


@dataclass
class Race:
    """The ways to compute one case.

    Args:
        case: what it is called.
        tokens: of the input; few are timed through a stack of layers, and more through one, the caches emptied before
            each call.
        x: the activations.
        session: where.
    """

    case: str
    tokens: int
    x: Tensor
    session: Session
    calls: dict[tuple[float, str], Call] = field(default_factory=dict)
    about: dict[tuple[float, str], dict[str, Any]] = field(default_factory=dict)

    def enter(self, way: str, sparsity: float, about: About, make: Make) -> None:
        """Let a way take part, unless it raises or is wrong, which is logged, or has failed before."""

        def bind() -> list[Callable[[], Tensor]]:
            first = make()
            with poisoned():
                y = first()
            about.exact.expect(way, y, lenient=about.kind != KERNEL or not rounds_once(way))
            layers = [first, *(make() for _ in range(self._layers(about.nbytes) - 1))]
            _stack(layers)()  # what raises should do so here, where only this way is lost
            return layers

        if way in self.session.log.failed():
            return
        layers = self.session.attempt(way, bind, lambda reason: self._absent(way, sparsity, about.kind, reason))
        if layers is not None:
            self.calls[sparsity, way] = _stack(layers)
            self.about[sparsity, way] = {
                "kind": about.kind,
                "operations": about.operations,
                "bytes": about.nbytes + about.traffic,
                "layers": len(layers),
            }

    def run(self, floors: Mapping[float, Floor]) -> None:
        """Time all that takes part and log their rows."""
        self.session.start("timing")
        clock, names = NotingClock(self.session.clock), {f"{way} {zeros}": (zeros, way) for zeros, way in self.calls}
        before = None if self.tokens <= FEW else clock.eviction(clock.evicted, self.x)
        with torch.no_grad():
            budget = self.session.seconds * max(len(floors), 1)
            found = fastest({name: self.calls[key] for name, key in names.items()}, budget, before, clock)
        for key, call in self.calls.items():
            self.about[key]["captured"] = call not in clock.as_called
        times = {key: found[name] / self.about[key]["layers"] for name, key in names.items()}
        for row in rows_of(self.case, floors, times, self.about):
            self.session.log.add("row", row=row.as_json())

    def _layers(self, nbytes: int) -> int:
        if self.tokens > FEW:
            return 1
        cache = gpu_of(self.session.device).cache_bytes
        return min(MOST_LAYERS, max(2, math.ceil(CACHES * cache / max(nbytes, 1))))

    def _absent(self, way: str, sparsity: float, kind: str, reason: str) -> None:
        where = f"{self.case}, {sparsity:.0%} zeros"
        self.session.log.add("wrong" if kind == KERNEL else "absent", case=where, way=way, reason=reason)


def _stack(layers: list[Callable[[], Tensor]]) -> Call:
    """Call all layers, one after the other."""
    if len(layers) == 1:
        return layers[0]

    def run() -> None:
        for layer in layers:
            layer()

    return run
