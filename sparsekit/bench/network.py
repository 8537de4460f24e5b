"""Whole convolutional networks, compiled against the fastest dense way, in one process and interleaved."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from sparsekit.bench.linear import Tell
from sparsekit.bench.problems import NetworkCase
from sparsekit.bench.results import Row
from sparsekit.demo.cnn.networks import images, load_network, thin_out
from sparsekit.demo.cnn.race import Race
from sparsekit.errors import KernelError
from sparsekit.planning import compile as compile_model

BUDGET_S = 12.0
CLOSE = 1e-4
"""How far a compiled network's outputs may be from the eager ones, relative to the largest of them."""


def run_networks(cases: Sequence[NetworkCase], tell: Tell = lambda _: None) -> Iterator[Row]:
    """Prune, compile, check and time each network; its first and its depthwise convolutions stay dense.

    Yields:
        One row per case and number of threads; "dense" is the fastest way to run the network unpruned: eager, frozen or
        compiled by torch.

    Raises:
        KernelError: a compiled network computes something else than the pruned one.
    """
    before = torch.get_num_threads()
    try:
        for name, threads in dict.fromkeys((case.network, threads) for case in cases for threads in case.threads):
            torch.set_num_threads(threads)
            tell(f"{name}, dense ways, {threads} thread{'s' if threads > 1 else ''}")
            dense, example = load_network(name), images()
            race = Race(dense, example, BUDGET_S, inductor=True)
            for case in cases:
                if case.network == name and threads in case.threads:
                    tell(f"{case}, {threads} thread{'s' if threads > 1 else ''}")
                    yield _time(case, race, threads)
    finally:
        torch.set_num_threads(before)


def _time(case: NetworkCase, race: Race, threads: int) -> Row:
    pruned = copy.deepcopy(race.dense)
    thin_out(pruned, case.pattern, case.sparsity)
    fast = compile_model(pruned, race.example)
    expect_close(case.network, fast, pruned, race.example)
    found = race.row(str(case), (pruned, fast), seconds=0.0)
    return Row(
        case=str(case),
        sparsity=case.sparsity,
        threads=threads,
        kernel="compile",
        seconds=found.sparse_ms / 1e3,
        dense_kernel=found.dense_way,
        dense_seconds=found.dense_ms / 1e3,
        floor=case.floor,
    )


def expect_close(name: str, fast: nn.Module, eager: nn.Module, example: Tensor) -> None:
    """Raise :class:`KernelError` unless both give the same for ``example``, up to the roundings of many layers."""
    with torch.inference_mode():
        expected = eager(example)
        error = ((fast(example) - expected).abs().max() / expected.abs().max()).item()
    if not error <= CLOSE:
        raise KernelError(f"compiled {name}: expected outputs within {CLOSE} of eager, got {error:.2g}")
