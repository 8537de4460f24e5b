"""One weight that is pruned while it trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsekit.mask import Mask
from sparsekit.patterns import Pattern, Unstructured
from sparsekit.pruning.statistics import Layer
from sparsekit.training.sharding import cut, joined, piece, whole


@dataclass(eq=False)
class Site:
    """One parameter, its mask, and what a method remembers about it.

    All tensors are whole: of the parameter's shape, on its device, also where the parameter is sharded over ranks.

    Args:
        name: of the parameter.
        weight: the parameter ``(out, in, ...)``.
        layers: the layers that use it.
        pattern: what its masks obey.
        keep: bool, of the weight's shape; True = stays. Change it through :meth:`hold` or :meth:`propose`.
        held: whether removed weights are held at exactly zero; otherwise ``keep`` is what the method would remove now.
        tensors: what the method remembers, by a name of its own; saved and restored with the run.
    """

    name: str
    weight: nn.Parameter
    layers: tuple[Layer, ...]
    pattern: Pattern
    keep: Tensor
    held: bool = False
    tensors: dict[str, Tensor] = field(default_factory=dict)
    _removed_here: Tensor | None = field(default=None, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape."""
        return tuple(self.weight.shape)

    @property
    def sparsity(self) -> float:
        """The fraction of zeros in the mask."""
        return 1.0 - int(self.keep.sum()) / max(1, self.keep.numel())

    @torch.no_grad()
    def zeros(self) -> float:
        """Return the fraction of zeros in the weight as it is, whatever the mask says."""
        return 1.0 - int(torch.count_nonzero(whole(self.weight.detach()))) / max(1, self.keep.numel())

    @property
    def mask(self) -> Mask:
        """The mask with its pattern; raises :class:`~sparsekit.errors.MaskError` where it is not legal.

        A full mask, before the first choice, is no 2:4 and its like: it is unstructured then.
        """
        full = self.pattern.fixes_sparsity and bool(self.keep.all())
        return Mask(self.keep.clone(), Unstructured() if full and not self.pattern.admits(self.keep) else self.pattern)

    def value(self) -> Tensor:
        """Return the whole weight as part of the graph: a penalty on it has a gradient."""
        return whole(self.weight)

    @torch.no_grad()
    def read(self) -> Tensor:
        """Return the whole weight, without a gradient: a copy."""
        full = whole(self.weight.detach())
        return full.clone() if full.data_ptr() == piece(self.weight).data_ptr() else full

    @torch.no_grad()
    def write(self, value: Tensor) -> None:
        """Set the weight to ``value``, whole."""
        piece(self.weight).copy_(cut(value.to(self.weight.dtype), self.weight))

    @torch.no_grad()
    def gradient(self) -> Tensor:
        """Return the whole gradient; zeros where the backward pass did not reach the weight."""
        if self.weight.grad is None:
            return torch.zeros(self.shape, dtype=self.weight.dtype, device=self.keep.device)
        return whole(self.weight.grad)

    @torch.no_grad()
    def set_gradient(self, value: Tensor) -> None:
        """Give the weight the whole gradient ``value``."""
        part = cut(value.to(self.weight.dtype), self.weight)
        if self.weight.grad is None:
            self.weight.grad = joined(part.clone(), self.weight)
        else:
            piece(self.weight.grad).copy_(part)

    @torch.no_grad()
    def hold(self, keep: Tensor, optimizer: Optimizer) -> None:
        """Make ``keep`` the mask and hold it: what goes and what comes starts from zero, in the optimizer as well."""
        changed = (keep != self.keep) if self.held else ~keep
        self.keep, self.held, self._removed_here = keep, True, None
        if bool(changed.any()):
            here = cut(changed, self.weight)
            for remembered in self.remembered(optimizer):
                piece(remembered).masked_fill_(here, 0.0)
        self.enforce()

    def propose(self, keep: Tensor) -> None:
        """Make ``keep`` the mask without holding it: the weights stay as they are."""
        self.keep, self._removed_here = keep, None

    @torch.no_grad()
    def enforce(self) -> None:
        """Set the removed weights to zero, where the mask is held."""
        if self.held:
            piece(self.weight).masked_fill_(self._removed(), 0.0)

    @torch.no_grad()
    def enforce_gradient(self) -> None:
        """Set the gradient of removed weights to zero, where the mask is held."""
        if self.held and self.weight.grad is not None:
            piece(self.weight.grad).masked_fill_(self._removed(), 0.0)

    def remembered(self, optimizer: Optimizer) -> Iterator[Tensor]:
        """Yield what ``optimizer`` remembers per weight: momentum, second moments."""
        for value in optimizer.state.get(self.weight, {}).values():
            if isinstance(value, Tensor) and value.shape == self.weight.shape:
                yield value

    def _removed(self) -> Tensor:
        """What this rank holds of the weights that go."""
        if self._removed_here is None:
            self._removed_here = cut(~self.keep, self.weight)
        return self._removed_here
