"""The one rule by which the result of every kernel is judged."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsekit.formats import Quantized
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


def assert_integer_product(
    y: Tensor, packed: Quantized, x: Tensor, bias: Tensor | None = None, residual: Tensor | None = None
) -> None:
    """Assert that ``y`` is the product of tokens and weights in 8 bits, up to the roundings after the exact sums.

    Args:
        y: the product to judge, ``(batch, rows)``; it must have the dtype of ``packed``.
        packed: the weight.
        x: ``(batch, columns)``; tokens that are not finite give NaN.
        bias: ``(rows,)`` or None.
        residual: ``(batch, rows)``, which is added, or None.
    """
    assert y.shape == (x.shape[0], packed.rows), f"shape {tuple(y.shape)} for x {tuple(x.shape)}"
    assert y.dtype == packed.dtype, f"{y.dtype} for a weight of {packed.dtype}"
    x = x.float().double()
    size = (x.abs().amax(dim=1, keepdim=True) if x.shape[1] else x.new_zeros(x.shape[0], 1)).clamp(min=2.0**-100)
    size = torch.where(size.isfinite(), size, torch.nan)
    integers = (x * (127 / size).float().double()).float().double().round()
    sums = integers @ packed.integer_matrix(torch.float64).T
    exact = sums * (size / 127).float().double() * packed.scales.float().double()
    scale = exact.abs()
    for added in (bias, residual):
        if added is not None:
            exact, scale = exact + added.double(), scale + added.double().abs()
    narrow, wide = torch.finfo(packed.dtype), torch.finfo(torch.float32)
    bound = 6 * wide.eps * scale + narrow.eps * exact.abs() + wide.tiny + narrow.tiny * narrow.eps
    assert_within(y, exact.expand(y.shape), bound.expand(y.shape))


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
