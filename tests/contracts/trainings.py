"""Small trainings that many tests share: one network, its data, and a loop as users write it."""

from __future__ import annotations

import copy
import functools
import io
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsekit as sk
from sparsekit.training import Run, TrainingMethod

STEPS = 16
SPARSITY = 0.5
OPTIMIZERS = {
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "adam": lambda weights: torch.optim.Adam(weights, lr=1e-2, weight_decay=1e-2),
    "fused": lambda weights: torch.optim.Adam(weights, lr=1e-2, weight_decay=1e-2, fused=True),
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=1e-2, weight_decay=0.1),
    "rmsprop": lambda weights: torch.optim.RMSprop(weights, lr=1e-2, momentum=0.9, weight_decay=1e-2),
}


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """A convolution and a linear layer, between them all that a small network has."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(4, 8, 3), nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()), nn.Linear(32, 12)
        ).to(dtype)


@functools.cache
def batch(index: int, size: int = 16, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the inputs and labels of step ``index``; there are four different ones."""
    generator = torch.Generator().manual_seed(index % 4)
    inputs = torch.randn(size, 4, 4, 4, generator=generator, dtype=torch.float64)
    return inputs.to(dtype), torch.randint(12, (size,), generator=generator)


def loss_fn(model: nn.Module, given: Any) -> torch.Tensor:
    """Return the loss of a batch; of inputs alone, how large the outputs are."""
    if isinstance(given, tuple):
        return F.cross_entropy(model(given[0]), given[1])
    return model(given).square().mean()


@dataclass
class Training:
    """A model, its optimizer, and the run that prunes it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    run: Run

    def go(self, start: int, stop: int, dtype: torch.dtype = torch.float32) -> Training:
        """Take the steps from ``start`` to before ``stop``."""
        for index in range(start, stop):
            self.optimizer.zero_grad()
            (loss_fn(self.model, batch(index, dtype=dtype)) + self.run.penalty()).backward()
            self.optimizer.step()
        return self

    def result(self) -> dict[str, Any]:
        """All that a training has come to, in tensors and numbers."""
        return {
            "weights": {name: value.detach().clone() for name, value in self.model.state_dict().items()},
            "masks": {name: mask.keep for name, mask in self.run.masks.items()},
            "rows": copy.deepcopy(self.run.history.rows),
            "stopped": self.run.stopped,
        }

    def saved(self) -> bytes:
        """The three parts as users save them."""
        parts = {"model": self.model, "optimizer": self.optimizer, "run": self.run}
        file = io.BytesIO()
        torch.save({name: part.state_dict() for name, part in parts.items()}, file)
        return file.getvalue()


def usual(kind: type[TrainingMethod], pattern: sk.patterns.Pattern | None = None) -> dict[str, Any]:
    """The pattern and the sparsity that a method is asked for where nothing else is meant."""
    chosen = kind().default_pattern if pattern is None else pattern
    return {"pattern": chosen, "sparsity": None if chosen.fixes_sparsity else SPARSITY}


def able(method: TrainingMethod, model: nn.Module, pattern: sk.patterns.Pattern) -> list[str]:
    """Return the layers of ``model`` whose weights the pattern and the method take."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))}
    shapes = {name: tuple(layer.weight.shape) for name, layer in layers.items()}
    return [name for name, shape in shapes.items() if not (pattern.refuses(shape) or method.refuses(pattern, shape))]


def start(
    method: TrainingMethod,
    model: nn.Module | None = None,
    optimizer: str = "sgd",
    dtype: torch.dtype = torch.float32,
    loaded: dict[str, Any] | None = None,
    **options: Any,
) -> Training:
    """Attach ``method`` to ``model``, or to a new network; ``loaded`` is what model and optimizer load before that.

    Only layers that the pattern takes are pruned; a test is skipped where there is none.
    """
    model = network(dtype) if model is None else model
    stepping = OPTIMIZERS[optimizer](model.parameters())
    if loaded is not None:
        model.load_state_dict(loaded["model"])
        stepping.load_state_dict(loaded["optimizer"])
    wanted = usual(type(method), options.pop("pattern", None))
    inner = getattr(model, "_orig_mod", model)
    wanted["layers"] = able(method, inner, wanted["pattern"])
    if not wanted["layers"]:
        pytest.skip(f"{method} takes no layer of this model")
    data = {"batches": [batch(index, dtype=dtype)[0] for index in range(2)], "loss_fn": loss_fn, "steps": STEPS}
    return Training(model, stepping, sk.attach(model, stepping, method, **{**data, **wanted, **options}))


def load(saved: bytes, method: TrainingMethod, before: bool, **options: Any) -> Training:
    """Build everything anew and go on from ``saved``, with model and optimizer loaded before or after attach."""
    parts = torch.load(io.BytesIO(saved), weights_only=True)
    training = start(method, loaded=parts if before else None, **options)
    if not before:
        training.model.load_state_dict(parts["model"])
        training.optimizer.load_state_dict(parts["optimizer"])
    training.run.load_state_dict(parts["run"])
    return training
