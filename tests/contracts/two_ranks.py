"""Train with every method on two processes, under DDP and ``fully_shard``; what came out goes to a file per rank.

Run by ``torch.distributed.run``, with the folder to write to as its argument. No layer divides evenly by two: one rank
holds more of each weight than the other, and nothing of the last one.
"""

from __future__ import annotations

import copy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

import sparsekit as sk
from sparsekit.training import TRAINING_METHODS, TrainingMethod
from tests.contracts.trainings import able, usual

STEPS, BEYOND, SAVED = 6, 7, 3


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 7), nn.ReLU(), nn.Linear(7, 1)
        return nn.Sequential(*layers).double()


def whole(value: Any) -> torch.Tensor:
    found: torch.Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return found.detach().clone()


class Part:
    """A model, its optimizer and its run, on one rank's part of the data."""

    def __init__(self, method: TrainingMethod, model: nn.Module, rank: int | None = None, loaded: Any = None):
        self.part = slice(rank, None, None if rank is None else 2)
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        if loaded is not None:
            model.load_state_dict(loaded["model"])
            self.optimizer.load_state_dict(loaded["optimizer"])
        wanted = usual(type(method))
        layers = able(method, getattr(model, "module", model), wanted["pattern"])
        self.run = sk.attach(model, self.optimizer, method, steps=STEPS, layers=layers, **wanted)
        if loaded is not None:
            self.run.load_state_dict(loaded["run"])

    def go(self, start: int, stop: int) -> None:
        for index in range(start, stop):
            generator = torch.Generator().manual_seed(index)
            inputs = torch.randn(8, 3, 4, 4, generator=generator, dtype=torch.float64)
            wanted = torch.randn(8, 1, generator=generator, dtype=torch.float64)
            self.optimizer.zero_grad()
            loss = (self.model(inputs[self.part]) - wanted[self.part]).square().mean() + self.run.penalty()
            loss.backward()
            self.optimizer.step()

    def saved(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "run": self.run}
        return copy.deepcopy({name: part.state_dict() for name, part in parts.items()})

    def result(self) -> dict[str, Any]:
        masks = {name: mask.keep for name, mask in self.run.finish().items()}
        weights = {name.removeprefix("module."): whole(value) for name, value in self.model.named_parameters()}
        return {"weights": weights, "masks": masks, "rows": self.run.history.rows, "stopped": self.run.stopped}


def alone(kind: type[TrainingMethod]) -> dict[str, Any]:
    """One process with the data of both."""
    part = Part(kind(), network())
    part.go(0, BEYOND)
    return part.result()


def replicated(kind: type[TrainingMethod]) -> dict[str, Any]:
    part = Part(kind(), nn.parallel.DistributedDataParallel(network()), dist.get_rank())
    part.go(0, BEYOND)
    return part.result()


def shards() -> nn.Module:
    model = network()
    for layer in model:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            fully_shard(layer)
    return fully_shard(model)


def sharded(kind: type[TrainingMethod]) -> dict[str, Any]:
    teaching: Any = kind
    method = teaching(teacher=network()) if hasattr(kind, "teacher") else kind()  # shards cannot be copied into one
    part = Part(method, shards(), dist.get_rank())
    part.go(0, SAVED)
    saved = part.saved()
    part.go(SAVED, BEYOND)
    again = Part(method, shards(), dist.get_rank(), saved)
    again.go(SAVED, BEYOND)
    return {**part.result(), "resumed": again.result()}


def attempt(train: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Both ranks fail alike or not at all, so that the next training starts together."""
    try:
        return train()
    except Exception:
        return {"error": traceback.format_exc()}


def main() -> None:
    torch.use_deterministic_algorithms(True)
    dist.init_process_group("gloo")
    found = {
        kind.__name__: {way.__name__: attempt(lambda way=way, kind=kind: way(kind)) for way in (replicated, sharded)}
        for kind in TRAINING_METHODS
    }
    torch.save(found, Path(sys.argv[1]) / f"{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
