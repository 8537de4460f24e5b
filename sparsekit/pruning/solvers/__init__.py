"""Which weights go, and what the others become."""

from sparsekit.pruning.solvers.alps import ALPS
from sparsekit.pruning.solvers.base import LayerProblem, RankingSolver, Solution, Solver
from sparsekit.pruning.solvers.cap import CAP
from sparsekit.pruning.solvers.channel_lasso import ChannelLasso
from sparsekit.pruning.solvers.chita import CHITA
from sparsekit.pruning.solvers.dsnot import DSnoT
from sparsekit.pruning.solvers.least_squares import LeastSquares
from sparsekit.pruning.solvers.obert import OBERT
from sparsekit.pruning.solvers.obs import OBS
from sparsekit.pruning.solvers.sparsegpt import SparseGPT
from sparsekit.pruning.solvers.woodfisher import WoodFisher

SOLVERS: tuple[type[Solver], ...] = (
    SparseGPT,
    WoodFisher,
    OBERT,
    CAP,
    OBS,
    CHITA,
    ALPS,
    DSnoT,
    LeastSquares,
    ChannelLasso,
)

__all__ = [
    "ALPS",
    "CAP",
    "CHITA",
    "OBERT",
    "OBS",
    "SOLVERS",
    "ChannelLasso",
    "DSnoT",
    "LayerProblem",
    "LeastSquares",
    "RankingSolver",
    "Solution",
    "Solver",
    "SparseGPT",
    "WoodFisher",
]
