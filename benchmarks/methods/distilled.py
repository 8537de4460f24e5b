"""A pretrained text encoder, pruned while it learns from its dense self: ``python benchmarks/methods/distilled.py``.

MiniLM, every Linear of its encoder, 480 steps of training or 15 minutes at most; 256 held-out pairs. It starts from
SparseGPT, trains on the standard library's docstrings as the demo does, by ``sk.attach`` with ``Distillation`` of
hidden states and embedding, and is compiled and timed in the same process. Rows that are in
``benchmarks/results/methods/distilled.json`` are not measured again.
"""

import argparse
import copy
import dataclasses
import json
import logging
import time
import warnings
from pathlib import Path

import torch
from minilm import BATCH_TOKENS, BEST, RESULTS, TEXTS, TOKENS

import sparsekit as sk
from sparsekit.demo.minilm.corpus import load_corpus
from sparsekit.demo.minilm.distill import Course, distill
from sparsekit.demo.minilm.encoder import load_minilm
from sparsekit.demo.minilm.fidelity import Examination
from sparsekit.demo.minilm.run import EXAMPLE_TEXTS, EXAMPLE_TOKENS, sparsity_of
from sparsekit.kernels.timing import fastest
from sparsekit.planning.machine import commit, describe_machine

LONGEST_S = 900.0


@dataclasses.dataclass(frozen=True)
class Case:
    """One row.

    Args:
        label: its name.
        pattern: the legal sets of kept weights.
        course: how long it learns, how sparse it ends; it starts from what SparseGPT prunes to ``course.start``.
    """

    label: str
    pattern: sk.patterns.Pattern
    course: Course

    @property
    def start(self) -> float | None:
        return None if self.pattern.fixes_sparsity else self.course.start


CASES = (
    Case("50 %", sk.Unstructured(), Course(240, LONGEST_S, 0.5, 0.5, ramp=0.0, rate=5e-4)),
    Case("2:4", sk.NM(2, 4), Course(360, LONGEST_S, 0.5, None, ramp=0.0, rate=7e-4)),
    Case("80 %", sk.Unstructured(), Course(480, LONGEST_S, 0.6, 0.8, rate=1.5e-3)),
    Case("90 %", sk.Unstructured(), Course(300, LONGEST_S, 0.6, 0.9, rate=2e-3)),
    Case("80 % 16x1", sk.Block(16, 1), Course(360, LONGEST_S, 0.5, 0.8, rate=2e-3)),
)


class Bench:
    """The dense model, its texts and its judge."""

    def __init__(self) -> None:
        self.dense = load_minilm()
        corpus = load_corpus()
        self.texts = corpus.calibration
        self.judge = Examination(self.dense, corpus.held_out[:TEXTS])
        self.example = self.dense.sheet(" ".join(p.text for p in corpus.held_out), EXAMPLE_TEXTS, EXAMPLE_TOKENS)

    def measure(self, case: Case, share: float) -> dict:
        model = copy.deepcopy(self.dense.model)
        calibration = self.dense.unpadded(self.texts[:TEXTS], BATCH_TOKENS, TOKENS)
        begun = time.perf_counter()
        sk.prune(model, sk.SparseGPT(**BEST), case.pattern, case.start, batches=calibration)
        pruned = time.perf_counter()
        before = self.judge.judge(self.dense.with_model(model))
        batches = self.dense.unpadded(self.texts, BATCH_TOKENS, TOKENS)
        course = dataclasses.replace(case.course, steps=max(10, round(share * case.course.steps)))
        told: list[float] = []
        trained = time.perf_counter()
        distill(model, self.dense.model, batches, case.pattern, course, told.append)
        seconds = time.perf_counter() - trained
        fast = sk.compile(model, self.example)
        after = self.judge.judge(self.dense.with_model(fast))
        with torch.inference_mode():
            ways = {"dense": lambda: self.dense.model(**self.example), "sparse": lambda: fast(**self.example)}
            times = fastest(ways, 8.0)
        return {
            "zeros": round(sparsity_of(model), 4),
            "pruned": round(before.cosine, 4),
            "cosine": round(after.cosine, 4),
            "retrieval": round(after.retrieval, 4),
            "dense_ms": round(1e3 * times["dense"], 2),
            "sparse_ms": round(1e3 * times["sparse"], 2),
            "steps": len(told),
            "prune_seconds": round(pruned - begun, 1),
            "train_seconds": round(seconds, 1),
        }


def table(report: dict) -> str:
    """The page ``distilled.md``."""
    machine = report["machine"]
    lines = [
        "# A text encoder that learns from its dense self",
        "",
        f"Written by `benchmarks/methods/distilled.py` (commit {report['commit']}, torch {report['torch']}, "
        f"{machine['cpu']}, {report['threads']} threads). Cosine: between the embeddings of 256 held-out texts and the "
        "dense model's, of the compiled model. Dense and sparse: 8 x 128 tokens, fp32, eager against `sk.compile`.",
        "",
        "| zeros | SparseGPT alone | after training | top-1 | dense ms | sparse ms | speedup | steps | minutes |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in report["rows"]:
        start = f"{row['pruned']:.3f} at {row['start']}"
        lines.append(
            f"| {row['label']} | {start} | {row['cosine']:.3f} | {row['retrieval']:.3f} | {row['dense_ms']:.1f} "
            f"| {row['sparse_ms']:.1f} | {row['dense_ms'] / row['sparse_ms']:.2f}x | {row['steps']} "
            f"| {(row['prune_seconds'] + row['train_seconds']) / 60:.1f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "distilled.json")
    parser.add_argument("--only", nargs="+", default=(), help="labels of rows")
    parser.add_argument("--share", type=float, default=1.0, help="of each row's steps, for a first look")
    parser.add_argument("--report", action="store_true", help="measure nothing; write the table again")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=sk.SparsekitWarning)
    logging.getLogger("sparsekit").setLevel(logging.ERROR)
    report = json.loads(options.output.read_text()) if options.output.exists() else {"rows": []}
    known = {row["label"] for row in report["rows"]}
    missing = [c for c in CASES if c.label not in known and (not options.only or c.label in options.only)]
    bench = Bench() if missing and not options.report else None
    for case in missing if bench else ():
        start = f"{100 * case.start:g} %" if case.start is not None else str(case.pattern)
        report["rows"].append({"label": case.label, "start": start} | bench.measure(case, options.share))
        print(json.dumps(report["rows"][-1]), flush=True)
        order = [case.label for case in CASES]
        report["rows"].sort(key=lambda row: order.index(row["label"]))
        here = {"commit": commit() or "unknown", "torch": torch.__version__, "machine": describe_machine()}
        report |= here | {"threads": torch.get_num_threads()}
        options.output.write_text(json.dumps(report, indent=0) + "\n")
    options.output.with_suffix(".md").write_text(table(report))


if __name__ == "__main__":
    main()
