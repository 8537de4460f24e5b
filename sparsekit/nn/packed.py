"""What every layer with a packed weight shares: its buffers, its state, and how it is copied and converted."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from sparsekit.errors import FormatError, KernelError, LayerError
from sparsekit.formats import Format, Quantized, format_named
from sparsekit.formats.base import as_signed, as_unsigned
from sparsekit.kernels.base import PackedProblem, Runs, choose
from sparsekit.kernels.binding import Bound, bound, version
from sparsekit.nn.choice import ROUNDED
from sparsekit.nn.ready import Ready
from sparsekit.ops import REMEMBERED, check_bias

PREFIX = "packed_"


class PackedLayer(nn.Module):
    """A layer whose weight is stored in a format.

    The format's tensors are buffers called ``packed_<field>``; its integers are part of the extra state. In a trainable
    layer the floating ones are parameters of the same names: an optimizer changes what is stored, and never where.

    Args:
        packed: the weight.
        bias: ``(rows,)`` of the weight's dtype and device, or None.
        kernels: the kernels to choose from in eager inference; None = sparsekit's own.
        trainable: whether the stored values are parameters.
    """

    kind: ClassVar[str]
    """What a checkpoint calls this layer."""
    dense_class: ClassVar[type[nn.Linear] | type[nn.Conv2d]]
    """The layer of torch that it replaces."""

    takes_quantized: ClassVar[bool] = False
    """Whether there are kernels for weights in 8 bits."""

    bias: nn.Parameter | None

    def __init__(
        self,
        packed: Format,
        bias: Tensor | None,
        kernels: Sequence[Any] | None,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        self.layer_name = ""
        self.absorbed: tuple[str, ...] = ()
        """Names, in the model, of the layers whose work this one does; ``nn.Identity`` stands in their places."""
        self.kernels = None if kernels is None else tuple(kernels)
        self._ready: Ready | None = None
        self._expect_takes(packed, trainable)
        self._set_format(packed)
        for name, tensor in packed.tensors().items():
            if trainable and tensor.is_floating_point():
                self.register_parameter(PREFIX + name, nn.Parameter(_ordinary(tensor)))
            else:
                self.register_buffer(PREFIX + name, _ordinary(tensor))
        self.bias = bias if bias is None or isinstance(bias, nn.Parameter) else nn.Parameter(_ordinary(bias))

    @property
    def packed(self) -> Format:
        """The weight in its format, made of this layer's buffers and parameters."""
        held = {**self._buffers, **self._parameters}
        parts = {name: held[PREFIX + name] for name in self.format.tensor_names()}
        return self.format.from_parts({n: t for n, t in parts.items() if t is not None}, self._integers())

    @property
    def weight(self) -> Tensor:
        """The dense weight, unpacked anew at each access and without a gradient; writing to it changes nothing."""
        with torch.no_grad():
            return self.packed.unpack()

    @property
    def trainable(self) -> bool:
        """Whether the stored values are parameters."""
        return PREFIX + "values" in self._parameters

    @property
    def label(self) -> str:
        """How errors call this layer."""
        return self.layer_name or type(self).__name__

    def get_extra_state(self) -> dict[str, Any]:
        """Return what the buffers do not hold: format and integers."""
        return {"format": self.format.name, "integers": self._integers()}

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint has to know beside the tensors, as JSON types."""
        packed = self.packed
        dtype = str(packed.dtype).removeprefix("torch.")
        absorbed = {"absorbed": list(self.absorbed)} if self.absorbed else {}
        return {**self.get_extra_state(), "bias": self.bias is not None, "dtype": dtype, **absorbed}

    @classmethod
    @abstractmethod
    def rebuild(cls, packed: Format, bias: Tensor | None, entry: Mapping[str, Any], old: nn.Module) -> Self:
        """Return the layer that :meth:`describe` described, in the place of ``old``.

        Args:
            packed: the weight.
            bias: ``(rows,)`` or None.
            entry: what ``describe`` returned.
            old: a layer of this class or of the dense one; a trainable layer is replaced by a trainable one.

        Raises:
            LayerError: weight, description and the layer to replace are not of one size.
        """

    @abstractmethod
    def to_dense(self) -> nn.Module:
        """Return a dense layer of the same weight, bias and mode; the removed weights are zeros in it."""

    @abstractmethod
    def _check_input(self, x: Tensor, bias: Tensor | None, values: Tensor) -> None:
        """Raise :class:`InputError` unless input and bias fit the layer."""

    @abstractmethod
    def _bind(self, weight: Bound, key: Any) -> Callable[..., Tensor]:
        """Return the bound kernel for inputs of the size ``key``."""

    @abstractmethod
    def _own_kernels(self) -> tuple[Runs[Any], ...]:
        """The kernels to choose from."""

    def _checked(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return ``x``, under autocast in the weight's dtype; raise :class:`InputError` where it does not fit."""
        typed: Tensor = getattr(self, PREFIX + self.format.typed_by)
        if x.dtype != typed.dtype and x.is_floating_point() and torch.is_autocast_enabled(x.device.type):
            x = x.to(typed.dtype)
        self._check_input(x, bias, typed)
        return x

    def _get_ready(self, values: Tensor) -> Ready:
        if values.is_meta:
            raise LayerError(f"{self.label}: expected a weight with data, got one on the meta device")
        typed: Tensor = getattr(self, PREFIX + self.format.typed_by)
        if self.bias is not None:
            check_bias(self.bias, typed, self._integer_values[0], self.label)
        shape = torch.Size(self._integer_values[:1])
        ready = Ready(values, version(values), torch.get_num_threads(), typed.dtype, values.device, shape)
        self._ready = ready
        return ready

    def _get_run(self, key: Hashable, ready: Ready) -> Callable[..., Tensor]:
        packed = self.packed
        run = self._bind(bound(packed.name, list(packed.tensors().values()), self._integer_values), key)
        if len(ready.runs) < REMEMBERED:
            ready.runs[key] = run
        return run

    def _packed_repr(self, planned: Sequence[str], usual: PackedProblem) -> str:
        """Sparsity, format and kernel: what a plan chose, or what a ``usual`` problem takes."""
        packed, text = usual.packed, ""
        if not packed.values.is_meta:
            stored = [t for name, t in packed.tensors().items() if t.is_floating_point() and name != "scales"]
            stored += [] if packed.values.is_floating_point() else [packed.values]
            text += f", sparsity={sparsity_of(stored, packed.rows * packed.columns):.4f}"
        text += ", trainable=True" if self.trainable else ""
        try:
            kernel = ", ".join(planned) or choose(usual, self._own_kernels()).name
        except KernelError:
            kernel = "none"
        return f"{text}, format={packed.name}, kernel={kernel}"

    def _expect_takes(self, packed: Format, trainable: bool) -> None:
        """Raise :class:`FormatError` unless the layer can hold ``packed``."""
        if not isinstance(packed, Quantized):
            return
        if not self.takes_quantized:
            raise FormatError(f"{self.label}: expected a format of exact weights, got {packed.name}")
        if trainable:
            raise FormatError(f"{self.label}: {ROUNDED.format(packed.name)}")

    def _set_format(self, packed: Format) -> None:
        self.format = type(packed)
        self._part_names = tuple(PREFIX + name for name in packed.tensor_names())
        self._integer_values = tuple(packed.integers().values())
        self._ready = None

    def _integers(self) -> dict[str, int]:
        return dict(zip(self.format.integer_names(), self._integer_values))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = dict(self._buffers), {name: p.data for name, p in self._parameters.items() if p is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._ready = None
        try:
            self.packed  # noqa: B018 - building it checks it
        except FormatError as error:
            self._buffers.update(before[0])
            for name, data in before[1].items():
                self.get_parameter(name).data = data
            raise LayerError(f"{self.label}: cannot be converted: {error}") from error
        return self

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Any, *lists: Any
    ) -> None:
        error_messages: list[str] = lists[-1]
        try:
            self._make_room(state_dict, prefix)
        except FormatError as error:
            error_messages.append(f"{prefix.removesuffix('.') or self.label}: {error}")
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *lists)
        self._ready = None

    def _make_room(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Give the buffers the shapes that ``state_dict`` brings: another mask has another number of values.

        A parameter whose shape changes becomes another one, which an optimizer has to be told.
        """
        own = self.get_extra_state()
        extra = state_dict.get(prefix + "_extra_state", own)
        if extra.keys() != own.keys():
            raise FormatError(f"expected the state of a {type(self).__name__}, with {list(own)}, got {list(extra)}")
        family = format_named(extra["format"])
        keys = {name: prefix + PREFIX + name for name in family.tensor_names()}
        if not all(key in state_dict for key in keys.values()):
            return
        incoming = family.from_parts({name: state_dict[key] for name, key in keys.items()}, extra["integers"])
        if (incoming.rows, incoming.columns) != self._integer_values[:2]:
            raise FormatError(f"expected a weight of {self._integer_values[:2]}, got {incoming}")
        if not incoming.values.is_meta:
            incoming.validate()
        values, dtype, trainable = self.packed.values, self.packed.dtype, self.trainable
        self._expect_takes(incoming, trainable)
        before = {name: self._parameters.pop(name, None) for name in self._part_names}
        for name in self._part_names:
            self._buffers.pop(name, None)
        self._set_format(incoming)
        for name, tensor in incoming.tensors().items():
            kind, old = dtype if tensor.is_floating_point() else tensor.dtype, before.get(PREFIX + name)
            room = torch.empty_like(tensor, dtype=kind, device=values.device, requires_grad=False)
            if old is not None and old.shape == room.shape:
                self.register_parameter(PREFIX + name, old)
            elif trainable and room.is_floating_point():
                self.register_parameter(PREFIX + name, nn.Parameter(room, values.requires_grad))
            else:
                self.register_buffer(PREFIX + name, room)

    def __getstate__(self) -> dict[str, Any]:
        buffers = {name: tensor for name, tensor in self._buffers.items() if tensor is not None}
        return {**self.__dict__, "_ready": None, "_buffers": as_signed(buffers)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_buffers": as_unsigned(state["_buffers"])})  # type: ignore[no-untyped-call]


def _ordinary(tensor: Tensor) -> Tensor:
    """Return a copy of an inference tensor that autograd can use, and any other tensor itself."""
    with torch.inference_mode(False):
        return tensor.clone() if tensor.is_inference() else tensor


def sparsity_of(tensors: Iterable[Tensor], size: int) -> float:
    """The fraction of zeros of a weight of ``size`` elements, whose stored values are among ``tensors``."""
    stored = sum(int(torch.count_nonzero(t)) for t in tensors)
    return 1.0 - stored / size if size else 0.0


def expect_alike(what: str, got: object, **wanted: object) -> None:
    """Raise :class:`LayerError` unless ``got`` is what each source, such as the header of a file, says of ``what``."""
    for source, want in wanted.items():
        if got != want:
            raise LayerError(f"expected {what} = {want} as the {source} says, got {got}")
