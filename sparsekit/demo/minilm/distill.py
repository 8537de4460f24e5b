"""Pruning while the student learns to answer like the dense model."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sparsekit.demo.minilm.encoder import Batch
from sparsekit.demo.progress import Tell
from sparsekit.mask import Mask
from sparsekit.patterns import Pattern
from sparsekit.training import Distillation, GradualPruning, Run, attach

REMASK = 10
"""Steps between two choices of the mask while the sparsity still grows."""
WARM_UP = 20


@dataclass(frozen=True)
class Course:
    """How long a student learns, and how its sparsity grows meanwhile.

    Args:
        steps: batches to learn from.
        seconds: where the machine is slow, the course has as many steps as fit into so many.
        start: sparsity at the first step, at most ``end``.
        end: sparsity when ``ramp`` of the course is over; None where the pattern fixes it.
        ramp: share of the course in which masks are chosen; afterwards they stay.
        rate: highest learning rate; it falls to zero along a cosine.
    """

    steps: int
    seconds: float
    start: float
    end: float | None
    ramp: float = 0.5
    rate: float = 4e-3

    def learning_rate(self, progress: float, step: int) -> float:
        """Learning rate of ``step``, when ``progress`` of the course is over."""
        return self.rate * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1.0 + math.cos(math.pi * progress))

    def affordable(self, pace: float) -> int:
        """How many steps of ``pace`` seconds each the course has."""
        return max(1, min(self.steps, int(self.seconds / pace)))

    def method(self, teacher: nn.Module) -> Distillation:
        """Return what prunes and teaches: hidden states and embedding, while the sparsity grows along a cubic."""
        initial = 0.0 if self.end is None else self.start
        ramp = GradualPruning(initial=initial, end=self.ramp, every=REMASK)
        return Distillation(ramp, teacher=teacher, of=("hidden", "embedding"))


def distill(
    student: nn.Module, teacher: nn.Module, batches: Sequence[Batch], pattern: Pattern, course: Course, tell: Tell
) -> dict[str, Mask]:
    """Prune ``student`` to ``pattern`` in place while it learns the hidden states and the embedding of ``teacher``.

    Args:
        student, teacher: the same transformer; the teacher is left as it is.
        batches: what both read, in a random but fixed order.
        course: how long, how sparse.
        tell: called with the progress, in (0, 1], after each step.
    """
    switch_off_dropout(student)
    steps = course.affordable(pace_of(student, teacher, batches[len(batches) // 2]))
    optimizer = torch.optim.AdamW(learned(student), lr=course.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    run = attach(student, optimizer, course.method(teacher), pattern, course.end, steps)
    student.train()
    order = shuffled(batches)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = course.learning_rate(step / steps, step)
        optimizer.zero_grad()
        lesson(student, run, next(order)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        tell((step + 1) / steps)
    student.eval()
    return run.finish()


def lesson(student: nn.Module, run: Run, batch: Batch) -> torch.Tensor:
    """How far the student's answer to ``batch`` is from the teacher's, as the run's penalty says."""
    with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16()):
        student(**batch, output_hidden_states=True)
        return run.penalty()


def pace_of(student: nn.Module, teacher: nn.Module, batch: Batch) -> float:
    """Seconds that a step takes, about: what teacher and student need for ``batch``, the first time left out."""
    begun = 0.0
    for _ in range(2):
        begun = time.monotonic()
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16()):
            with torch.no_grad():
                teacher(**batch)
            answer = student(**batch).last_hidden_state
        torch.autograd.grad(answer.float().sum(), learned(student), allow_unused=True)
    return time.monotonic() - begun


def switch_off_dropout(student: nn.Module) -> None:
    """Let the student answer in training as it does in use: a teacher without noise is best matched without."""
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def learned(student: nn.Module) -> list[nn.Parameter]:
    """Parameters that learn: all but the embedding tables, which stay dense and as they are."""
    tables = {id(p) for m in student.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    return [p for p in student.parameters() if id(p) not in tables]


def shuffled(batches: Sequence[Batch]) -> Iterator[Batch]:
    """Yield the batches forever, each round in an order of its own that is the same in every run."""
    generator = torch.Generator().manual_seed(0)
    while True:
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[index]


def fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; elsewhere it would be slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported())
