"""Training the small network, dense or while it is pruned."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from sparsekit.demo.cnn.digits import Digits
from sparsekit.demo.progress import Tell
from sparsekit.mask import Mask
from sparsekit.patterns import Pattern
from sparsekit.pruning import recalibrate_batchnorm
from sparsekit.training import GradualPruning, Run, attach

BATCH = 64
REMASK = 5
"""Steps between two choices of the mask while the sparsity grows."""
WARM_UP = 0.2
"""Share of a course in which the learning rate rises."""


@dataclass(frozen=True)
class Course:
    """How long a network learns, and how fast.

    Args:
        epochs: times that every image is seen.
        rate: highest learning rate of SGD with momentum; it rises from zero and falls along a cosine.
        ramp: share of the course in which the sparsity grows; afterwards the masks stay.
    """

    epochs: int
    rate: float
    ramp: float = 0.5

    def learning_rate(self, progress: float) -> float:
        """Learning rate when ``progress`` of the course is over, in [0, 1)."""
        rise = min(1.0, progress / WARM_UP)
        return self.rate * rise * 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Goal:
    """What zeros a network ends with: ``sparsity`` in ``pattern`` at the convolutions named ``layers``."""

    pattern: Pattern
    sparsity: float | None
    layers: list[str]


def learn(model: nn.Module, digits: Digits, course: Course, goal: Goal | None, tell: Tell) -> dict[str, Mask]:
    """Train ``model`` in place; with a ``goal`` prune it meanwhile, by magnitude along a cubic.

    The running averages of BatchNorm are measured again at the end, where the weights no longer move.

    Returns:
        The masks by parameter name; none without a goal.
    """
    optimizer = torch.optim.SGD(model.parameters(), course.rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = course.epochs * -(-len(digits.labels) // BATCH)
    run = _run(model, optimizer, course, goal, steps)
    generator = torch.Generator().manual_seed(0)
    model.train()
    step = 0
    for _ in range(course.epochs):
        for images, labels in digits.shuffled(BATCH, generator):
            optimizer.param_groups[0]["lr"] = course.learning_rate(step / steps)
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            tell(step / steps)
    model.eval()
    masks = run.finish() if run else {}
    recalibrate_batchnorm(model, torch.split(digits.images, BATCH))
    return masks


def _run(
    model: nn.Module, optimizer: torch.optim.Optimizer, course: Course, goal: Goal | None, steps: int
) -> Run | None:
    if goal is None:
        return None
    method = GradualPruning(end=course.ramp, every=REMASK)
    return attach(model, optimizer, method, goal.pattern, goal.sparsity, steps, layers=goal.layers)
