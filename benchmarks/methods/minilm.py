"""Every pruning method on a pretrained text encoder, without training: ``python benchmarks/methods/minilm.py``.

MiniLM (22 million parameters), every Linear of its encoder; 256 calibration texts of the standard library per seed,
the same 256 held-out pairs for all. Figures: the mean cosine between the embedding of a held-out text and the dense
model's, and how often a docstring's first sentence finds the rest of it. Rows that are in
``benchmarks/results/methods/minilm.json`` are not measured again: a method that is added costs its own rows only.
"""

import argparse
import copy
import dataclasses
import json
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from minilm_report import draw, table

import sparsekit as sk
from sparsekit.demo.minilm.corpus import load_corpus
from sparsekit.demo.minilm.encoder import load_minilm
from sparsekit.demo.minilm.fidelity import Examination
from sparsekit.planning.machine import commit
from sparsekit.pruning import CRITERIA, SEARCHES, SOLVERS, SampledOutput

RESULTS = Path(__file__).parent.parent / "results" / "methods"
SEEDS = (0, 1, 2)
TEXTS, TOKENS, BATCH_TOKENS = 256, 128, 1024
SETTINGS = {"50%": (sk.Unstructured(), 0.5), "2:4": (sk.NM(2, 4), None), "70%": (sk.Unstructured(), 0.7)}
FILTERS = "ranks whole filters"
UNTRAINED = "is made for models before training"
LEFT_OUT = {
    "BatchNormScale": "the model has no BatchNorm",
    "OBS": "its matrices are too large here",
    "ChannelLasso": "removes whole inputs only",
    "PruningAgents": "needs a task to be rewarded for",
    "AMC": "needs a task to be rewarded for",
    "RandomBernoulli": "is Random in expectation",
    **dict.fromkeys(("FilterNorm", "GeometricMedian", "PCAS", "TaylorActivation", "TaylorGate"), FILTERS),
    "Skeletonization": FILTERS,
    **dict.fromkeys(("SNIP", "IterativeSNIP", "FORCE", "GraSP", "SynFlow"), UNTRAINED),
}
"""Methods that are not asked here, and why."""
GRADIENTS, GRADIENT_TEXTS = {"WoodFisher", "OBERT", "CAP", "CHITA"}, 96
"""Methods that keep gradients of single texts: one seed, and fewer texts."""
SCAN_TEXTS = 32


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to prune."""

    label: str
    method: object
    allocation: object = sk.Uniform()
    permute: bool = False
    texts: int = TEXTS
    seeds: tuple[int, ...] = SEEDS

    def suits(self, setting: str) -> bool:
        """N:M has no budget to share out, and only fixed groups gain from another order of channels."""
        fixed = SETTINGS[setting][0].fixes_sparsity
        shares = isinstance(self.method, sk.pruning.Search) or self.allocation != sk.Uniform()
        return not shares if fixed else not self.permute


def cases() -> Iterator[Case]:
    """Every method that makes sense here with its defaults, and what goes together well."""
    for kind in (*CRITERIA, *SOLVERS, *SEARCHES):
        name = kind.__name__
        if name in GRADIENTS:
            yield Case(name, kind(), texts=GRADIENT_TEXTS, seeds=SEEDS[:1])
        elif name not in LEFT_OUT:
            yield Case(name, kind())
    yield Case("Magnitude, Global", sk.Magnitude(), sk.Global())
    yield Case("LAMP, Global", sk.LAMP(), sk.Global())
    yield Case("Wanda, OWL", sk.Wanda(), sk.OWL())
    yield Case("SparseGPT, OWL", sk.SparseGPT(), sk.OWL())
    scan = sk.Sensitivity(sk.SparseGPT(), levels=(0.4, 0.5, 0.6, 0.7, 0.8, 0.9), by="mse")
    yield Case("SparseGPT, Sensitivity", sk.SparseGPT(), scan)
    yield Case("Magnitude, permuted", sk.Magnitude(), permute=True)
    yield Case("SparseGPT, permuted", sk.SparseGPT(), permute=True)
    best = sk.SparseGPT(**BEST)
    yield Case("SparseGPT, residual targets", best)
    yield Case("SparseGPT, residual targets, Sensitivity", best, scan)
    yield Case("SparseGPT, residual targets, permuted", best, permute=True)


BEST = {"targets": "residual", "damping": 0.05, "steps": 10}
"""The settings of the solver that kept most here."""


class Bench:
    """The model, its texts and its judge."""

    def __init__(self) -> None:
        self.dense = load_minilm()
        self.corpus = load_corpus()
        self.judge = Examination(self.dense, self.corpus.held_out[:TEXTS])
        self.curves: dict[int, object] = {}

    def batches(self, seed: int, count: int) -> list:
        texts = self.corpus.calibration[TEXTS * seed : TEXTS * seed + count]
        return list(self.dense.unpadded(texts, BATCH_TOKENS, TOKENS))

    def measure(self, case: Case, setting: str, seed: int) -> dict:
        """Prune a copy and judge it."""
        model, (pattern, sparsity) = copy.deepcopy(self.dense.model), SETTINGS[setting]
        batches = self.batches(seed, case.texts)
        start = time.perf_counter()
        try:
            if case.permute:
                sk.permute_for(model, pattern, batches[0])
            allocation = self.scanned(case.allocation, seed)
            masks = sk.prune(
                model, case.method, pattern, sparsity, allocation=allocation, batches=batches, loss_fn=SampledOutput()
            )
        except sk.SparsekitError as error:
            return {"refused": str(error)}
        seconds = time.perf_counter() - start
        fidelity = self.judge.judge(self.dense.with_model(model))
        total = sum(mask.keep.numel() for mask in masks.values())
        return {
            "zeros": round(1 - sum(mask.nnz for mask in masks.values()) / total, 4),
            "cosine": round(fidelity.cosine, 4),
            "retrieval": round(fidelity.retrieval, 4),
            "texts": case.texts,
            "seconds": round(seconds, 1),
        }

    def scanned(self, allocation: object, seed: int) -> object:
        """An allocation by sensitivity with its curves, which one scan per seed finds on few texts."""
        if not isinstance(allocation, sk.Sensitivity):
            return allocation
        if seed not in self.curves:
            scan = {"levels": allocation.levels, "by": allocation.by, "batches": self.batches(seed, SCAN_TEXTS)}
            self.curves[seed] = sk.pruning.sensitivity_scan(self.dense.model, allocation.method, **scan)
        return dataclasses.replace(allocation, curves=self.curves[seed])


def run(found: list[dict], seeds: tuple[int, ...], only: set[str]) -> Iterator[list[dict]]:
    """Yield all rows after each new one; refusals are tried again."""
    bench = Bench()
    done = {(row["label"], row["setting"], row["seed"]): row for row in found if "refused" not in row}
    for seed in seeds:
        for case in cases():
            for setting in SETTINGS:
                key = (case.label, setting, seed)
                if key in done or seed not in case.seeds or not case.suits(setting):
                    continue
                if only and case.label not in only:
                    continue
                head = {"label": case.label, "setting": setting, "seed": seed}
                done[key] = head | bench.measure(case, setting, seed)
                print(json.dumps(done[key]), flush=True)
                yield list(done.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "minilm.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--only", nargs="+", default=(), help="labels of rows")
    parser.add_argument("--report", action="store_true", help="measure nothing; write table and picture again")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=sk.SparsekitWarning)
    logging.getLogger("sparsekit").setLevel(logging.ERROR)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    report = json.loads(options.output.read_text()) if options.output.exists() else {"rows": []}
    for rows in () if options.report else run(report["rows"], tuple(options.seeds), set(options.only)):
        report = {"commit": commit() or "unknown", "torch": torch.__version__, "rows": rows}
        options.output.write_text(json.dumps(report, indent=0) + "\n")
    options.output.with_suffix(".md").write_text(table(report, tuple(SETTINGS)))
    draw(report, tuple(SETTINGS), options.output.with_suffix(".png"))
    print(f"{len(report['rows'])} rows in {options.output}")


if __name__ == "__main__":
    main()
