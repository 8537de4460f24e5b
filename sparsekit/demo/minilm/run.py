"""The main job: prune a real model by several recipes, compile each, and say what it cost and what it brought."""

from __future__ import annotations

import copy
import re
import time
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

from sparsekit.checkpoint import save
from sparsekit.demo.chart import draw
from sparsekit.demo.minilm.corpus import Corpus, load_corpus
from sparsekit.demo.minilm.distill import distill
from sparsekit.demo.minilm.encoder import Encoder, load_minilm
from sparsekit.demo.minilm.fidelity import Examination
from sparsekit.demo.minilm.recipes import Recipe, Settings
from sparsekit.demo.minilm.report import EncoderReport, EncoderRow
from sparsekit.demo.progress import Tell, bars, teller
from sparsekit.formats import Dense
from sparsekit.kernels.timing import fastest
from sparsekit.nn import PackedLayer
from sparsekit.planning import compile as compile_model
from sparsekit.planning.machine import describe_machine
from sparsekit.pruning import prune

EXAMPLE_TEXTS, EXAMPLE_TOKENS = 8, 128
CALIBRATION_TOKENS, LEARNING_TOKENS = 128, 48
BATCH_TOKENS = 1024
"""Tokens in a batch that is learned from or calibrated with."""
SCORE = "cosine to the dense embedding, held-out text"


def run_demo(settings: Settings, out: Path, console: Console, encoder: Encoder | None = None) -> EncoderReport:
    """Run every recipe of ``settings``, print the table, and write it to ``out`` with the chart and the models.

    Args:
        settings: what to try, and on how much text.
        out: folder for ``demo.json``, ``demo.png`` and one ``.safetensors`` file per recipe; made where missing.
        console: where the progress and the table go.
        encoder: the dense encoder; None loads MiniLM.
    """
    out.mkdir(parents=True, exist_ok=True)
    with bars(console) as progress:
        task = progress.add_task("model and text", total=None)
        dense = encoder or load_minilm()
        demo = Demo(settings, dense, load_corpus(), out)
        progress.update(task, total=1.0, completed=1.0)
        rows = [demo.run(recipe, teller(progress, recipe.name)) for recipe in settings.recipes]
    report = EncoderReport(tuple(rows), describe_machine(), f"batch {EXAMPLE_TEXTS} x {EXAMPLE_TOKENS} tokens")
    report.save(out / "demo.json")
    draw(report, [row.cosine for row in report.rows], SCORE, out / "demo.png")
    console.print(report.table())
    for regret in report.regrets():
        console.print(regret, style="yellow")
    console.print(f"Saved {out / 'demo.json'}, {out / 'demo.png'} and the compiled models beside them.")
    return report


class Demo:
    """What all recipes share: the dense model, the text, the judge, and what earlier recipes ended with."""

    def __init__(self, settings: Settings, dense: Encoder, corpus: Corpus, out: Path) -> None:
        self.dense = dense
        self.settings = settings
        self.corpus = corpus
        self.out = out
        self.pruned: dict[str, nn.Module] = {}
        self.examination = Examination(dense, corpus.held_out[: settings.held_out])
        text = " ".join(pair.text for pair in corpus.held_out)
        self.example = dense.sheet(text, EXAMPLE_TEXTS, EXAMPLE_TOKENS)

    def run(self, recipe: Recipe, tell: Tell) -> EncoderRow:
        """Prune, compile, judge, time and save by one recipe."""
        start = time.monotonic()
        model = self.prune(recipe, lambda share: tell(0.8 * share))
        seconds = time.monotonic() - start
        fast = compile_model(model, self.example)
        tell(0.9)
        fidelity = self.examination.judge(self.dense.with_model(fast))
        tell(0.95)
        dense_ms, sparse_ms = self.time(fast)
        row = EncoderRow(
            recipe=recipe.name,
            sparsity=sparsity_of(model),
            cosine=fidelity.cosine,
            retrieval=fidelity.retrieval,
            dense_ms=dense_ms,
            sparse_ms=sparse_ms,
            megabytes=self.save(recipe, fast) / 1e6,
            sparse_layers=sum(isinstance(m, PackedLayer) and m.format is not Dense for m in fast.modules()),
            layers=len(linears(model)),
            seconds=seconds,
        )
        tell(1.0)
        return row

    def prune(self, recipe: Recipe, tell: Tell) -> nn.Module:
        """Return a pruned copy of the dense model, or of what ``recipe`` follows."""
        model = copy.deepcopy(self.pruned.get(recipe.follows, self.dense.model))
        if recipe.pattern is None:
            return model
        texts = self.corpus.calibration
        if recipe.method is not None:
            batches = self.dense.unpadded(texts[: self.settings.calibration], BATCH_TOKENS, CALIBRATION_TOKENS)
            prune(model, recipe.method, pattern=recipe.pattern, sparsity=recipe.sparsity, batches=batches)
        if recipe.course is not None:
            batches = self.dense.unpadded(texts, BATCH_TOKENS, LEARNING_TOKENS)
            distill(model, self.dense.model, batches, recipe.pattern, recipe.course, tell)
        self.pruned[recipe.name] = model
        return model

    def time(self, fast: nn.Module) -> tuple[float, float]:
        """Median milliseconds of one forward pass, of the dense and of the compiled model."""
        with torch.inference_mode():
            seconds = fastest(
                {"dense": lambda: self.dense.model(**self.example), "fast": lambda: fast(**self.example)},
                self.settings.timing_s,
            )
        return 1e3 * seconds["dense"], 1e3 * seconds["fast"]

    def save(self, recipe: Recipe, fast: nn.Module) -> int:
        """Write the compiled model, or for the dense recipe the model as it came, and return the bytes of the file."""
        path = self.out / f"{re.sub('[^a-z0-9]+', '-', recipe.name.lower())}.safetensors"
        if recipe.pattern is None:
            save_file(self.dense.model.state_dict(), path)
        else:
            save(fast, path)
        return path.stat().st_size


def linears(model: nn.Module) -> list[nn.Linear]:
    """Return the layers that the recipes prune."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def sparsity_of(model: nn.Module) -> float:
    """Fraction of zeros in the weights of the Linear layers."""
    weights = [layer.weight for layer in linears(model)]
    return sum(int((w == 0).sum()) for w in weights) / max(1, sum(w.numel() for w in weights))
