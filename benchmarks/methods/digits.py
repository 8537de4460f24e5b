"""Every pruning method on real data: ``python benchmarks/methods/digits.py``.

8x8 images of handwritten digits (scikit-learn, 1,437 to train on and 360 to test), three seeds, one thread:

* ``weights``: a trained convolutional network loses single weights in one shot;
* ``filters``: the same network loses whole filters;
* ``initial``: a deep and narrow network is pruned before training, and trained after it.

Rows that ``benchmarks/results/methods/digits.json`` has already are not measured again, so that a method that is added
costs its own rows only. Methods come from the family tuples; what is not named in :data:`FILTERS` joins ``weights``.
"""

import argparse
import dataclasses
import json
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from digits_report import draw, table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

import sparsekit as sk
from sparsekit.planning.machine import commit
from sparsekit.pruning import CRITERIA, SEARCHES, SOLVERS, Criterion
from sparsekit.pruning.recalibration import recalibrate_batchnorm

RESULTS = Path(__file__).parent.parent / "results" / "methods"
SEEDS = (0, 1, 2)
FILTERS = (
    "FilterNorm",
    "GeometricMedian",
    "BatchNormScale",
    "PCAS",
    "TaylorActivation",
    "TaylorGate",
    "Skeletonization",
    "ChannelLasso",
    "PruningAgents",
    "AMC",
)
"""Methods that rank whole filters, or the channels between them."""
INITIAL = ("Random", "Magnitude", "SNIP", "IterativeSNIP", "FORCE", "GraSP", "SynFlow")
"""Methods that are run before training."""
STEPPED = ("WoodFisher", "CHITA")
"""Methods that are also run in several steps, each with new gradients, as their papers do at high sparsity."""
SPARSITIES = {
    "weights": (0.5, 0.8, 0.9, 0.95, 0.98),
    "filters": (0.25, 0.5, 0.75),
    "initial": (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995),
}
CALIBRATION = 8
"""Batches of 128 that methods look at."""
TUNING = 3
"""Epochs of fine-tuning after pruning in one shot."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One method as it is run; without sparsities of its own, at those of its part."""

    part: str
    label: str
    method: object
    pattern: object = sk.Unstructured()
    allocation: object = sk.Uniform()
    sparsities: tuple[float, ...] | None = None


def cases() -> Iterator[Case]:
    """Every method of the tuples.

    Scores of criteria share one budget over all layers. Solvers get ERK's shares, as do scores that compare within a
    row only: in a converged network the gradients of the last layers vanish, and ranked across layers, what solvers
    read from them empties these layers. Searches find their own shares.
    """
    for kind in (*CRITERIA, *SOLVERS, *SEARCHES):
        name, method = kind.__name__, kind()
        if name in FILTERS:
            yield Case("filters", name, method, sk.Channel() if name == "ChannelLasso" else sk.Filter())
            continue
        ranked = isinstance(method, Criterion) and not method.by_row
        shared = sk.Uniform() if kind in SEARCHES else sk.Global() if ranked else sk.ERK()
        yield Case("weights", name, method, allocation=shared)
        if name in STEPPED:
            stepped = dataclasses.replace(method, steps=4)
            yield Case("weights", f"{name}, 4 steps", stepped, allocation=shared, sparsities=(0.9, 0.95))
        if name in ("Random", "Magnitude"):
            yield Case("weights", f"{name}, ERK", method, allocation=sk.ERK())
            yield Case("filters", name, method, sk.Filter())
        if name in INITIAL:
            yield Case("initial", name, method, allocation=sk.Global())


@dataclasses.dataclass(frozen=True)
class Data:
    """Images ``(n, 1, 8, 8)`` with mean 0 and standard deviation 1, and labels."""

    images: torch.Tensor
    labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor

    def batches(self, size: int = 128) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(zip(self.images.split(size), self.labels.split(size)))


def load() -> Data:
    """The same split for all seeds."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, test_size=360, random_state=0, stratify=labels)
    train, test = (torch.tensor(part, dtype=torch.float32).reshape(-1, 1, 8, 8) for part in parts[:2])
    mean, spread = train.mean(), train.std()
    return Data((train - mean) / spread, torch.tensor(parts[2]), (test - mean) / spread, torch.tensor(parts[3]))


def small(seed: int) -> nn.Sequential:
    """Four convolutions and a linear layer, 23,504 weights."""
    return network((16, 32, 32, 32), seed)


def deep(seed: int) -> nn.Sequential:
    """Nine convolutions of 24 channels and a linear layer, 41,928 weights: at 99.5 % twenty per layer are left."""
    return network((24,) * 9, seed)


def network(widths: tuple[int, ...], seed: int) -> nn.Sequential:
    """Convolutions with BatchNorm; images are 8x8, 4x4 from the second on, and 2x2 from the fifth on."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for number, (before, width) in enumerate(zip((1, *widths), widths)):
        stride = 2 if number in (1, 4) else 1
        convolution = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


