"""Text encoders in bfloat16 with blocks of zeros, whole, against every dense way that a user would otherwise pick."""

from __future__ import annotations

import copy
import importlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsekit.batches import call_model
from sparsekit.bench.engines import ENGINES, Call, Exported
from sparsekit.bench.problems import EncoderCase
from sparsekit.bench.results import Row
from sparsekit.demo.installed import expect_transformers
from sparsekit.demo.minilm.encoder import Batch, load_minilm
from sparsekit.errors import InputError, KernelError
from sparsekit.kernels import native
from sparsekit.kernels.timing import fastest
from sparsekit.planning import compile as compile_model
from sparsekit.pruning import Magnitude, prune

BUDGET_S = 15.0
TEXTS, TOKENS = 8, 128
TEXT = "Sparse kernels turn zeros into time. " * 200
FAR = {False: 0.05, True: 1.0}
"""How far a dense way in floating numbers, and one in 8 bits, may be from float32, relative to the states' norm: the
latter is here to be timed, and onnxruntime's ranges are not good ones."""
FARTHER = 1.5
"""How much farther from float32 than eager bfloat16 a compiled sparse model may be."""


def run_encoders(cases: Sequence[EncoderCase], tell: Callable[[str], object] = lambda _: None) -> Iterator[Row]:
    """Prune, compile, check and time each encoder.

    Yields:
        A row per dense way and one per case, by encoder and number of threads. "dense" is the fastest unpruned way in
        floating numbers, by whatever library; ways in 8 bits have rows of their own beside it, since zeros in bfloat16
        are no answer to them. A floor is promised where the kernels of the blocks run on AMX.

    Raises:
        KernelError: a way computes something else.
    """
    before = torch.get_num_threads()
    try:
        for name in dict.fromkeys(case.encoder for case in cases):
            own = [case for case in cases if case.encoder == name]
            with tempfile.TemporaryDirectory() as folder:
                exported = Exported(*load(name), Path(folder))
                for threads in dict.fromkeys(threads for case in own for threads in case.threads):
                    torch.set_num_threads(threads)
                    exported.threads = threads
                    yield from _race(exported, [case for case in own if threads in case.threads], tell)
    finally:
        torch.set_num_threads(before)


def engines_here() -> dict[str, str]:
    """Return, by name, the version of each engine, or why it is absent."""
    return {engine.name: engine.presence[1] for engine in ENGINES}


def load(name: str) -> tuple[nn.Module, Batch]:
    """Return an encoder in float32 and the sheet of tokens that it is timed on.

    Raises:
        InputError: it is unknown, or transformers is not installed.
    """
    if name == "MiniLM":
        encoder = load_minilm()
        return encoder.model.eval(), encoder.sheet(TEXT, TEXTS, TOKENS)
    if name != "BERT-base":
        raise InputError(f"expected an encoder of MiniLM, BERT-base, got {name!r}")
    expect_transformers("a text model")
    transformers = importlib.import_module("transformers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False).eval()
        ids = torch.randint(1000, model.config.vocab_size, (TEXTS, TOKENS))
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _race(exported: Exported, cases: list[EncoderCase], tell: Callable[[str], object]) -> Iterator[Row]:
    torch.compiler.reset()
    name, model, sheet, threads = cases[0].encoder, exported.model, exported.sheet, exported.threads
    case = f"{name}, batch {TEXTS} x {TOKENS} tokens, bfloat16, {cases[0].pattern} in torch.compile"
    tell(f"{name}, dense ways, {threads} threads")
    floating = torch_ways(model, sheet)
    eight_bits: dict[str, Call] = {}
    for engine in ENGINES:
        if engine.presence[0]:
            tell(f"{name}, {engine.name}, {threads} threads")
            (eight_bits if engine.eight_bits else floating)[engine.name] = engine.bind(exported)
    exact = floating["eager"]()
    for way, call in (floating | eight_bits).items():
        _expect_near(f"{name}, {way}", call(), exact, FAR[way in eight_bits])
    ours = {case: _sparse(case, model, sheet, tell) for case in cases}
    ways = floating | eight_bits | {f"sparse {one.sparsity:g}": call for one, call in ours.items()}
    with torch.inference_mode():
        times = fastest(ways, BUDGET_S)
    best = min(floating, key=lambda way: times[way])
    row = Row(case, 0.0, threads, "", 0.0, best, times[best])
    for way in (*floating, *eight_bits):
        yield replace(row, kernel=way, seconds=times[way])
    promised = native.describe()["in_use"].get("block_half", "").startswith("amx")
    for one in ours:
        seconds, floor = times[f"sparse {one.sparsity:g}"], one.floor if promised else None
        yield replace(row, kernel="compile", sparsity=one.sparsity, seconds=seconds, floor=floor)


def torch_ways(model: nn.Module, sheet: Batch) -> dict[str, Call]:
    """Return the dense ways that torch has, by name; without a C++ compiler those of ``torch.compile`` are left out."""
    half = copy.deepcopy(model).bfloat16()
    ways: dict[str, Call] = {"eager": partial(_states, model, sheet), "eager bf16": partial(_states, half, sheet)}
    for name, made in (("bf16 autocast", compiled(model, sheet, autocast=True)), ("bf16", compiled(half, sheet))):
        if made is not None:
            ways[f"torch.compile, frozen, {name}"] = made
    return ways


def compiled(model: nn.Module, sheet: Batch, autocast: bool = False) -> Call | None:
    """Return ``model`` compiled by torch with its constants folded, or None where torch cannot compile."""
    call = partial(_states, torch.compile(model), sheet, autocast)  # type: ignore[arg-type]
    try:
        with torch._inductor.config.patch(freezing=True):
            call()
    except RuntimeError:
        return None
    return call


def _states(model: nn.Module, sheet: Batch, autocast: bool = False) -> Tensor:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        states: Tensor = call_model(model, sheet)[0]
    return states


def _sparse(case: EncoderCase, model: nn.Module, sheet: Batch, tell: Callable[[str], object]) -> Call:
    """The encoder pruned, in bfloat16, its layers compiled by us and what is around them by torch."""
    tell(f"{case.encoder}, {case.sparsity:.0%} zeros, {torch.get_num_threads()} threads")
    pruned = copy.deepcopy(model)
    masks = prune(pruned, Magnitude(), pattern=case.pattern, sparsity=case.sparsity, layers=_in_encoder)
    exact = _states(pruned, sheet)
    half = pruned.bfloat16()
    fast = compile_model(half, sheet, masks)
    call = compiled(fast, sheet) or partial(_states, fast, sheet)
    near = FARTHER * _distance(_states(half, sheet), exact)
    _expect_near(f"compiled {case.encoder}, {case.sparsity:.0%} zeros", call(), exact, near)
    return call


def _distance(states: Tensor, exact: Tensor) -> float:
    return float((states.double() - exact.double()).norm() / exact.double().norm())


def _expect_near(what: str, states: Tensor, exact: Tensor, far: float) -> None:
    distance = _distance(states, exact)
    if not distance <= far:
        raise KernelError(f"{what}: expected states within {far:.2g} of float32, got {distance:.2g}")


def _in_encoder(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and name.startswith("encoder.")
