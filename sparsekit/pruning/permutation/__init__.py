"""Reorder channels so that a pattern keeps more."""

from sparsekit.pruning.permutation.permute import METHODS, permute_for
from sparsekit.pruning.permutation.report import PermutedLayer, PermutedLayers

__all__ = ["METHODS", "PermutedLayer", "PermutedLayers", "permute_for"]
