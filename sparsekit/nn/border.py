"""What a convolution puts around its images when it is not zeros."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from sparsekit.errors import InputError, LayerError
from sparsekit.kernels.convolution import Convolution, Size, in_order_of

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
PADDING_MODES: tuple[PaddingMode, ...] = get_args(PaddingMode)
_SPARE = {"reflect": 1, "circular": 0}
"""By how much an image has to be larger than its padding."""


class Border:
    """The padding of a convolution, added to the images before a kernel sees them.

    Args:
        convolution: with its padding; a padding of zeros is left to the kernels.
        mode: what the padding holds.

    Raises:
        LayerError: the mode is unknown.
    """

    def __init__(self, convolution: Convolution, mode: PaddingMode = "zeros") -> None:
        if mode not in PADDING_MODES:
            raise LayerError(f"convolution: expected a padding mode of {', '.join(PADDING_MODES)}, got {mode!r}")
        self.convolution, self.mode = convolution, mode
        self.added = mode != "zeros" and any(convolution.padding)
        """Whether anything is added."""
        self.inner = replace(convolution, padding=(0, 0, 0, 0)) if self.added else convolution
        """What is left for a kernel to do."""
        self.inner_text = self.inner.text

    def inner_size(self, size: Size) -> Size:
        """Return the size ``(N, H, W)`` of what a kernel sees of images of ``size``."""
        return (size[0], *self.convolution.padded_size(size[1], size[2])) if self.added else size

    def inner_names(self, names: Mapping[Size, str]) -> dict[Size, str]:
        """Return kernel names by the size of the images as names by the size that a kernel sees."""
        return {self.inner_size(size): name for size, name in names.items()}

    def around(self, x: Tensor) -> Tensor:
        """Return the images with what is added, in the same memory order."""
        top, bottom, left, right = self.convolution.padding
        return in_order_of(x, F.pad(x, (left, right, top, bottom), self.mode)) if self.added else x

    def check(self, x: Tensor, where: str) -> None:
        """Raise :class:`InputError`, which begins with ``where``, unless the images are large enough to be padded."""
        if self.added and self.mode in _SPARE:
            top, bottom, left, right = self.convolution.padding
            high, wide = max(top, bottom) + _SPARE[self.mode], max(left, right) + _SPARE[self.mode]
            if x.shape[2] < high or x.shape[3] < wide:
                raise InputError(
                    f"{where}: expected an image of at least {high} x {wide} for {self.mode} padding, "
                    f"got {x.shape[2]} x {x.shape[3]}"
                )
