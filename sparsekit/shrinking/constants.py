"""Which inputs of layers are one number each, whatever the model is given.

The model runs once with NaN for everything that depends on its inputs. Arithmetic carries NaN along; products and
convolutions do not carry it through weights that are zero; and an operation whose treatment of NaN is not known makes
NaN of everything. What is no NaN at the end is a constant of the parameters alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from sparsekit.batches import call_model, evaluating, tensors_in
from sparsekit.errors import PruningError
from sparsekit.pruning.dependencies.layout import RULES as LAYOUT

NAN = float("nan")
CARRIES = frozenset(
    "sum mean amax amin prod var var_mean std std_mean linalg_vector_norm norm logsumexp _softmax _log_softmax "
    "native_layer_norm native_group_norm cumsum cumprod max min _prelu_kernel rsub hardtanh hardtanh_ relu6 "
    "hardswish hardswish_".split()
)
"""Beside value by value: operations whose result is NaN wherever an operand that matters is."""
LOSES = frozenset("nan_to_num sign sgn fmax fmin heaviside copysign hypot nextafter".split())
"""Operations value by value that may make a number of NaN, or of one NaN and one number; with ``_`` in place, too."""


@dataclass
class Readings:
    """What the layers of a model have read in the run.

    Args:
        values: by layer name, ``(input channels,)``, the constant of each channel, NaN where it is none; what the last
            call has read.
        calls: by name of every module, how often it was called.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)


