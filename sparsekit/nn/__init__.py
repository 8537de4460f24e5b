"""Layers with packed weights."""

from sparsekit.errors import LayerError
from sparsekit.nn.conv import SparseConv2d
from sparsekit.nn.linear import SparseLinear
from sparsekit.nn.packed import PackedLayer
from sparsekit.nn.replace import module_at, replace_module

LAYERS: tuple[type[PackedLayer], ...] = (SparseLinear, SparseConv2d)

__all__ = ["LAYERS", "PackedLayer", "SparseConv2d", "SparseLinear", "layer_named", "module_at", "replace_module"]


def layer_named(kind: str) -> type[PackedLayer]:
    """Return the layer that a checkpoint calls ``kind``.

    Raises:
        LayerError: there is none.
    """
    for layer in LAYERS:
        if layer.kind == kind:
            return layer
    raise LayerError(f"expected a layer of {', '.join(layer.kind for layer in LAYERS)}, got {kind!r}")
