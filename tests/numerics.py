"""The one rule by which every kernel's product is judged."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
    limits = torch.finfo(weight.dtype)
    terms = weight.shape[1]
    bound = slack(terms) * limits.eps * scale + (terms + 1) * limits.tiny * limits.eps
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
