"""Run a model backwards without a trace: modes, buffers, gradients and flags are put back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from sparsekit.batches import describe, evaluating
from sparsekit.errors import CalibrationError
from sparsekit.pruning.statistics.base import ModelView


@contextmanager
def differentiable(view: ModelView, *, batch_statistics: bool = False) -> Iterator[list[Tensor]]:
    """Put the model in eval mode, and let gradients flow to the weights of the targets alone; yield these weights.

    Args:
        view: what is looked at.
        batch_statistics: BatchNorm normalises by the batch instead of by its running averages, which mean nothing
            before training. The averages stay as they are.

    Raises:
        CalibrationError: inference mode is on, so that there are no gradients.
    """
    if torch.is_inference_mode_enabled() or any(target.weight.is_inference() for target in view.targets):
        raise CalibrationError("expected a model with gradients, got one under torch.inference_mode()")
    weights: list[Tensor] = [target.weight for target in view.targets]
    flags = {parameter: (parameter.requires_grad, parameter.grad) for parameter in view.model.parameters()}
    buffers = {buffer: buffer.detach().clone() for buffer in view.model.buffers()} if batch_statistics else {}
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluating(view.model), torch.enable_grad():
            for module in view.model.modules():
                if batch_statistics and isinstance(module, _BatchNorm):
                    module.training = True
            for parameter in flags:
                parameter.requires_grad_(False)
            for weight in weights:
                weight.requires_grad_(True)
            yield weights
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for parameter, (wanted, gradient) in flags.items():
            parameter.requires_grad_(wanted)
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, value in buffers.items():
                buffer.copy_(value)


def finite_loss(view: ModelView, index: int) -> Tensor:
    """The loss of batch ``index``, of one element.

    Raises:
        CalibrationError: the loss function fails on it, or returns something else than a finite scalar.
    """
    batch = view.batches[index]
    assert view.loss_fn is not None
    try:
        loss: Any = view.loss_fn(view.model, batch)
    except Exception as error:
        raise CalibrationError(
            f"batches[{index}]: expected what loss_fn(model, batch) takes, got {describe(batch)}, and it raised "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise CalibrationError(f"loss_fn: expected a scalar tensor, got {describe(loss)} for batches[{index}]")
    if not bool(torch.isfinite(loss)):
        raise CalibrationError(f"loss_fn: expected a finite loss, got {loss.item()} for batches[{index}]")
    return loss


def loss_of(view: ModelView, index: int) -> Tensor:
    """The loss of batch ``index``, a scalar with a graph behind it.

    Raises:
        CalibrationError: as :func:`finite_loss`, or the loss does not depend on the weights of the targets.
    """
    loss = finite_loss(view, index)
    if not loss.requires_grad:
        raise CalibrationError(f"loss_fn: expected a loss that depends on the layers, got a constant {loss.item():g}")
    return loss.reshape(())


def gradients(view: ModelView, loss: Tensor, weights: list[Tensor], *, create_graph: bool = False) -> list[Tensor]:
    """Return the gradient of ``loss`` with respect to each of ``weights``, those of ``view.targets``.

    Raises:
        CalibrationError: the loss does not depend on one of the layers, which is named, or a gradient is not finite.
    """
    found = torch.autograd.grad(loss, weights, create_graph=create_graph, allow_unused=True)
    for target, gradient in zip(view.targets, found):
        if gradient is None:
            raise CalibrationError(f"{target.name}: expected a loss that depends on it, got one that does not")
        if not bool(torch.isfinite(gradient).all()):
            raise CalibrationError(f"{target.name}: expected finite gradients, got NaN or infinite ones")
    return list(found)


def mean_gradients(view: ModelView, weights: list[Tensor]) -> list[Tensor]:
    """Return the mean over the batches of the gradient with respect to each of ``weights``; see :func:`gradients`."""
    total = [weight.detach() * 0 for weight in weights]
    for index in range(len(view.batches)):
        torch._foreach_add_(total, gradients(view, loss_of(view, index), weights))
    return [summed / len(view.batches) for summed in total]


@contextmanager
def twice_differentiable(view: ModelView, *, batch_statistics: bool = False) -> Iterator[list[Tensor]]:
    """Like :func:`differentiable`, with attention computed by the one kernel that has second derivatives."""
    with sdpa_kernel(SDPBackend.MATH), differentiable(view, batch_statistics=batch_statistics) as weights:
        yield weights


def hessian_product(
    view: ModelView, slopes: Sequence[Tensor], weights: list[Tensor], vector: Sequence[Tensor]
) -> list[Tensor]:
    """Return the Hessian of a loss times ``vector``, in the shapes of ``weights``; the graph stays for another.

    Args:
        view: what is looked at.
        slopes: the :func:`gradients` of the loss, with ``create_graph``, inside :func:`twice_differentiable`.
        weights: of ``view.targets``.
        vector: one tensor per weight.

    Raises:
        CalibrationError: an operation of the model has no second derivative, or the product is not finite.
    """
    bent = [(slope, part) for slope, part in zip(slopes, vector) if slope.requires_grad]
    if not bent:  # the loss is linear in the weights
        return [torch.zeros_like(weight) for weight in weights]
    outputs, parts = zip(*bent)
    try:
        found = torch.autograd.grad(outputs, weights, parts, retain_graph=True, allow_unused=True)
    except (RuntimeError, NotImplementedError) as error:
        raise CalibrationError(f"model: expected operations with second derivatives, got: {error}") from error
    products = [torch.zeros_like(weight) if part is None else part for weight, part in zip(weights, found)]
    for target, product in zip(view.targets, products):
        if not bool(torch.isfinite(product).all()):
            raise CalibrationError(f"{target.name}: expected finite second derivatives, got NaN or infinite ones")
    return products
