"""Solve again for the weights of a model that is pruned already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sparsekit.errors import CalibrationError, LayerError
from sparsekit.mask import Mask
from sparsekit.patterns import Unstructured
from sparsekit.pruning.calibration import calibrate
from sparsekit.pruning.prune import undoing
from sparsekit.pruning.solvers import LayerProblem, LeastSquares
from sparsekit.pruning.solvers.normal_equations import needs_of
from sparsekit.pruning.statistics import LayerStatistics, LossFunction, ModelView, Target
from sparsekit.pruning.surveying import split
from sparsekit.pruning.targets import find_targets


@torch.no_grad()
def reconstruct(
    model: nn.Module,
    masks: Mapping[str, Mask] | None,
    batches: Iterable[Any],
    *,
    dense: nn.Module,
    solver: LeastSquares = LeastSquares(),  # noqa: B008 - frozen
    loss_fn: LossFunction | None = None,
) -> None:
    """Solve by least squares for the weights that ``masks`` keep, layer by layer, in place.

    The masks stay; each layer comes as close as it can to what it computes in ``dense``. On any error the model is as
    it was.

    Args:
        model: pruned by whatever means.
        masks: by parameter name; None takes every Linear and Conv2d, and its zeros.
        batches: iterable of what ``model(...)`` takes.
        dense: the model before it was pruned, with layers of the same names; it is left as it is.
        solver: damping, steps and targets.
        loss_fn: runs the models on a batch where they cannot be called on one; see :func:`prune`.

    Raises:
        LayerError: a name is unknown, or ``dense`` lacks a layer or has it in another shape.
        CalibrationError: the batches are empty or refused, or a layer is missed.
        PruningError: a mask does not fit its weight.
    """
    names = None if masks is None else [name.rpartition(".")[0] for name in masks]
    targets = find_targets(model, names)
    known = masks or {target.name: Mask(target.weight != 0, Unstructured()) for target in targets}
    data = list(batches)
    if not data:
        raise CalibrationError("batches: expected what the model takes, got none")
    originals = dict(dense.named_parameters())
    moments, _ = split(needs_of(solver.targets))
    fixed = LeastSquares(masks=known, damping=solver.damping, targets=solver.targets, steps=solver.steps)

    with undoing() as write:

        def visit(target: Target, stats: LayerStatistics) -> None:
            weight = _wide(target, originals.get(target.name))
            problem = LayerProblem(target.name, weight, stats, known[target.name].pattern, 0.0)
            write(target.weight, fixed.solve(problem).weight.to(target.weight.dtype))

        calibrate(ModelView(model, targets, data, loss_fn), moments, visit, dense)


def _wide(target: Target, original: Tensor | None) -> Tensor:
    """The dense weight in float32, or as it is in float64."""
    if original is None or original.shape != target.weight.shape:
        came = "none" if original is None else f"one of shape {tuple(original.shape)}"
        raise LayerError(f"dense: expected {target.name} of shape {tuple(target.weight.shape)}, got {came}")
    return original.detach().to(torch.promote_types(target.weight.dtype, torch.float32))
