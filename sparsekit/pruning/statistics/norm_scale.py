"""By how much a layer's outputs are scaled behind it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Self

from sparsekit.batches import evaluating
from sparsekit.errors import CalibrationError
from sparsekit.pruning.statistics.base import ModelStatistic, ModelView, Target
from sparsekit.pruning.statistics.forward import attempt


@dataclass(frozen=True, eq=False)
class NormScale(ModelStatistic):
    """``|gamma|`` of the BatchNorm that a layer's output goes into, ``(out,)``.

    Which one that is, the computation says and not the order of the modules: the BatchNorm that is called with the very
    tensor that the layer has returned, unchanged. Where several are, as behind a layer that is used several times, the
    largest counts: a channel that one of them needs is needed.
    """

    needs_loss: ClassVar[bool] = False

    scale: Tensor

    @classmethod
    def collect(cls, view: ModelView) -> dict[str, Self]:
        """Run each batch forward once; see :meth:`ModelStatistic.collect`.

        Raises:
            CalibrationError: no BatchNorm with a scale follows a layer, which is named.
        """
        with evaluating(view.model), _followed(view.model, view.targets) as norms:
            for index, batch in enumerate(view.batches):
                attempt(view.run, index, batch)
        return {target.name: cls(_scale(target, norms[target])) for target in view.targets}


@contextmanager
def _followed(model: nn.Module, targets: Sequence[Target]) -> Iterator[dict[Target, list[_BatchNorm]]]:
    """Note which BatchNorm gets what a layer of ``targets`` returns."""
    norms: dict[Target, list[_BatchNorm]] = {target: [] for target in targets}
    returned: dict[int, tuple[weakref.ref[Tensor], int, Target]] = {}

    def leaves(target: Target, layer: nn.Module, args: Any, output: Tensor) -> None:
        if isinstance(layer, nn.Conv2d) or output.dim() == 2:  # else BatchNorm would scale something else than outputs
            returned[id(output)] = (weakref.ref(output), _version(output), target)

    def arrives(norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(norm, _BatchNorm)
        value: Tensor = args[0] if args else kwargs["input"]
        if id(value) in returned:
            tensor, version, target = returned[id(value)]
            if tensor() is value and version == _version(value):
                norms[target].append(norm)

    with ExitStack() as stack:
        for target in targets:
            for layer in target.layers:
                stack.callback(layer.register_forward_hook(partial(leaves, target)).remove)
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                stack.callback(module.register_forward_pre_hook(arrives, with_kwargs=True).remove)
        yield norms


def _version(value: Tensor) -> int:
    """How often ``value`` has been written into."""
    return -1 if value.is_inference() else value._version


def _scale(target: Target, norms: Sequence[_BatchNorm]) -> Tensor:
    """The largest ``|gamma|`` per output of ``target``."""
    scales = [norm.weight.detach().abs() for norm in norms if norm.affine]
    if not scales:
        what = "one without a scale" if norms else "none that gets its output"
        raise CalibrationError(f"{target.name}: expected a BatchNorm behind the layer, got {what}")
    found = torch.stack(scales).amax(dim=0)
    if not bool(torch.isfinite(found).all()):
        raise CalibrationError(f"{target.name}: expected finite scales of its BatchNorm, got NaN or infinite ones")
    return found
