"""Methods that drop weights and grow others in their place, at a constant number of them."""

from sparsekit.training.growth.base import DynamicSparseTraining
from sparsekit.training.growth.dsr import DSR
from sparsekit.training.growth.rigl import RigL
from sparsekit.training.growth.set import SET
from sparsekit.training.growth.snfs import SNFS

__all__ = ["DSR", "SET", "SNFS", "DynamicSparseTraining", "RigL"]
