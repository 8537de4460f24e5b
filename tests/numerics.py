"""The one rule by which the result of every kernel is judged."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsekit.kernels import Convolution


def slack(terms: int) -> float:
    """Roundings, in units of eps, that a sum of ``terms`` products may show in any order of summation.

    Independent roundings add up like a random walk, hence the square root; 2 covers the bias and the last rounding.
    """
    return 2.0 + math.sqrt(terms)


def assert_product(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
    """Assert element by element that ``|y - exact| <= slack(K) * eps * (|x| @ |W|.T + |bias|)``.

    Args:
        y: the product to judge, ``(*lead, rows)``; it must have the dtype and device of ``weight``.
        x: ``(*lead, columns)``, finite.
        weight: dense ``(rows, columns)``; where NaN or infinity makes the exact product so, ``y`` must be the same.
        bias: ``(rows,)`` or None.
    """
    assert y.shape == (*x.shape[:-1], weight.shape[0]), f"shape {tuple(y.shape)} for x {tuple(x.shape)}"
    assert y.dtype == weight.dtype, f"{y.dtype} for a weight of {weight.dtype}"
    assert y.device == weight.device, f"{y.device} for a weight on {weight.device}"
    exact, scale = x.double() @ weight.double().T, x.double().abs() @ weight.double().abs().T
    if bias is not None:
        exact, scale = exact + bias.double(), scale + bias.double().abs()
    assert_within(y, exact, bound_of(scale, weight.shape[1], weight.dtype))


def assert_convolution(
    y: Tensor, x: Tensor, weight: Tensor, convolution: Convolution, bias: Tensor | None = None
) -> None:
    """Assert element by element that ``y`` is the convolution in exact arithmetic, by the rule of products.

    ReLU passes an error on as it is; SiLU passes on at most 1.1 of it and adds the roundings of its own formula.

    Args:
        y: the result to judge; it must have the dtype and device of ``weight``.
        x: images ``(N, C, H, W)``, finite.
        weight: dense ``(out, in / groups, kh, kw)``, finite.
        convolution: what is done.
        bias: ``(out,)`` or None.
    """
    assert y.dtype == weight.dtype, f"{y.dtype} for a weight of {weight.dtype}"
    assert y.device == weight.device, f"{y.device} for a weight on {weight.device}"
    padding = [convolution.padding[side] for side in (2, 3, 0, 1)]
    rest = (convolution.stride, 0, convolution.dilation, convolution.groups)
    images = F.pad(x.double(), padding)
    exact = F.conv2d(images, weight.double(), None if bias is None else bias.double(), *rest)
    scale = F.conv2d(images.abs(), weight.double().abs(), None if bias is None else bias.double().abs(), *rest)
    bound = bound_of(scale, weight[0].numel() if weight.shape[0] else 0, weight.dtype)
    if convolution.activation == "relu":
        exact = exact.clamp(min=0.0)
    elif convolution.activation == "silu":
        exact = exact * torch.sigmoid(exact)
        bound = 1.1 * bound + 8 * torch.finfo(weight.dtype).eps * exact.abs()
    assert y.shape == exact.shape, f"shape {tuple(y.shape)}, expected {tuple(exact.shape)}"
    assert_within(y, exact, bound)


def bound_of(scale: Tensor, terms: int, dtype: torch.dtype) -> Tensor:
    """The error that a sum of ``terms`` products may show, whose absolute values sum up to ``scale``."""
    limits = torch.finfo(dtype)
    return slack(terms) * limits.eps * scale + (terms + 1) * limits.tiny * limits.eps


def assert_within(y: Tensor, exact: Tensor, bound: Tensor) -> None:
    """Assert element by element that ``|y - exact| <= bound``; where ``exact`` is no number, that ``y`` is the same."""
    finite = exact.isfinite()
    same = torch.where(exact.isnan(), y.isnan(), y.double() == exact)
    error = (y.double() - exact).abs()
    good = torch.where(finite, error <= bound, same)
    if not bool(good.all()):
        worst = torch.where(good, -1.0, (error / bound).nan_to_num(nan=math.inf)).argmax()
        at = tuple(int(i) for i in torch.unravel_index(worst, y.shape))
        raise AssertionError(
            f"{int((~good).sum())} of {good.numel()} outputs are wrong; at {at}: "
            f"got {float(y[at])!r}, exact {float(exact[at])!r}, bound {float(bound[at]):.3g}"
        )
