"""The best weights on a mask that something else has chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.mask import Mask
from sparsekit.pruning.criteria import Criterion, Magnitude
from sparsekit.pruning.selection import selected
from sparsekit.pruning.solvers.base import LayerProblem, Solution, Solver
from sparsekit.pruning.solvers.normal_equations import Targets, as_weight, check_options, needs_of, normal_equations
from sparsekit.pruning.statistics import Needs


@dataclass(frozen=True)
class LeastSquares(Solver):
    """Let a criterion, or masks that are there already, choose what stays; then solve for it by least squares.

    Each row minimises ``||y - w X||^2`` over its kept weights, by conjugate gradients from the dense ones.

    Args:
        criterion: what chooses.
        masks: by parameter name, instead of the criterion; each has to remove as much as is asked for.
        damping: pulls each weight towards the dense one, as a fraction of the mean second moment of the inputs.
        targets: ``"layer"`` reproduces the outputs of the dense weight on the inputs from the layers pruned before it,
            ``"dense"`` those of the dense model, so that it also makes up for the layers before, and ``"residual"``
            for the stream that a residual branch is added to as well.
        steps: of conjugate gradients, at most.

    Raises:
        PruningError: an option is out of its range, or ``masks`` lack a layer or disagree with the pattern.

    Source: He, Zhang, Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", eq. 1, the second of its
    two steps, for any mask.
    """

    criterion: Criterion = Magnitude()  # noqa: RUF009 - frozen
    masks: Mapping[str, Mask] | None = field(default=None, hash=False)
    damping: float = 1e-3
    targets: Targets = "dense"
    steps: int = 100

    def __post_init__(self) -> None:
        check_options(self, self.damping, self.targets)
        if self.steps < 1:
            raise PruningError(f"LeastSquares: expected steps >= 1, got {self.steps}")
        if not isinstance(self.criterion, Criterion):
            raise PruningError(f"LeastSquares: expected a criterion, got {self.criterion!r}")

    @property
    def by_row(self) -> bool:
        """Whether the criterion takes the same count of each row."""
        return self.criterion.by_row and self.masks is None

    def statistics(self) -> Needs:
        """Return what the criterion needs, and the second moments of the inputs."""
        chosen_by = () if self.masks is not None else self.criterion.statistics()
        return tuple(dict.fromkeys((*chosen_by, *needs_of(self.targets))))

    def solve(self, problem: LayerProblem) -> Solution:
        """Solve one layer; see :meth:`Solver.solve`. A layer that loses nothing stays as it is."""
        keep = self._given(problem) if self.masks is not None else chosen(self.criterion, problem)
        if bool(keep.all()):
            return Solution(problem.weight.clone(), keep)
        equations = normal_equations(problem, self.damping, self.targets)
        rows = keep.reshape(equations.dense.shape)
        return Solution(as_weight(equations.refined(equations.dense, rows, self.steps), problem), keep)

    def _given(self, problem: LayerProblem) -> Tensor:
        assert self.masks is not None
        mask = self.masks.get(problem.name)
        if mask is None:
            raise PruningError(f"{problem.name}: expected masks with its name, got those of {sorted(self.masks)}")
        keep = mask.keep.to(problem.weight.device)
        if keep.shape != problem.weight.shape or not problem.pattern.admits(keep):
            raise PruningError(
                f"{problem.name}: expected a mask of {problem.pattern} and shape {tuple(problem.weight.shape)}, got "
                f"{mask.pattern} and {tuple(keep.shape)}"
            )
        return keep


def chosen(criterion: Criterion, problem: LayerProblem) -> Tensor:
    """What ``criterion`` keeps of the weight of ``problem``, bool ``(out, in, ...)``."""
    scores = criterion.score(problem.weight, problem.stats)
    share = criterion.share(problem.name, problem.pattern.pool(scores), problem.sparsity)
    return selected(scores, problem.pattern, share, criterion.by_row)
