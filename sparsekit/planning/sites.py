"""The layers of a model that can be replaced: what each computes, what keeps it as it is, and what takes its place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sparsekit.formats import Format
from sparsekit.kernels.convolution import Convolution, Size
from sparsekit.mask import Mask
from sparsekit.nn import SparseConv2d, SparseLinear
from sparsekit.nn.border import Border
from sparsekit.planning.fusion import Fusion, apply_fusion, folded
from sparsekit.planning.jobs import MEMORY_FORMATS, ConvJob, Job, LinearJob, Orders
from sparsekit.planning.observe import UNBATCHED, Key

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Site(ABC):
    """One layer of a model.

    Args:
        model: the root; a site never changes it.
        name: of the layer, as in ``named_modules``.
        fusion: what :func:`~sparsekit.planning.fusion.find_fusions` found behind it, or None.
        quantize: what weights may be rounded to: "int8", or None for exact ways only.
    """

    def __init__(self, model: nn.Module, name: str, fusion: Fusion | None, quantize: str | None = None) -> None:
        self.model, self.name, self.quantize = model, name, quantize
        self.fusion = fusion or Fusion(name, None, None, "none")
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        self.layer: nn.Linear | nn.Conv2d = layer

    @property
    def fused(self) -> tuple[str, ...]:
        """Names of the layers whose work a replacement takes over."""
        return tuple(name for name in (self.fusion.norm, self.fusion.activation) if name is not None)

    def why_not(self, keys: tuple[Key, ...]) -> str:
        """Why the layer cannot be replaced, whatever it would gain, or ""."""
        layer, kind = self.layer, nn.Linear if isinstance(self.layer, nn.Linear) else nn.Conv2d
        computes = ("forward", "_conv_forward")
        if any(getattr(type(layer), n, None) is not getattr(kind, n, None) or n in vars(layer) for n in computes):
            return f"{type(layer).__name__} has a forward of its own"
        if any(vars(layer)[hooks] for hooks in HOOKS):
            return "it has hooks, which a packed layer would lose"
        if not layer.weight.numel():
            return "it has no weights"
        if layer.weight.device.type not in ("cpu", "cuda"):
            return f"layers on {layer.weight.device.type} are not measured"
        if UNBATCHED in keys:
            return "the example inputs call it with an image that has no batch dimension"
        return ""

    @property
    def work(self) -> tuple[object, ...]:
        """Equal for layers that do the same with weights of one shape, whatever their values."""
        weight = self.layer.weight
        return (weight.shape, weight.dtype, self.layer.bias is None, self.fusion.norm is None, self.fusion.kind)

    @abstractmethod
    def job(self, mask: Mask, key: Key, others: int, order: Orders) -> Job:
        """Return what is to be measured for inputs of one size."""

    @abstractmethod
    def put(
        self, into: nn.Module, format: type[Format], mask: Mask, kernels: Mapping[Key, str], order: Orders
    ) -> nn.Module:
        """Put the packed layer into a copy of the model, and return the copy."""


class LinearSite(Site):
    """A linear layer, with the activation that can be fused with it."""

    def job(self, mask: Mask, key: Key, others: int, order: Orders) -> Job:
        """See :class:`Site`; the order of images does not matter."""
        assert isinstance(key, int)
        bias = None if self.layer.bias is None else self.layer.bias.detach()
        return LinearJob(self.layer.weight.detach(), mask, bias, others, key, self.fusion.kind, self.quantize)

    def put(
        self, into: nn.Module, format: type[Format], mask: Mask, kernels: Mapping[Key, str], order: Orders
    ) -> nn.Module:
        """See :class:`Site`."""
        linear = into.get_submodule(self.name)
        assert isinstance(linear, nn.Linear)
        by_batch = {key: name for key, name in kernels.items() if isinstance(key, int)}
        packed = format.pack(linear.weight.detach(), mask)
        settings: dict[str, Any] = {"kernel_by_batch": by_batch, "activation": self.fusion.kind}
        sparse = SparseLinear.from_packed(packed, linear.bias, **settings).train(linear.training)
        sparse.layer_name, sparse.absorbed = self.name, self.fused
        return apply_fusion(into, self.fusion, sparse)


class ConvSite(Site):
    """A convolution, with the BatchNorm and the activation that can be fused with it; its weights stay exact."""

    def __init__(self, model: nn.Module, name: str, fusion: Fusion | None, quantize: str | None = None) -> None:
        super().__init__(model, name, fusion, quantize)
        assert isinstance(self.layer, nn.Conv2d)
        self.border = Border(Convolution.of(self.layer, self.fusion.kind), self.layer.padding_mode)

    @property
    def work(self) -> tuple[object, ...]:
        """See :class:`Site`."""
        return (*super().work, self.border.convolution, self.border.mode)

    def job(self, mask: Mask, key: Key, others: int, order: Orders) -> Job:
        """See :class:`Site`."""
        assert not isinstance(key, int)
        weight, bias = self._folded(self.model)
        dense = tuple(self.model.get_submodule(name) for name in (self.name, *self.fused))
        return ConvJob(weight, mask, bias, others, self.border, key, order, dense)

    def put(
        self, into: nn.Module, format: type[Format], mask: Mask, kernels: Mapping[Key, str], order: Orders
    ) -> nn.Module:
        """See :class:`Site`."""
        conv = into.get_submodule(self.name)
        weight, bias = self._folded(into)
        if bias is not None:
            # frozen where all that it is made of is: a layer that needs no gradient is called directly
            made_of = (conv.bias, *(p for name in self.fused for p in into.get_submodule(name).parameters()))
            bias = nn.Parameter(bias, any(p is not None and p.requires_grad for p in made_of))
        by_size: dict[Size, str] = {key: name for key, name in kernels.items() if not isinstance(key, int)}
        sparse = SparseConv2d.from_packed(
            format.pack(weight, mask),
            self.border.convolution,
            bias,
            kernel_by_size=by_size,
            padding_mode=self.border.mode,
            memory_format=MEMORY_FORMATS[order],
        ).train(conv.training)
        sparse.layer_name, sparse.absorbed = self.name, self.fused
        return apply_fusion(into, self.fusion, sparse)

    def _folded(self, model: nn.Module) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the convolution in ``model``, its BatchNorm folded in."""
        conv = model.get_submodule(self.name)
        assert isinstance(conv, nn.Conv2d)
        if self.fusion.norm is None:
            return conv.weight.detach(), conv.bias if conv.bias is None else conv.bias.detach()
        norm = model.get_submodule(self.fusion.norm)
        assert isinstance(norm, nn.BatchNorm2d)
        return folded(conv, norm)
