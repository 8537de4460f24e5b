"""Methods that prune while they train, on real data: ``python benchmarks/methods/training.py``.

Two tasks, three seeds, one thread: handwritten digits (scikit-learn) with a small convolutional network, and the next
character of the standard library's source with a small feed-forward network over the last 24 characters. What is
compared trains for the same number of steps. Rows that are in ``benchmarks/results/methods/training.json`` are not
measured again.
"""

import argparse
import dataclasses
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import digits
import torch
from chars import Chars
from torch import nn
from torch.nn import functional as F
from training_report import draw, table

import sparsekit as sk
from sparsekit.planning.machine import commit
from sparsekit.pruning import Criterion, FilterNorm
from sparsekit.training import TRAINING_METHODS, State, TrainingMethod

RESULTS = Path(__file__).parent.parent / "results" / "methods"
SEEDS = (0, 1, 2)
EVERY = {sk.Unstructured(): 0.9, sk.Filter(): 0.5, sk.Channel(): 0.5}
"""How much every method removes, by its own pattern; other patterns fix it themselves."""


@dataclasses.dataclass(frozen=True)
class Once(TrainingMethod):
    """The control: chosen once at the start, and held."""

    criterion: Criterion

    def prepare(self, state: State) -> None:
        state.hold(state.choose(state.scores(self.criterion), state.sparsity, self.criterion.by_row))

    def harden(self, state: State) -> None:
        """Nothing is left to do."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One method on one task.

    Args:
        part: the comparison it belongs to.
        label: its name there.
        task: ``"digits"`` or ``"chars"``.
        method: a training method.
        pattern, sparsity, allocation: as ``attach`` takes them.
        dense: start from the trained network, rather than from a fresh one.
        steps: optimizer steps.
        rate: the highest learning rate, as a share of the task's own.
        curve: learning rate by progress, as a share of the highest.
        filters: prune whole filters, of convolutions only.
    """

    part: str
    label: str
    task: str
    method: TrainingMethod
    pattern: sk.patterns.Pattern | None = None
    sparsity: float | None = None
    allocation: object = None
    dense: bool = False
    steps: int = 0
    rate: float = 1.0
    curve: Callable[[float], float] = lambda progress: 0.5 * (1 + math.cos(math.pi * progress))
    filters: bool = False