def read_constants(model: nn.Module, example_inputs: Any) -> Readings:
    """Run ``model`` in eval mode on NaN of the shapes of ``example_inputs``.

    Args:
        model: its weights are overwritten where it writes into them itself, so give a copy.
        example_inputs: what the model takes; numbers that are no floats stay as they are.

    Raises:
        PruningError: the model does not run on NaN, or takes another way because of it.
    """
    readings, mode = Readings(), _Spreading()
    hooks = [module.register_forward_pre_hook(_reader(name, readings, mode)) for name, module in model.named_modules()]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluating(model), mode:
            call_model(model, _spread(example_inputs))
    except PruningError:
        raise
    except Exception as error:
        raise PruningError(
            f"shrink: expected a model that can be followed, got one that raised {type(error).__name__} when its "
            f"inputs were NaN: {error}"
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for hook in hooks:
            hook.remove()
    return readings


def _spread(value: Any) -> Any:
    """The same structure with NaN in every floating tensor."""
    if isinstance(value, Tensor):
        return torch.full_like(value, NAN) if value.is_floating_point() or value.is_complex() else value
    if isinstance(value, Mapping):
        return {name: _spread(item) for name, item in value.items()}
    return type(value)(_spread(item) for item in value) if type(value) in (tuple, list) else value


def _reader(name: str, readings: Readings, mode: _Spreading) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """A hook that notes the constants among the input channels of a layer."""

    def read(module: nn.Module, args: tuple[Any, ...]) -> None:
        readings.calls[name] = readings.calls.get(name, 0) + 1
        if not isinstance(module, (nn.Linear, _ConvNd)) or not args:
            return
        with mode.pause():
            dim = -1 if isinstance(module, nn.Linear) else -1 - len(module.kernel_size)
            readings.values[name] = _constant(args[0].detach().movedim(dim, -1).flatten(0, -2))

    return read


def _constant(rows: Tensor) -> Tensor:
    """The value of each column of ``rows`` that holds one up to rounding, else NaN."""
    if not rows.shape[0]:
        return rows.new_full((rows.shape[1],), NAN)
    high, low = rows.amax(dim=0), rows.amin(dim=0)
    close = high - low <= 8 * torch.finfo(rows.dtype).eps * torch.maximum(high.abs(), low.abs())
    return torch.where(close & high.isfinite() & low.isfinite(), low, NAN)


class _Spreading(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs each operation by its rule."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.paused = False
        self.doubtful = WeakIdKeyDictionary()

    @contextmanager
    def pause(self) -> Any:
        """Compute as usual."""
        self.paused = True
        try:
            yield
        finally:
            self.paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        name = str(func.overloadpacket).removeprefix("aten.")
        if name.startswith("_scaled_dot_product"):
            return _attention(func, args, kwargs)
        if rule := RULES.get(name):
            return rule(func, args, kwargs)
        given = list(tensors_in([args, kwargs]))
        if name == "_local_scalar_dense" and self._in_doubt(given[0]):
            raise PruningError("shrink: expected a model that can be followed, got one that asks for a tensor's value")
        out = func(*args, **kwargs)
        counts = [tensor for tensor in tensors_in(out) if not tensor.is_floating_point()]
        if counts and any(self._in_doubt(tensor) for tensor in given):
            self.doubtful.update((tensor, True) for tensor in counts)
        known = _carries(func, name, args) and all(tensor.is_floating_point() for tensor in given)
        return out if known else _nothing_known(func, out)

    def _in_doubt(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` depends on the inputs; one of numbers that are no floats, if by way of floats."""
        return bool(tensor.isnan().any()) if tensor.is_floating_point() else tensor in self.doubtful


def _carries(func: Any, name: str, args: Sequence[Any]) -> bool:
    """Whether NaN comes out wherever something unknown came in, and only there."""
    if name.startswith("avg_pool"):
        return not (len(args) > 3 and any(args[3]))  # a border of zeros is part of the mean
    if torch.Tag.pointwise in func.tags:
        return torch.Tag.nondeterministic_seeded not in func.tags and name.rstrip("_") not in LOSES
    return name in CARRIES or name in LAYOUT


def _nothing_known(func: Any, out: Any) -> Any:
    """NaN for every number in ``out``."""
    if isinstance(out, (tuple, list)):
        return type(out)(_nothing_known(func, item) for item in out)
    if not isinstance(out, Tensor) or not (out.is_floating_point() or out.is_complex()):
        return out
    return out.fill_(NAN) if func._schema.is_mutable else torch.full_like(out, NAN)


def _product(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """NaN only where a sum has a product of NaN with something that is no zero."""
    *lead, one, other = args
    unknown, too = one.isnan(), other.isnan()
    value = func(*lead, one.masked_fill(unknown, 0), other.masked_fill(too, 0), **kwargs)
    count = torch.matmul(unknown.float(), (other != 0).float()) + torch.matmul((one != 0).float(), too.float())
    return value.masked_fill(count > 0.5, NAN)


def _convolution(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The same under a window; beside a border of zeros, a constant other than zero is none."""
    data, weight, bias, stride, padding, dilation, transposed, *rest = args
    if bool(weight.isnan().any()):
        return _nothing_known(func, func(*args, **kwargs))
    bordered = transposed or any(padding)
    unknown = data != 0 if bordered else data.isnan()
    shape = (stride, padding, dilation, transposed, *rest)
    value = func(data.masked_fill(unknown, 0), weight, bias, *shape, **kwargs)
    count = func(unknown.float(), (weight != 0).float(), None, *shape, **kwargs)
    return value.masked_fill(count > 0.5, NAN)


def _batch_norm(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """A channel of scale zero is its shift."""
    out = func(*args, **kwargs)
    weight, bias = args[1], args[2]
    if weight is not None:
        out[0][:, weight == 0] = (bias[weight == 0] if bias is not None else weight[weight == 0]).reshape(
            1, -1, *[1] * (out[0].dim() - 2)
        )
    return out


def _attention(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """A mean over tokens with weights that sum to one, of each value's channel by itself."""
    out, *others = func(*args, **kwargs)
    value = args[2]
    masked = len(list(tensors_in([args, kwargs]))) > 3
    first = value[..., :1, :]
    same = (value == (0 if masked else first)).all(dim=-2, keepdim=True)
    fits = value.shape[:-2] == out.shape[:-2]
    unknown = torch.full_like(out, NAN)
    found = torch.where(same, first, NAN).to(out.dtype).expand(out.shape) if fits else unknown
    return (found + torch.zeros_like(out), *(_nothing_known(func, item) for item in others))


RULES: dict[str, Callable[[Any, Sequence[Any], dict[str, Any]], Any]] = {
    **dict.fromkeys("mm bmm mv dot addmm baddbmm addmv".split(), _product),
    **dict.fromkeys(
        "native_batch_norm _native_batch_norm_legit_no_training _native_batch_norm_legit cudnn_batch_norm".split(),
        _batch_norm,
    ),
    "convolution": _convolution,
}
