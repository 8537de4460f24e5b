"""Layers with packed weights."""

from sparsekit.nn.linear import SparseLinear
from sparsekit.nn.packed import PackedLayer
from sparsekit.nn.replace import module_at, replace_module

__all__ = ["PackedLayer", "SparseLinear", "module_at", "replace_module"]
