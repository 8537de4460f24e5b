"""Putting one module in the place of another."""

from __future__ import annotations

from torch import nn

from sparsekit.errors import LayerError
from sparsekit.nn.packed import PackedLayer


def module_at(root: nn.Module, name: str) -> nn.Module:
    """Return the module called ``name``, dotted as in ``named_modules``; the empty name is ``root`` itself.

    Raises:
        LayerError: there is none.
    """
    try:
        return root.get_submodule(name)
    except AttributeError as error:
        raise LayerError(f"{name}: expected the name of a layer of {type(root).__name__}, found none") from error


def replace_module(root: nn.Module, name: str, new: nn.Module) -> nn.Module:
    """Put ``new`` wherever ``root`` holds the module called ``name``, and return the root.

    A module that is registered under several names is replaced under all of them. Only where ``name`` is empty is the
    returned root another module than ``root``.

    Raises:
        LayerError: no module is called so.
    """
    old = module_at(root, name)
    if old is root:
        return new
    for parent in root.modules():
        for child_name, child in parent._modules.items():
            if child is old:
                parent._modules[child_name] = new
                _keep_calling(parent, new)
    return root


def _keep_calling(parent: nn.Module, new: nn.Module) -> None:
    """Switch off what would read the new layer's weight instead of calling it.

    In inference torch's transformer layer hands the weights of its two Linears to one fused operator, for which a
    packed weight would be unpacked in every call; it does so only for activations that it knows.
    """
    if isinstance(parent, nn.TransformerEncoderLayer) and isinstance(new, PackedLayer):
        parent.activation_relu_or_gelu = 0
