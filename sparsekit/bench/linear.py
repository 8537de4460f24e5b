"""Products by one packed weight, against every dense way, in one process and interleaved."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from sparsekit.bench.memory import keep_memory
from sparsekit.bench.peers import PEERS, Layer
from sparsekit.bench.peers.presence import bind_peer
from sparsekit.bench.problems import LinearProblem
from sparsekit.bench.results import Notes, Row
from sparsekit.bench.warm_and_cold import Way, time_ways
from sparsekit.bench.weights import WEIGHTS, Expected
from sparsekit.formats import Format
from sparsekit.kernels import Kernel, native
from sparsekit.mask import Mask
from sparsekit.patterns import Pattern

MINUTES = 20.0
PEERS_SHARE = 3
"""What a problem with peers takes of the time, where one without takes 1."""
LOOKING = 0.6
"""Share of the time that is for timing; the rest is for packing, compiling and checking."""
FIRST_ROWS = 64
"""What a way is called on before a cold call, to have all but the weight in the caches; the weight if it has fewer."""

Tell = Callable[[str], None]


def run_linear(
    problems: Sequence[LinearProblem],
    tell: Tell = lambda _: None,
    minutes: float = MINUTES,
    notes: Notes | None = None,
) -> Iterator[Row]:
    """Check, then time every kernel that runs each problem, and the peers beside it.

    Everything is timed warm and cold, as :func:`~sparsekit.bench.warm_and_cold.time_ways` says, all ways alike and at
    every number of tokens.

    Args:
        problems: what to measure.
        tell: is told in a few words what comes next.
        minutes: what the whole run may take; each problem gets its share of what is left.
        notes: is told which peers there are and what the machine reaches.

    Yields:
        One row per problem, sparsity, number of threads and way, warm, and one cold; dense ways have a sparsity of 0.

    Raises:
        KernelError: a kernel is wrong; it names the kernel, the problem and the error.
    """
    keep_memory()
    before, notes = torch.get_num_threads(), notes or Notes()
    for threads in sorted({threads for problem in problems for threads in problem.threads}):
        notes.peaks[threads] = native.measured_peaks(threads)
    end = time.perf_counter() + 60 * minutes
    left = sum(_share(problem) * len(problem.threads) for problem in problems)
    try:
        for problem in problems:
            tell(f"{problem}, exact results")
            bench = LinearBench(problem)
            for threads in problem.threads:
                torch.set_num_threads(threads)
                tell(f"{problem}, {threads} thread{'s' if threads > 1 else ''}")
                share = max(0.0, end - time.perf_counter()) * _share(problem) / left
                yield from bench.rows(threads, LOOKING * share, notes)
                left -= _share(problem)
    finally:
        torch.set_num_threads(before)


def _share(problem: LinearProblem) -> int:
    return 1 if problem.peers == "none" else PEERS_SHARE


@lru_cache(maxsize=6)
def _mask(pattern: Pattern, shape: tuple[int, int], dtype: torch.dtype, sparsity: float) -> Mask:
    """The mask of one weight, kept for the next number of tokens."""
    if sparsity == 0.0:
        return Mask(torch.ones(shape, dtype=torch.bool))
    keep = pattern.select(_weight(shape, dtype).float().abs(), None if pattern.fixes_sparsity else sparsity)
    return Mask(keep, pattern)


def _weight(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


class LinearBench:
    """One problem: its operands, its masks, the packed weights and the exact results, by sparsity."""

    def __init__(self, problem: LinearProblem) -> None:
        kind, generator = WEIGHTS[problem.weights], torch.Generator().manual_seed(1)
        shape = (problem.rows, problem.columns)
        self.problem, self.kind = problem, kind
        self.x = torch.randn(problem.batch, problem.columns, generator=generator).to(kind.dtype)
        self.bias = torch.randn(problem.rows, generator=generator).to(kind.dtype)
        self.weight = _weight(shape, kind.dtype)
        self.masks = {s: _mask(problem.pattern, shape, kind.dtype, s) for s in (0.0, *problem.floors)}
        self.expected = {s: Expected(self.x, self._pruned(s), self.bias) for s in self.masks}
        self.packed = dict(self._packed(self.weight, self.masks))
        first_rows = {s: Mask(mask.keep[:FIRST_ROWS], mask.pattern) for s, mask in self.masks.items()}
        self.first_rows = dict(self._packed(self.weight[:FIRST_ROWS], first_rows))

    def _pruned(self, sparsity: float) -> Tensor:
        return torch.where(self.masks[sparsity].keep, self.weight, 0.0)

    def _packed(
        self, weight: Tensor, masks: Mapping[float, Mask]
    ) -> Iterator[tuple[tuple[str, float], tuple[Kernel, Format]]]:
        dense: set[str] = set()
        for sparsity, mask in masks.items():
            for kernel, stored in self.kind.ways(weight, mask, self.problem.batch):
                if sparsity == 0.0:
                    dense.add(kernel.name)
                elif kernel.name in dense:
                    continue
                yield (kernel.name, sparsity), (kernel, stored)

    def rows(self, threads: int, seconds: float, notes: Notes) -> Iterator[Row]:
        """Check all ways, time them in the same rounds and yield their rows.

        Args:
            threads: how many torch uses now.
            seconds: what the timing may take.
            notes: see :func:`run_linear`.
        """
        with torch.no_grad():
            ways = [*self._kernels(), *self._peers(threads, notes.peers)]
            times = time_ways(ways, self.x, seconds)
        peak = notes.peaks.get(threads, {}).get("flops", 0.0)
        for memory, found in times.items():
            for row in self._compared(ways, threads, found, peak):
                yield replace(row, memory=memory)

    def _compared(self, ways: Sequence[Way], threads: int, times: Mapping[str, float], peak: float) -> Iterator[Row]:
        """The row of each way beside the fastest dense one; the fastest of ours at each sparsity has the promise."""
        own = [way for way in ways if not way.version]
        beaten = ways if self.kind.rounds else own  # torch has no dense way in 8 bits that is prepacked as ours are
        dense = min((way for way in beaten if way.sparsity == 0.0), key=lambda way: times[way.key])
        best = {s: min((times[way.key] for way in own if way.sparsity == s), default=0.0) for s in self.masks}
        for way in ways:
            row = self._row(way, threads, times[way.key])
            counts = peak and self.problem.weights == "float32" and not way.rounds
            promised = not way.version and row.seconds == best[way.sparsity]
            yield replace(
                row,
                dense_kernel=dense.name,
                dense_seconds=times[dense.key],
                share_of_peak=row.kept_flops / peak if counts else 0.0,
                floor=self.problem.floors.get(way.sparsity) if promised else None,
            )

    def _kernels(self) -> Iterator[Way]:
        for (name, sparsity), (kernel, stored) in self.packed.items():
            call, first_rows = partial(kernel.bind(stored), self.x, self.bias), None
            self._check(name, sparsity, call(), self.kind.rounds)
            if (name, sparsity) in self.first_rows:
                _, few = self.first_rows[name, sparsity]
                first_rows = partial(kernel.bind(few), self.x, self.bias[:FIRST_ROWS].clone())
            yield Way(name, sparsity, call, first_rows, stored.nbytes)

    def _peers(self, threads: int, told: dict[str, str]) -> Iterator[Way]:
        if self.problem.peers == "none":
            return
        torch.compiler.reset()  # what was compiled for another problem, of which torch keeps only a few
        for peer in PEERS:
            if self.problem.peers == "sparse" and not peer.sparse:
                continue
            for sparsity in self.problem.floors if peer.sparse else (0.0,):
                layer = Layer(self._pruned(sparsity), self.bias, self.x, self.problem.pattern, threads)
                check = partial(self._check, peer.name, sparsity, rounds=peer.rounds or self.kind.rounds)
                call = bind_peer(peer, layer, self.problem.weights, check, told)
                if call is not None:
                    few = replace(layer, weight=layer.weight[:FIRST_ROWS].clone(), bias=self.bias[:FIRST_ROWS].clone())
                    first_rows = bind_peer(peer, few, self.problem.weights, lambda y: None, {})
                    yield Way(peer.name, sparsity, call, first_rows, 0, told[peer.name], peer.own_threads, peer.rounds)

    def _check(self, name: str, sparsity: float, y: Tensor, rounds: bool) -> None:
        self.expected[sparsity].check(f"{self.problem}: {name}", y, rounds)

    def _row(self, way: Way, threads: int, seconds: float) -> Row:
        """What a row says of the way itself."""
        problem, kept = self.problem, self.masks[way.sparsity].nnz
        operations = 2.0 * problem.batch * kept
        in_and_out = self.x.nbytes + problem.batch * problem.rows * self.x.element_size()
        return Row(
            case=str(problem),
            sparsity=way.sparsity,
            threads=threads,
            kernel=way.name,
            seconds=seconds,
            dense_kernel="",
            dense_seconds=0.0,
            kept_flops=operations / seconds,
            dense_flops=2.0 * problem.batch * self.weight.numel() / seconds,
            bandwidth=way.nbytes / seconds,
            peer=way.version,
            weights=problem.weights,
            pattern=str(problem.pattern),
            sizes=(problem.batch, problem.columns, problem.rows),
            kept=kept,
            intensity=operations / (way.nbytes + in_and_out) if way.nbytes else 0.0,
        )
