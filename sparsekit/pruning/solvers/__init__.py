"""Which weights go, and what the others become."""

from sparsekit.pruning.solvers.base import LayerProblem, RankingSolver, Solution, Solver
from sparsekit.pruning.solvers.sparsegpt import SparseGPT

SOLVERS: tuple[type[Solver], ...] = (SparseGPT,)

__all__ = ["SOLVERS", "LayerProblem", "RankingSolver", "Solution", "Solver", "SparseGPT"]