class Digits:
    """Images of digits and the network of ``digits.py``; the figure is test accuracy in percent."""

    rate, batch, steps, momentum, decay = 0.1, 128, 360, 0.9, 5e-4
    better = 1

    def __init__(self) -> None:
        self.data = digits.load()

    def fresh(self, seed: int) -> nn.Module:
        return digits.small(seed)

    def draw(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.randint(len(self.data.labels), (self.batch,), generator=generator)
        return self.data.images[chosen], self.data.labels[chosen]

    def figure(self, model: nn.Module) -> float:
        return 100 * digits.accuracy(model, self.data)


@cache
def task_named(name: str) -> Digits | Chars:
    return Digits() if name == "digits" else Chars()


def fine_tuned(phases: int) -> Callable[[float], float]:
    """A cosine over the first of ``phases`` equal phases, then the low rate that it ended with."""
    return lambda progress: max(0.05, 0.5 * (1 + math.cos(math.pi * min(1.0, progress * phases))))


def repeated(phases: int) -> Callable[[float], float]:
    """The same cosine in each of ``phases`` equal phases."""
    return lambda progress: max(0.05, 0.5 * (1 + math.cos(math.pi * (progress * phases % 1.0))))


def cases() -> Iterator[Case]:
    """The comparisons that papers report, and every method once."""
    for part in (filters, gradual, growth, tickets, fixed, recovery, every):
        yield from part()


def filters() -> Iterator[Case]:
    """The same filters go, at once or after a growing penalty; the same fine-tuning follows."""
    for sparsity in (0.5, 0.75, 0.85):
        shared = {"pattern": sk.Filter(), "sparsity": sparsity, "dense": True, "rate": 0.3, "filters": True}
        yield Case("filters", "one-shot L1", "digits", Once(FilterNorm(1)), steps=240, **shared)
        yield Case("filters", "one-shot L1, 480 steps", "digits", Once(FilterNorm(1)), steps=480, **shared)
        for method in (sk.GReg1(growing=0.25, settle=120), sk.GReg2(growing=0.25, settle=120)):
            yield Case("filters", type(method).__name__, "digits", method, steps=480, curve=grown, **shared)


def grown(progress: float) -> float:
    """A constant rate while the penalty grows and settles, and then the cosine of fine-tuning."""
    return 1.0 if progress < 0.5 else 0.5 * (1 + math.cos(math.pi * (2 * progress - 1)))


def gradual() -> Iterator[Case]:
    """A trained network loses weights at once, or step by step."""
    for task, steps, sparsities in (("digits", 240, (0.9, 0.95, 0.98)), ("chars", 600, (0.8, 0.9, 0.95))):
        for sparsity in sparsities:
            shared = {"sparsity": sparsity, "dense": True, "steps": steps, "rate": 0.3}
            yield Case("gradual", "one-shot", task, Once(sk.Magnitude()), **shared)
            yield Case("gradual", "GradualPruning", task, sk.GradualPruning(end=1 / 3), **shared)


def growth() -> Iterator[Case]:
    """Sparse from the first step on: fixed, random growth, growth by gradients."""
    for task, steps in (("digits", 480), ("chars", 900)):
        for sparsity in (0.9, 0.95, 0.98):
            shared = {"sparsity": sparsity, "allocation": sk.ERK(), "steps": steps}
            yield Case("growth", "static", task, Once(sk.Random()), **shared)
            yield Case("growth", "SET", task, sk.SET(), **shared)
            yield Case("growth", "RigL", task, sk.RigL(), **shared)
            yield Case("growth", "SNFS", task, sk.SNFS(), **shared)
            yield Case("growth", "DSR", task, sk.DSR(), **shared)


def tickets() -> Iterator[Case]:
    """Rounds of training and pruning: what the survivors go on from."""
    rounds = 4
    for task, steps, sparsities in (("digits", 200, (0.9, 0.95, 0.98)), ("chars", 300, (0.8, 0.9, 0.95))):
        for sparsity in sparsities:
            shared = {"sparsity": sparsity, "allocation": sk.Global(), "steps": steps * (rounds + 1)}
            low, again = fine_tuned(rounds + 1), repeated(rounds + 1)
            tuned, rewound = sk.IterativePruning(rounds=rounds), sk.LearningRateRewinding(rounds=rounds)
            yield Case("tickets", "fine-tuning", task, tuned, curve=low, **shared)
            yield Case("tickets", "learning-rate rewinding", task, rewound, curve=again, **shared)
            yield Case("tickets", "ticket", task, sk.LotteryTicket(rounds=rounds), curve=again, **shared)
            blind = sk.LotteryTicket(rounds=rounds, reinitialise=True)
            yield Case("tickets", "ticket, reinitialised", task, blind, curve=again, **shared)


def fixed() -> Iterator[Case]:
    """N:M from scratch; or a dense network, pruned and trained again, in as many steps together."""
    for pattern in (sk.NM(2, 4), sk.NM(1, 4), sk.NM(1, 8)):
        shared = {"pattern": pattern, "allocation": None}
        yield Case(
            "N:M", "one-shot, not trained again", "chars", Once(sk.Magnitude()), steps=1, rate=0.0, dense=True, **shared
        )
        yield Case("N:M", "one-shot, trained again", "chars", sk.ASP(), steps=600, dense=True, **shared)
        yield Case("N:M", "SRSTE", "chars", sk.SRSTE(), steps=1800, **shared)


def recovery() -> Iterator[Case]:
    """With and without the dense network as a teacher."""
    for sparsity in (0.9, 0.95, 0.98):
        shared = {"sparsity": sparsity, "dense": True, "steps": 240, "rate": 0.3}
        yield Case("recovery", "GradualPruning", "digits", sk.GradualPruning(), **shared)
        yield Case("recovery", "with Distillation", "digits", sk.Distillation(sk.GradualPruning()), **shared)


def every() -> Iterator[Case]:
    """Every method with its defaults, from the trained network."""
    for kind in TRAINING_METHODS:
        method = kind()
        pattern = method.default_pattern
        sparsity = None if pattern.fixes_sparsity else EVERY[pattern]
        shared = {"dense": True, "steps": 240, "rate": 0.3, "filters": pattern in (sk.Filter(), sk.Channel())}
        yield Case("every", kind.__name__, "digits", method, pattern, sparsity, **shared)


class Bench:
    """Trains cases; dense networks once per task and seed."""

    def __init__(self) -> None:
        self.dense = cache(self._dense)

    def _dense(self, task: str, seed: int) -> dict[str, torch.Tensor]:
        given = task_named(task)
        model = given.fresh(seed)
        self.train(model, given, Case("dense", "dense", task, None, steps=given.steps), seed, None)
        return model.state_dict()

    def train(self, model: nn.Module, task: Digits | Chars, case: Case, seed: int, attach: Callable | None) -> object:
        generator = torch.Generator().manual_seed(1000 + seed)
        rate = case.rate * task.rate
        optimizer = torch.optim.SGD(model.parameters(), rate, task.momentum, weight_decay=task.decay, nesterov=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: case.curve(min(1.0, step / case.steps)))
        run = attach(model, optimizer) if attach else None
        model.train()
        for _ in range(case.steps):
            inputs, labels = task.draw(generator)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), labels)
            (loss + run.penalty() if run else loss).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
        return run

    def measure(self, case: Case, seed: int) -> dict:
        task = task_named(case.task)
        model = task.fresh(seed)
        if case.dense:
            model.load_state_dict(self.dense(case.task, seed))
        layers = (lambda name, module: isinstance(module, nn.Conv2d)) if case.filters else task_layers

        def attach(model: nn.Module, optimizer: torch.optim.Optimizer) -> object:
            given = {"allocation": case.allocation, "layers": layers, "seed": seed}
            return sk.attach(model, optimizer, case.method, case.pattern, case.sparsity, case.steps, **given)

        start = time.perf_counter()
        try:
            run = self.train(model, task, case, seed, attach)
            masks = run.finish()
        except sk.SparsekitError as error:
            return {"refused": str(error)}
        total = sum(mask.keep.numel() for mask in masks.values())
        zeros = 1 - sum(mask.nnz for mask in masks.values()) / total
        spent = time.perf_counter() - start
        return {"zeros": round(zeros, 4), "figure": round(task.figure(model), 3), "seconds": round(spent, 1)}


