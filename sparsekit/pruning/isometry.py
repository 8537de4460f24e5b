"""Make pruned layers keep the length of what they pass on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsekit.errors import PruningError
from sparsekit.mask import Mask
from sparsekit.pruning.statistics import Target, groups_of
from sparsekit.pruning.targets import find_targets


@dataclass(frozen=True)
class Isometry:
    """How far the layers are from isometries, summed over them, before and after."""

    before: float
    after: float


@torch.no_grad()
def isometry_(model: nn.Module, masks: Mapping[str, Mask | Tensor], *, steps: int = 1000, lr: float = 0.1) -> Isometry:
    """Bring the kept weights near to an isometry, in place and without data: for a pruned model before training.

    Minimises ``sum over layers of ||(m * W)^T (m * W) - I||_F``, ``W`` being ``(in, out)``, or ``(in * kernel height *
    kernel width, out)`` of a Conv2d; a grouped one has such a matrix per group, and the norm is over all of them. Each
    layer takes steps of gradient descent; one that would raise the penalty is halved instead of taken, because the norm
    has a kink where it is 0. Removed weights are zero afterwards, and biases stay. A layer with more outputs than
    inputs cannot get to 0.

    Args:
        model: any module; on any error it is as it was.
        masks: by parameter name, as ``prune`` returns them; other layers are left alone.
        steps: at most, per layer.
        lr: of the first step.

    Raises:
        LayerError: a name is not that of the weight of a Linear or Conv2d, or the weight is not finite.
        MaskError: a mask does not belong to its weight.
        PruningError: ``steps`` is negative, or ``lr`` is not positive.

    Source: Lee, Ajanthan, Gould, Torr 2019, "A Signal Propagation Perspective for Pruning Neural Networks at
    Initialization".
    """
    if steps < 0 or not lr > 0:
        raise PruningError(f"isometry_: expected steps >= 0 and lr > 0, got {steps} and {lr}")
    if not masks:
        return Isometry(0.0, 0.0)
    targets = find_targets(model, [name.removesuffix("weight").rstrip(".") for name in masks])
    found: list[tuple[Target, Tensor]] = []
    before = after = 0.0
    for target in targets:
        given = masks[target.name]
        mask = given if isinstance(given, Mask) else Mask(given)
        mask.check(target.weight, target.name)
        groups = groups_of(target.layers[0])
        wide = torch.promote_types(target.weight.dtype, torch.float32)
        keep = mask.keep.reshape(groups, target.weight.shape[0] // groups, -1)
        weight = target.weight.detach().to(wide).reshape(keep.shape)
        before += float(_gap(weight * keep).norm())
        solved = _descend(weight * keep, keep, steps, lr).to(target.weight.dtype)
        after += float(_gap(solved.to(wide)).norm())
        found.append((target, solved.reshape(target.weight.shape)))
    for target, solved in found:
        target.weight.copy_(solved)
    return Isometry(before, after)


def _gap(weight: Tensor) -> Tensor:
    """``W W^T - I`` of each group of ``weight`` ``(groups, out, columns)``, whose filters are rows here."""
    gram = weight @ weight.transpose(1, 2)
    gram.diagonal(dim1=1, dim2=2).sub_(1.0)
    return gram


def _descend(weight: Tensor, keep: Tensor, steps: int, lr: float) -> Tensor:
    """Minimise the norm of the gap over the kept entries of ``weight``; it never rises."""
    gap = _gap(weight)
    penalty = torch.linalg.vector_norm(gap)
    slope = gap @ weight * keep
    floor = torch.finfo(weight.dtype).eps * max(1.0, float(weight.shape[:2].numel()) ** 0.5)
    for _ in range(steps):
        if float(penalty) <= floor or lr <= torch.finfo(weight.dtype).eps:
            break
        moved = weight - 2 * lr * slope / penalty
        gap = _gap(moved)
        if float(risen := torch.linalg.vector_norm(gap)) < float(penalty):
            weight, penalty, slope = moved, risen, gap @ moved * keep
        else:
            lr /= 2
    return weight
