"""Pruning while the student learns to answer like the dense model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsekit.demo.encoder import Batch, pool
from sparsekit.mask import Mask
from sparsekit.patterns import Pattern
from sparsekit.pruning.criteria import Magnitude
from sparsekit.pruning.prune import prune

REMASK = 10
"""Steps between two choices of the mask while the sparsity still grows."""
WARM_UP = 20

Masks = dict[str, Mask]
Tell = Callable[[float], None]


@dataclass(frozen=True)
class Course:
    """How long a student learns, and how its sparsity grows meanwhile.

    Args:
        steps: batches to learn from.
        seconds: where the machine is slow, the course is over after so many; the ramps shrink with it.
        start: sparsity at the first step.
        end: sparsity when ``ramp`` of the course is over; it grows as in Zhu and Gupta 2017, equation 1.
        rate: highest learning rate; it falls to zero along a cosine.
    """

    steps: int
    seconds: float
    start: float
    end: float
    ramp: float = 0.5
    rate: float = 4e-3

    def sparsity(self, progress: float) -> float:
        """Sparsity when ``progress`` of the course, in [0, 1], is over."""
        left = max(0.0, 1.0 - progress / self.ramp)
        return self.end + (self.start - self.end) * left**3

    def learning_rate(self, progress: float, step: int) -> float:
        """Learning rate of ``step``, when ``progress`` of the course is over."""
        return self.rate * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1.0 + math.cos(math.pi * progress))

    def progresses(self) -> Iterator[float]:
        """Yield the progress of each step, by steps or by seconds, whichever is further."""
        begun = time.monotonic()
        for step in range(self.steps):
            progress = max(step / self.steps, (time.monotonic() - begun) / self.seconds)
            if progress >= 1.0:
                return
            yield progress


def distill(
    student: nn.Module, teacher: nn.Module, batches: Sequence[Batch], pattern: Pattern, course: Course, tell: Tell
) -> Masks:
    """Prune ``student`` to ``pattern`` in place while it learns the hidden states and the embedding of ``teacher``.

    Args:
        student, teacher: the same transformer; the teacher is left as it is.
        batches: what both read, in a random but fixed order.
        course: how long, how sparse.
        tell: called with the progress, in [0, 1], after each step.
    """
    weights = learned(student)
    optimizer = torch.optim.AdamW(weights, lr=course.rate, betas=(0.9, 0.98), weight_decay=0.0)
    order = shuffled(batches)
    masks: Masks = {}
    for step, progress in enumerate(course.progresses()):
        if step % REMASK == 0 and progress < course.ramp:
            masks = prune(student, Magnitude(), pattern=pattern, sparsity=course.sparsity(progress))
        optimizer.param_groups[0]["lr"] = course.learning_rate(progress, step)
        optimizer.zero_grad()
        disagreement(student, teacher, next(order)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        hold(student, masks)
        tell(progress)
    return prune(student, Magnitude(), pattern=pattern, sparsity=course.end)


def disagreement(student: nn.Module, teacher: nn.Module, batch: Batch) -> Tensor:
    """Squared error of each layer's token states, over the teacher's variance, plus 1 - cosine of the embeddings."""
    keep = batch["attention_mask"].bool()
    with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16()):
        with torch.no_grad():
            wanted = teacher(**batch, output_hidden_states=True)
        found = student(**batch, output_hidden_states=True)
    loss = torch.zeros(())
    for right, mine in zip(wanted.hidden_states[1:], found.hidden_states[1:]):
        target = right[keep].float()
        loss = loss + F.mse_loss(mine[keep].float(), target) / target.var()
    mask = batch["attention_mask"]
    cosine = (pool(wanted.last_hidden_state.float(), mask) * pool(found.last_hidden_state.float(), mask)).sum(-1)
    return loss + 1.0 - cosine.mean()


def learned(student: nn.Module) -> list[nn.Parameter]:
    """Parameters that learn: all but the embedding tables, which stay dense and as they are."""
    tables = {id(p) for m in student.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    return [p for p in student.parameters() if id(p) not in tables]


def hold(student: nn.Module, masks: Masks) -> None:
    """Set the weights that are masked out back to zero."""
    with torch.no_grad():
        for name, mask in masks.items():
            student.get_parameter(name).mul_(mask.keep)


def shuffled(batches: Sequence[Batch]) -> Iterator[Batch]:
    """Yield the batches forever, each round in an order of its own that is the same in every run."""
    generator = torch.Generator().manual_seed(0)
    while True:
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[index]


def fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; elsewhere it would be slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported())
