"""Layers with packed weights."""

from sparsekit.nn.conv import SparseConv2d
from sparsekit.nn.linear import SparseLinear
from sparsekit.nn.packed import PackedLayer
from sparsekit.nn.replace import module_at, replace_module

__all__ = ["PackedLayer", "SparseConv2d", "SparseLinear", "module_at", "replace_module"]
