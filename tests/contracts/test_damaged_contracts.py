"""Packed data that does not belong to its shape is refused, by every format and before any native kernel reads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import torch
from torch import Tensor

from sparsekit.errors import FormatError
from sparsekit.formats import FORMATS, Format
from sparsekit.kernels import Convolution, ConvProblem, Kernel, Problem, native
from sparsekit.kernels.base import GradientKernel
from sparsekit.kernels.convolution import ConvKernel
from sparsekit.kernels.native import describe, extension
from tests.contracts.test_format_contracts import pattern_for
from tests.weights import random_mask, random_weight

ROWS, COLUMNS = 24, 44
NATIVE = [
    kernel
    for name, kernels in sorted(vars(native).items())
    if name.startswith("NATIVE_") and name.endswith("KERNELS")
    for kernel in kernels
]
every_format = pytest.mark.parametrize("family", FORMATS, ids=lambda f: f.name)
every_kernel = [
    pytest.mark.skipif(bool(describe()["reason"]), reason="there are no native kernels"),
    pytest.mark.parametrize("kernel", NATIVE, ids=lambda k: k.name),
]


def native_kernels(test):
    for mark in every_kernel:
        test = mark(test)
    return test


def packed_of(family: type[Format], dtype: torch.dtype = torch.float32) -> Format:
    mask = random_mask((ROWS, COLUMNS), pattern_for(family), 0.4)
    return family.pack(random_weight((ROWS, COLUMNS), dtype), mask)


def bound(kernel, packed: Format) -> object:
    """Bind ``packed`` to a kernel of any kind; what it derives must not outlive a failure."""
    if isinstance(kernel, ConvKernel):
        return kernel.bind(packed, Convolution(COLUMNS, (1, 1)))
    return kernel.bind(packed, {}) if isinstance(kernel, GradientKernel) else kernel.bind(packed)


def runnable(kernel) -> Format:
    """A packed weight that ``kernel`` does not refuse."""
    for dtype in (torch.float32, torch.bfloat16):
        packed = packed_of(kernel.format, dtype)
        if isinstance(kernel, ConvKernel):
            refusal = kernel.refuses(ConvProblem(packed, Convolution(COLUMNS, (1, 1)), (1, 5, 5)))
        else:
            assert isinstance(kernel, Kernel | GradientKernel)
            refusal = kernel.refuses(Problem(packed, 2))
        if refusal is None:
            return packed
    raise AssertionError(f"{kernel.name} refuses every weight of this test: {refusal}")


def put(at: int, value: int) -> Callable[[Tensor], None]:
    """Write ``value`` to element ``at``; uint16 and others take it modulo their range."""

    def change(tensor: Tensor) -> None:
        flat = tensor.view(torch.int16) if tensor.dtype == torch.uint16 else tensor
        flat.view(-1)[at] = torch.tensor(value).to(flat.dtype)

    return change


def swapped(tensor: Tensor) -> None:
    """Exchange the first two elements, which ascend."""
    flat = (tensor.view(torch.int16) if tensor.dtype == torch.uint16 else tensor).view(-1)
    flat[:2] = flat[:2].flip(0).clone()


DAMAGE: dict[str, dict[str, Callable[[Tensor], None]]] = {
    "offsets": {
        "begin above 0": put(0, 1),
        "fall": put(2, 0),
        "go below 0": put(1, -4),
        "rise above the end": put(2, 2**31 - 1),
        "end too far": put(-1, 2**31 - 1),
        "end too early": put(-1, 1),
    },
    "indices": {"are too far": put(0, 2**15 - 1), "are below 0": put(0, -1), "descend": swapped},
    "bits": {"are too many": put(0, -1), "are too few": put(0, 0), "lie beyond the last column": put(2, -1)},
    "positions": {"do not ascend": put(0, -1)},
    "distances": {"go too far": put(1, 0xEE)},
    "first_columns": {"go too far": put(0, 2**15 - 1)},
}
"""By the end of the name of a part: what can be wrong with it."""


def damaged(packed: Format) -> Iterator[tuple[str, Format]]:
    """Every way to damage ``packed``, in words, and the weight."""
    for name, tensor in packed.tensors().items():
        for what, change in next((ways for end, ways in DAMAGE.items() if name.endswith(end)), {}).items():
            parts = {n: t.clone() for n, t in packed.tensors().items()}
            change(parts[name])
            assert not torch.equal(parts[name], tensor), f"{name} that {what} are as they were"
            yield f"{name} that {what}", packed.from_parts(parts, packed.integers())
        with suppress(FormatError):  # most formats see it at once
            short = packed.from_parts({**packed.tensors(), name: tensor[:-1].clone()}, packed.integers())
            yield f"{name} that are one short", short


def test_damage_is_known_for_every_part_that_is_read_as_a_place():
    for family in FORMATS:
        for name, tensor in packed_of(family).tensors().items():
            number = tensor.is_floating_point() or name == "values"
            assert number or any(name.endswith(end) for end in DAMAGE), f"{family.name}: {name}"


def expect_refusal(what: str, call: Callable[..., object], *arguments: object) -> None:
    """Assert that the call raises a FormatError, a sentence that says what was expected and what came."""
    said = "nothing"
    try:
        call(*arguments)
    except FormatError as error:
        said = str(error)
    assert re.search("expected .*, got ", said), f"{what}: {said}"


@every_format
def test_validate_refuses(family):
    packed = packed_of(family)
    packed.validate()
    for what, wrong in damaged(packed):
        expect_refusal(what, wrong.validate)


@native_kernels
def test_binding_refuses(kernel):
    packed = runnable(kernel)
    bound(kernel, packed)
    for what, wrong in damaged(packed):
        expect_refusal(what, bound, kernel, wrong)


@every_format
def test_parts_of_another_shape_or_dtype_are_refused(family):
    packed = packed_of(family)
    for name, tensor in packed.tensors().items():
        for other in (
            tensor.unsqueeze(0),
            tensor.to(torch.complex64),
            tensor.to(torch.bool),
            tensor.cpu().view(-1)[:0],
        ):
            if other.shape != tensor.shape or other.dtype != tensor.dtype:
                parts = {**packed.tensors(), name: other}
                expect_refusal(name, lambda parts: family.from_parts(parts, packed.integers()).validate(), parts)


@every_format
@pytest.mark.parametrize("size", [-1, 2**31, 2**62, 2**63, 2**64 + 1])
def test_impossible_sizes_are_refused(family, size):
    packed = packed_of(family)
    for name in packed.integers():
        with pytest.raises(FormatError, match=rf"expected sizes from 0 to 2147483647, got {{'{name}': {size}}}"):
            packed.from_parts(packed.tensors(), {**packed.integers(), name: size})


@native_kernels
@pytest.mark.parametrize("left", [0, 1, 0.5])
def test_a_part_whose_storage_was_made_smaller_is_refused(kernel, left):
    whole = runnable(kernel)
    for name, tensor in whole.tensors().items():
        if tensor.numel():
            parts = {n: t.clone() for n, t in whole.tensors().items()}
            packed = whole.from_parts(parts, whole.integers())
            storage = parts[name].untyped_storage()
            storage.resize_(int(left * storage.nbytes()) if left < 1 else storage.nbytes() - 1)
            with pytest.raises(FormatError, match=rf"expected {name} in a storage of at least \d+ bytes, got one of"):
                bound(kernel, packed)


def builds(kernel, monkeypatch) -> list[tuple[str, tuple[object, ...]]]:
    """What ``kernel`` hands to the extension as it is bound, by native class; its address is not followed again."""
    calls, build = [], extension.build

    def record(name: str, *parts: object) -> object:
        calls.append((name, parts))
        return build(name, *parts)

    monkeypatch.setattr(extension, "build", record)
    kernel_parts = runnable(kernel)
    calls.append(("", (kernel_parts, bound(kernel, kernel_parts))))  # keeps what the addresses point to alive
    return calls


@native_kernels
def test_the_extension_itself_refuses_memory_and_sizes_that_do_not_fit(kernel, monkeypatch):
    *made, (_, (packed, _)) = builds(kernel, monkeypatch)
    of_bytes = {tensor.data_ptr() for tensor in packed.tensors().values() if tensor.element_size() == 1}
    for name, parts in made:
        for at, part in enumerate(parts):
            wrong: list[object] = []
            if isinstance(part, tuple) and name != "ConvShape":
                address, size = part
                wrong = [(address, size - 1), (address, size + 1), (address, 2**62)]
                wrong += [(address, 0), (0, size), (address, -size)] if size else []
                wrong += [(address + 1, size)] if size and address not in of_bytes else []
            elif type(part) is int and not (name == "ConvShape" and at == len(parts) - 1):  # there, the activation
                assert part < 2**40, f"{name} takes an address without its bytes"
                wrong = [-1, -(2**63), 2**31, 2**62, 2**63 - 1]
            for other in wrong:
                changed = (*parts[:at], other, *parts[at + 1 :])
                expect_refusal(f"{name} with {other} for {part}", extension.build, name, *changed)
