"""Whether input and bias fit a packed weight."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsekit.errors import InputError
from sparsekit.kernels.convolution import Convolution


def check_operands(x: Tensor, bias: Tensor | None, values: Tensor, sizes: tuple[int, int], where: str) -> None:
    """Check that ``x`` and ``bias`` fit a weight of ``sizes`` ``(rows, columns)`` stored as ``values``.

    Raises:
        InputError: they do not; the message begins with ``where``.
    """
    rows, columns = sizes
    if x.dim() < 1 or x.shape[-1] != columns:
        raise InputError(f"{where}: expected an input of shape (..., {columns}), got {tuple(x.shape)}")
    _check_kind("input", x, values, where)
    if bias is not None:
        check_bias(bias, values, rows, where)


def check_images(x: Tensor, bias: Tensor | None, values: Tensor, sizes: tuple[Convolution, int], where: str) -> None:
    """Check that ``x`` ``(N, C, H, W)`` and ``bias`` fit a convolution with so many outputs, stored as ``values``.

    Raises:
        InputError: they do not; the message begins with ``where``.
    """
    convolution, rows = sizes
    convolution.check_images(x.shape, where)
    _check_kind("input", x, values, where)
    if bias is not None:
        check_bias(bias, values, rows, where)


def check_bias(bias: Tensor, values: Tensor, rows: int, where: str) -> None:
    """Raise :class:`InputError`, which begins with ``where``, unless ``bias`` fits a weight with ``rows`` outputs."""
    if bias.dim() != 1 or bias.shape[0] != rows:
        raise InputError(f"{where}: expected a bias of shape ({rows},), got {tuple(bias.shape)}")
    _check_kind("bias", bias, values, where)


def check_residual(residual: Tensor, x: Tensor, values: Tensor, rows: int, where: str) -> None:
    """Raise :class:`InputError`, which begins with ``where``, unless ``residual`` has the shape of the result of ``x``.

    Nothing is broadcast: a residual that is smaller than the result is more likely a mistake.
    """
    expected = (*x.shape[:-1], rows)
    if residual.shape != expected:
        raise InputError(f"{where}: expected a residual of shape {tuple(expected)}, got {tuple(residual.shape)}")
    _check_kind("residual", residual, values, where)


def _check_kind(what: str, tensor: Tensor, values: Tensor, where: str) -> None:
    if tensor.dtype != values.dtype:
        raise InputError(f"{where}: expected {_short(values.dtype)} {what}, got {_short(tensor.dtype)}")
    if tensor.device != values.device:
        raise InputError(f"{where}: expected {what} on {values.device}, got it on {tensor.device}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
