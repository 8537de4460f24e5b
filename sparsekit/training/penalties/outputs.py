"""What layers put out in the last forward pass that trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sparsekit.training.site import Site


class Tap:
    """A forward hook that hands over outputs of one site's layers; copies and pickles of it hand over nothing."""

    def __init__(self, take: Callable[[nn.Module, Tensor], None] | None = None) -> None:
        self.take = take

    def __call__(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        """Hand over ``output`` where it belongs to a forward pass that trains."""
        trains = layer.training and torch.is_grad_enabled() and output.requires_grad
        if self.take is not None and trains and torch._C._current_graph_task_id() == -1:  # not recomputed in backward
            self.take(layer, output)

    def __reduce__(self) -> tuple[type[Tap], tuple[()]]:
        return Tap, ()


class Outputs:
    """Watches the layers of ``sites``, until :meth:`close`.

    Attributes:
        last: outputs since the forward pass that began after the last look, ``(samples and places, out)`` each, part
            of the graph, by parameter name. A layer that ran several times, or shares its weight, has several.
    """

    def __init__(self, sites: tuple[Site, ...]) -> None:
        self.last: dict[str, list[Tensor]] = {}
        self._seen = False
        self._handles: list[RemovableHandle] = []
        for site in sites:
            for layer in site.layers:
                self._handles.append(layer.register_forward_hook(Tap(self._keeper(site.name))))

    def look(self) -> dict[str, list[Tensor]]:
        """Return :attr:`last`; the next output begins a new forward pass."""
        self._seen = True
        return self.last

    def clear(self) -> None:
        """Let go of the outputs, and of the graph that they hold."""
        self.last, self._seen = {}, False

    def close(self) -> None:
        """Remove the hooks."""
        self.clear()
        for handle in self._handles:
            handle.remove()

    def _keeper(self, name: str) -> Callable[[nn.Module, Tensor], None]:
        def take(layer: nn.Module, output: Tensor) -> None:
            if self._seen:
                self.clear()
            self.last.setdefault(name, []).append(by_unit(layer, output))

        return take


def by_unit(layer: nn.Module, output: Tensor) -> Tensor:
    """Return ``output`` as ``(samples and places, out)``."""
    units = output.movedim(-3, -1) if isinstance(layer, nn.Conv2d) else output
    return units.reshape(-1, units.shape[-1])


def mean_over_ranks(value: Tensor | None, zeros: Tensor) -> Tensor | None:
    """Return the mean of ``value`` over the processes that train together and have one; None where none has.

    Args:
        value: of this process, or None.
        zeros: of its shape; the result has their dtype.
    """
    here = zeros if value is None else value.to(zeros.dtype)
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None if value is None else here
    total = torch.cat([here, zeros.new_full((1,), float(value is not None))])
    torch.distributed.all_reduce(total)
    return total[:-1] / total[-1] if bool(total[-1] > 0) else None
