"""A whole model, compiled against eager, in one process and interleaved."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import nn

from sparsekit.batches import call_model
from sparsekit.bench.encoders import TEXT, TEXTS, TOKENS, run_encoders
from sparsekit.bench.linear import Tell
from sparsekit.bench.problems import EncoderCase, ModelCase
from sparsekit.bench.results import Row
from sparsekit.demo.minilm.encoder import Batch, load_minilm
from sparsekit.errors import KernelError
from sparsekit.kernels.timing import fastest
from sparsekit.planning import compile as compile_model
from sparsekit.pruning import Magnitude, prune

BUDGET_S = 8.0
CLOSE = 1e-3
"""How far a compiled model's outputs may be from the eager ones, absolute; they are of order 1."""


def run_models(cases: Sequence[ModelCase | EncoderCase], tell: Tell = lambda _: None) -> Iterator[Row]:
    """Prune, compile, check and time the sentence encoder for each case in float32, and then those in bfloat16.

    Yields:
        One row per case in float32, for which "dense" is the unpruned model, eager; then what
        :func:`~sparsekit.bench.encoders.run_encoders` yields.

    Raises:
        KernelError: a compiled model computes something else than the pruned one.
    """
    before = torch.get_num_threads()
    encoder = load_minilm()
    model = encoder.model.eval()
    sheet = encoder.sheet(TEXT, TEXTS, TOKENS)
    try:
        for case in cases:
            if isinstance(case, ModelCase):
                torch.set_num_threads(case.threads)
                tell(f"MiniLM, {case.sparsity:.0%} zeros, {case.threads} threads")
                yield _time(model, sheet, case)
    finally:
        torch.set_num_threads(before)
    yield from run_encoders([case for case in cases if isinstance(case, EncoderCase)], tell)


def _time(model: nn.Module, sheet: Batch, case: ModelCase) -> Row:
    pruned = copy.deepcopy(model)
    if case.sparsity:
        prune(pruned, Magnitude(), sparsity=case.sparsity, layers=_in_encoder)
    fast = compile_model(pruned, sheet)
    with torch.inference_mode():
        error = (call_model(fast, sheet)[0] - call_model(pruned, sheet)[0]).abs().max().item()
        if not error <= CLOSE:
            raise KernelError(f"compiled MiniLM: expected outputs within {CLOSE} of eager, got {error:.2g}")
        times = fastest(
            {"eager": partial(call_model, model, sheet), "compiled": partial(call_model, fast, sheet)}, BUDGET_S
        )
    return Row(
        case=f"MiniLM, batch {TEXTS} x {TOKENS} tokens, compiled against eager",
        sparsity=case.sparsity,
        threads=case.threads,
        kernel="compile",
        seconds=times["compiled"],
        dense_kernel="eager",
        dense_seconds=times["eager"],
        floor=case.floor,
    )


def _in_encoder(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and name.startswith("encoder.")