def loss_fn(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def train(model: nn.Module, data: Data, epochs: int, rate: float, masks: dict[str, sk.Mask], seed: int) -> None:
    """SGD with a cosine; what was pruned stays zero."""
    generator = torch.Generator().manual_seed(seed)
    kept = [(model.get_parameter(name), ~mask.keep) for name, mask in masks.items()]
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = epochs * -(-len(data.labels) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(data.labels), generator=generator).split(128):
            optimizer.zero_grad()
            loss_fn(model, (data.images[chosen], data.labels[chosen])).backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for parameter, gone in kept:
                    parameter.masked_fill_(gone, 0.0)


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    return float((model.eval()(data.test_images).argmax(dim=1) == data.test_labels).double().mean())


def measure(case: Case, model: nn.Module, data: Data, sparsity: float, seed: int) -> dict:
    """Prune, and train as the part says."""
    start = time.perf_counter()
    batches = (
        data.batches(1)[:1] if case.label == "SynFlow" else data.batches()[:CALIBRATION]
    )  # it reads the shape only
    arguments = {"batches": batches, "loss_fn": loss_fn, "allocation": case.allocation}
    if case.part == "filters":
        arguments["layers"] = lambda name, module: isinstance(module, nn.Conv2d)
    try:
        masks = sk.prune(model, case.method, case.pattern, sparsity, **arguments)
    except sk.SparsekitError as error:
        return {"refused": str(error)}
    seconds = time.perf_counter() - start
    total = sum(mask.keep.numel() for mask in masks.values())
    row = {
        "kept": sum(mask.nnz for mask in masks.values()) / total,
        "collapsed": any(mask.nnz == 0 for mask in masks.values()),
        "seconds": round(seconds, 3),
    }
    if case.part == "initial":
        train(model, data, 12, 0.1, masks, seed)
        return row | {"after": accuracy(model, data)}
    recalibrate_batchnorm(model, [images for images, _ in data.batches()])
    before = accuracy(model, data)
    train(model, data, TUNING, 0.02, masks, seed)
    return row | {"before": before, "after": accuracy(model, data)}


def key_of(row: dict) -> tuple:
    return row["part"], row["label"], row["sparsity"], row["seed"]


def run(found: list[dict], seeds: tuple[int, ...], only: set[str]) -> Iterator[list[dict]]:
    """Yield the rows after each method; refusals are tried again."""
    data = load()
    done = {key_of(row): row for row in found if "refused" not in row}
    for seed in seeds:
        trained = small(seed)
        train(trained, data, 30, 0.1, {}, seed)
        done["dense", "dense", 0.0, seed] = {
            **{"part": "dense", "label": "dense", "sparsity": 0.0, "seed": seed},
            "after": accuracy(trained, data),
        }
        state = {name: value.clone() for name, value in trained.state_dict().items()}
        for case in cases():
            if only and case.label.split(",")[0] not in only:
                continue
            for sparsity in case.sparsities or SPARSITIES[case.part]:
                head = {"part": case.part, "label": case.label, "sparsity": sparsity, "seed": seed}
                if key_of(head) in done:
                    continue
                model = deep(seed) if case.part == "initial" else small(seed)
                if case.part != "initial":
                    model.load_state_dict(state)
                done[key_of(head)] = head | measure(case, model, data, sparsity, seed)
            print(f"seed {seed}  {case.part:8} {case.label}", flush=True)
            yield list(done.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "digits.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--only", nargs="+", default=(), help="names of methods")
    parser.add_argument("--report", action="store_true", help="measure nothing; write table and picture again")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=sk.SparsekitWarning)
    logging.getLogger("sparsekit").setLevel(logging.ERROR)  # collapse is a column
    options.output.parent.mkdir(parents=True, exist_ok=True)
    report = json.loads(options.output.read_text()) if options.output.exists() else {"rows": []}
    start = time.perf_counter()
    for rows in () if options.report else run(report["rows"], tuple(options.seeds), set(options.only)):
        known = {case.label for case in cases()} | {"dense"}
        report = {
            "commit": commit() or "unknown",
            "torch": torch.__version__,
            "rows": [r for r in rows if r["label"] in known],
        }
        options.output.write_text(json.dumps(report, indent=0) + "\n")
    options.output.with_suffix(".md").write_text(table(report))
    draw(report, options.output.with_suffix(".png"))
    print(f"{len(report['rows'])} rows in {options.output}, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
