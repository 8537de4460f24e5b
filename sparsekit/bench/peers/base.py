"""What a peer is: another library's way to run the layer that is measured, as a user would call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsekit.patterns import Pattern

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Layer:
    """One linear layer and its input, as a peer gets them.

    Args:
        weight: ``(rows, columns)`` with its zeros in place.
        bias: ``(rows,)``.
        x: ``(batch, columns)``, contiguous.
        pattern: how the weight was pruned.
        threads: threads to use.
    """

    weight: Tensor
    bias: Tensor
    x: Tensor
    pattern: Pattern
    threads: int

    @property
    def batch(self) -> int:
        """Tokens."""
        return self.x.shape[0]


@dataclass(frozen=True)
class Peer:
    """A way of another library.

    Args:
        name: the row's name: library first, then the way.
        package: the distribution whose version is noted, and whose absence is told.
        bind: given a layer, returns what computes ``(batch, rows)`` from ``layer.x``. What a model would do once, such
            as packing and compiling, is done here; what it would do in every call, such as transposing activations, is
            in the call.
        refuses: the reason why it does not run a layer, or "".
        sparse: whether it reads the zeros; if not, it is timed once, with all weights.
        beside: the kinds of weights beside which it is of interest.
        rounds: whether it computes with 8 bits, which a check has to allow for.
        own_threads: whether it has threads of its own, which must not meet those of torch still waiting for work.
    """

    name: str
    package: str
    bind: Callable[[Layer], Call]
    refuses: Callable[[Layer], str] = lambda layer: ""
    sparse: bool = False
    beside: tuple[str, ...] = ("float32",)
    rounds: bool = False
    own_threads: bool = False


def only_float32(layer: Layer) -> str:
    """Refuse all but float32."""
    if layer.weight.dtype is torch.float32:
        return ""
    return f"it runs float32, not {str(layer.weight.dtype).removeprefix('torch.')}"


def only_one_thread(layer: Layer) -> str:
    """Refuse all but float32, and more than one thread."""
    return only_float32(layer) or ("" if layer.threads == 1 else f"it runs on one thread, not on {layer.threads}")


def transposed(y: Tensor) -> Tensor:
    """Return ``(rows, batch)`` as contiguous ``(batch, rows)``, which the next layer reads."""
    return y.T.contiguous()
