"""What is measured, and what each case has to reach."""

from __future__ import annotations

from dataclasses import dataclass, field

from sparsekit.patterns import Block, Pattern, Unstructured


@dataclass(frozen=True)
class LinearProblem:
    """One product ``(batch, columns) @ (rows, columns).T + bias`` in fp32.

    Args:
        batch: tokens, M.
        columns: inputs, K.
        rows: outputs, N.
        pattern: how the weight is pruned.
        floors: by sparsity, the speedup over the fastest dense way that the kernels promise; None promises none.
        threads: numbers of threads to run on.
    """

    batch: int
    columns: int
    rows: int
    pattern: Pattern
    floors: dict[float, float | None] = field(default_factory=dict)
    threads: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class ModelCase:
    """The sentence encoder of the demo at 8 x 128 tokens, pruned by magnitude in every encoder Linear.

    Args:
        sparsity: fraction of zeros; 0 leaves the model dense.
        floor: the speedup over eager that ``compile`` promises.
        threads: threads to run on.
    """

    sparsity: float
    floor: float
    threads: int = 2


PROBLEMS = (
    LinearProblem(128, 1024, 4096, Unstructured(), {0.5: None, 0.7: None, 0.8: 2.3, 0.9: 4.5, 0.95: 8.0}),
    LinearProblem(128, 1024, 4096, Block(16, 16), {0.5: None, 0.8: 4.0, 0.9: 7.5, 0.95: None}),
    LinearProblem(1, 4096, 4096, Unstructured(), {0.5: 1.7, 0.7: None, 0.8: None, 0.9: 5.0, 0.95: None}),
    LinearProblem(1, 4096, 4096, Block(16, 16), {0.5: None, 0.8: None, 0.9: None}),
    LinearProblem(16, 1024, 4096, Unstructured(), {0.5: None, 0.8: None, 0.9: None, 0.95: None}),
    LinearProblem(512, 1024, 1024, Unstructured(), {0.5: None, 0.8: None, 0.9: None, 0.95: None}),
    LinearProblem(33, 1537, 771, Unstructured(), {0.5: None, 0.8: None, 0.9: None}),
)
QUICK_PROBLEMS = (
    LinearProblem(128, 1024, 4096, Unstructured(), {0.9: 4.5}, (1,)),
    LinearProblem(128, 1024, 4096, Block(16, 16), {0.9: 7.5}, (1,)),
    LinearProblem(1, 4096, 4096, Unstructured(), {0.9: 5.0}, (1,)),
)
TRAINING_PROBLEMS = tuple(
    LinearProblem(512, 2048, 2048, Block(*sides), {0.5: None, 0.8: 1.0, 0.9: floor, 0.95: 1.0})
    for sides, floor in (((16, 16), 4.0), ((32, 32), 1.0), ((16, 1), 1.0))
)
QUICK_TRAINING_PROBLEMS = (LinearProblem(512, 2048, 2048, Block(16, 16), {0.8: 1.0, 0.9: 4.0}, (1,)),)
MODEL_CASES = (ModelCase(0.9, 2.2), ModelCase(0.2, 0.97), ModelCase(0.0, 0.97))
