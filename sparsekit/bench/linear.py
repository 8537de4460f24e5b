"""Products by one packed weight, against every dense way, in one process and interleaved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from sparsekit.bench.problems import LinearProblem
from sparsekit.bench.results import Row
from sparsekit.bench.rounding import expect_exact
from sparsekit.formats import Dense, Format
from sparsekit.kernels import native
from sparsekit.kernels.candidates import candidates
from sparsekit.kernels.timing import fastest
from sparsekit.mask import Mask

BUDGET_S = 2.0

Tell = Callable[[str], None]


def run_linear(problems: Sequence[LinearProblem], tell: Tell = lambda _: None) -> Iterator[Row]:
    """Check, then time every kernel that runs each problem.

    Args:
        problems: what to measure.
        tell: is told in a few words what comes next.

    Yields:
        One row per problem, sparsity, number of threads and sparse kernel.

    Raises:
        KernelError: a kernel is wrong; it names the kernel, the problem and the error.
    """
    before = torch.get_num_threads()
    peaks = {threads: native.measured_peaks(threads).get("flops", 0.0) for p in problems for threads in p.threads}
    try:
        for problem in problems:
            for threads in problem.threads:
                torch.set_num_threads(threads)
                tell(f"{case_of(problem)}, {threads} thread{'s' if threads > 1 else ''}")
                yield from _time(problem, threads, peaks[threads])
    finally:
        torch.set_num_threads(before)


def case_of(problem: LinearProblem) -> str:
    """How a problem is called in a table."""
    return f"{problem.pattern} M={problem.batch} K={problem.columns} N={problem.rows}"


def _time(problem: LinearProblem, threads: int, peak: float) -> Iterator[Row]:
    """Time all sparsities of a problem in the same rounds as the dense kernels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(problem.batch, problem.columns, generator=generator)
    weight = torch.randn(problem.rows, problem.columns, generator=generator)
    bias = torch.randn(problem.rows, generator=generator)
    calls: dict[tuple[str, float], Callable[[], Tensor]] = {}
    packed: dict[tuple[str, float], Format] = {}
    masks = {0.0: Mask(torch.ones_like(weight, dtype=torch.bool))}
    masks |= {s: Mask(problem.pattern.select(weight.abs(), s), problem.pattern) for s in problem.floors}
    for sparsity, mask in masks.items():
        for kernel, stored in candidates(weight, mask, problem.batch):
            if kernel.format is Dense and sparsity:
                continue
            multiply = kernel.bind(stored)
            check(kernel.name, multiply(x, bias), x, torch.where(mask.keep, weight, 0.0), bias)
            calls[kernel.name, sparsity] = partial(multiply, x, bias)
            packed[kernel.name, sparsity] = stored
    with torch.no_grad():
        times = fastest({f"{name} {s}": call for (name, s), call in calls.items()}, BUDGET_S * len(problem.floors))
    dense = min((name for name, s in calls if s == 0.0), key=lambda name: times[f"{name} 0.0"])
    for (name, sparsity), stored in packed.items():
        if sparsity == 0.0:
            continue
        seconds, operations = times[f"{name} {sparsity}"], 2.0 * problem.batch * masks[sparsity].nnz
        yield Row(
            case=case_of(problem),
            sparsity=sparsity,
            threads=threads,
            kernel=name,
            seconds=seconds,
            dense_kernel=dense,
            dense_seconds=times[f"{dense} 0.0"],
            kept_flops=operations / seconds,
            dense_flops=2.0 * problem.batch * weight.numel() / seconds,
            share_of_peak=operations / seconds / peak if peak else 0.0,
            bandwidth=stored.nbytes / seconds,
            floor=problem.floors[sparsity],
        )


def check(name: str, y: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Raise :class:`KernelError` unless ``y`` is ``x @ weight.T + bias`` up to rounding, element by element."""
    exact = x.double() @ weight.double().T + bias.double()
    expect_exact(name, y, exact, x.double().abs() @ weight.double().abs().T + bias.double().abs())
