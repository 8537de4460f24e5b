"""Turn what a rule keeps into masks and zeros."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from sparsekit.errors import MaskError, PruningError
from sparsekit.mask import Mask
from sparsekit.patterns import Pattern, Unstructured

Kept = Mapping[str, tuple[nn.Parameter, Tensor]]


@torch.no_grad()
def zeroed(kept: Kept, wanted: Pattern | None = None) -> dict[str, Mask]:
    """Zero in place all that does not stay, and return the masks, with the pattern ``wanted`` where it admits them."""
    masks = {}
    for name, (_, keep) in kept.items():
        fits = wanted is not None and wanted.refuses(tuple(keep.shape)) is None and wanted.admits(keep)
        masks[name] = Mask(keep, wanted if fits and wanted is not None else Unstructured())
    for parameter, keep in kept.values():
        parameter.masked_fill_(~keep, 0.0)
    return masks


def earlier(masks: Mapping[str, Mask] | None, name: str, weight: Tensor) -> Tensor:
    """What an earlier call left of ``weight``, the parameter called ``name``: everything, where there was none.

    Raises:
        MaskError: the mask belongs to another weight.
    """
    if masks is None:
        return torch.ones_like(weight, dtype=torch.bool)
    if name not in masks:
        raise MaskError(f"masks: expected one for {name}, got masks for {', '.join(masks) or 'nothing'}")
    masks[name].check(weight, name)
    return masks[name].keep


def expect_strategy(strategy: str, known: Collection[str]) -> None:
    """Raise :class:`PruningError` unless ``strategy`` is one of ``known``."""
    if strategy not in known:
        raise PruningError(f"strategy: expected one of {', '.join(known)}, got {strategy!r}")
