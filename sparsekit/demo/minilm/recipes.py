"""What the demo tries: ways to prune, from none at all to nine weights in ten."""

from __future__ import annotations

from dataclasses import dataclass

from sparsekit.demo.minilm.distill import Course
from sparsekit.patterns import NM, Block, Pattern, Unstructured
from sparsekit.pruning import Criterion, Solver, SparseGPT


@dataclass(frozen=True)
class Recipe:
    """One way to prune.

    Args:
        name: how the table calls it.
        pattern: the legal sets of kept weights; None leaves the model dense.
        method: prunes once, to ``sparsity``; None goes on from where another recipe ended.
        sparsity: fraction of zeros after ``method``; None where the pattern fixes it.
        course: what the student learns, and how far it is pruned, after that.
        follows: the recipe whose result this one starts from; "" starts from the dense model.
    """

    name: str
    pattern: Pattern | None = None
    method: Criterion | Solver | None = None
    sparsity: float | None = None
    course: Course | None = None
    follows: str = ""


@dataclass(frozen=True)
class Settings:
    """How much of everything.

    Args:
        recipes: what is tried, in this order.
        calibration: texts that a one-shot method sees.
        held_out: pairs that fidelity is judged by.
        timing_s: seconds to time one recipe for.
    """

    recipes: tuple[Recipe, ...]
    calibration: int
    held_out: int
    timing_s: float


DENSE = Recipe("dense, prepacked")
HALF = Recipe("50 % SparseGPT", Unstructured(), SparseGPT(), 0.5)
TWO_OF_FOUR = Recipe("2:4 SparseGPT", NM(2, 4), SparseGPT())

FULL = Settings(
    recipes=(
        DENSE,
        HALF,
        TWO_OF_FOUR,
        Recipe("80 % 16x1 distilled", Block(16, 1), SparseGPT(), 0.6, Course(160, 100.0, 0.6, 0.8)),
        Recipe("80 % distilled", Unstructured(), SparseGPT(), 0.6, Course(200, 120.0, 0.6, 0.8, ramp=0.4, rate=2e-3)),
        Recipe("90 % distilled", Unstructured(), course=Course(200, 120.0, 0.8, 0.9), follows="80 % distilled"),
    ),
    calibration=256,
    held_out=256,
    timing_s=4.0,
)
QUICK = Settings(
    recipes=(
        DENSE,
        HALF,
        TWO_OF_FOUR,
        Recipe("80 % 16x1 distilled", Block(16, 1), SparseGPT(), 0.6, Course(30, 15.0, 0.6, 0.8, rate=1.5e-3)),
        Recipe("90 % distilled", Unstructured(), SparseGPT(), 0.8, Course(30, 15.0, 0.8, 0.9, rate=1.5e-3)),
    ),
    calibration=48,
    held_out=64,
    timing_s=1.5,
)