def task_layers(name: str, module: nn.Module) -> bool:
    """All layers but those that read raw pixels, of which there are too few weights to be worth a sparsity."""
    return not (isinstance(module, nn.Conv2d) and module.in_channels == 1)


def key_of(row: dict) -> tuple:
    return row["part"], row["task"], row["label"], row["setting"], row["seed"]


def setting_of(case: Case) -> str:
    return str(case.pattern) if case.sparsity is None else f"{100 * case.sparsity:g} %"


def run(found: list[dict], seeds: tuple[int, ...], only: set[str]) -> Iterator[list[dict]]:
    """Yield the rows after each new one; refusals are tried again."""
    bench = Bench()
    done = {key_of(row): row for row in found if "refused" not in row}
    for seed in seeds:
        for name in ("digits", "chars"):
            head = {"part": "dense", "task": name, "label": "dense", "setting": "", "seed": seed}
            if key_of(head) not in done:
                model = task_named(name).fresh(seed)
                model.load_state_dict(bench.dense(name, seed))
                done[key_of(head)] = {**head, "zeros": 0.0, "figure": round(task_named(name).figure(model), 3)}
        for case in cases():
            head = {
                "part": case.part,
                "task": case.task,
                "label": case.label,
                "setting": setting_of(case),
                "seed": seed,
            }
            if key_of(head) in done or (only and case.part not in only and case.label not in only):
                continue
            done[key_of(head)] = head | bench.measure(case, seed)
            print(json.dumps(done[key_of(head)]), flush=True)
            yield list(done.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "training.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--only", nargs="+", default=(), help="names of parts or labels of rows")
    parser.add_argument("--report", action="store_true", help="measure nothing; write table and picture again")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=sk.SparsekitWarning)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    report = json.loads(options.output.read_text()) if options.output.exists() else {"rows": []}
    for rows in () if options.report else run(report["rows"], tuple(options.seeds), set(options.only)):
        report = {"commit": commit() or "unknown", "torch": torch.__version__, "rows": rows}
        options.output.write_text(json.dumps(report, indent=0) + "\n")
    options.output.with_suffix(".md").write_text(table(report))
    draw(report, options.output.with_suffix(".png"))
    print(f"{len(report['rows'])} rows in {options.output}")


if __name__ == "__main__":
    main()
