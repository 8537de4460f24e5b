"""Every kernel on the device against float64, on odd shapes too, before any is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import sparsekit.kernels
from sparsekit.bench.gpu.contests import exact_convolution, select
from sparsekit.bench.gpu.exact import Exact, poisoned, rounds_once
from sparsekit.bench.gpu.session import COMPILERS, Session
from sparsekit.formats import FORMATS, Dense, Format, Refusal, gather, positions
from sparsekit.kernels import Convolution, ConvProblem, Problem
from sparsekit.kernels.base import Runs
from sparsekit.kernels.candidates import is_reference
from sparsekit.kernels.reference import REFERENCE_GRADIENT_KERNELS
from sparsekit.kernels.triton.launch import compiling
from sparsekit.mask import Mask
from sparsekit.patterns import NM, AllTaps, Block, Pattern, Unstructured

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
PATTERNS: tuple[tuple[Pattern, float], ...] = (
    *((Unstructured(), zeros) for zeros in (0.5, 0.9, 0.99)),
    (NM(2, 4), 0.5),
    *((Block(side, side), 0.7) for side in (16, 32, 64, 128)),
    (Block(32, 64), 0.7),
)
SHAPES = ((256, 512), (200, 328), (77, 1100))
"""Rows and columns: even, not in whole blocks, and odd."""
BATCHES = (1, 16, 33, 300)
CONVOLUTIONS = (
    (Convolution(64, (3, 3), padding=(1, 1, 1, 1)), (3, 14, 13)),
    (Convolution(48, (3, 3), (2, 2), (1, 1, 1, 1)), (2, 15, 16)),
    (Convolution(40, (1, 1)), (2, 9, 7)),
)
CONV_PATTERNS: tuple[tuple[Pattern, float], ...] = tuple((AllTaps(Block(side, side)), 0.7) for side in (16, 32))


@dataclass(frozen=True)
class Check:
    """One call of a kernel whose result is known.

    Args:
        name: what is computed.
        bind: binds the kernel; the result computes it.
        exact: the result in float64.
    """

    name: str
    bind: Callable[[], Callable[[], Tensor]]
    exact: Callable[[], Exact]


def checked_kernels() -> tuple[Runs[Any], ...]:
    """Return every kernel that is checked: those that are neither a reference nor dense, and round nothing."""
    found: tuple[Runs[Any], ...] = (
        *sparsekit.kernels.KERNELS,
        *sparsekit.kernels.GRADIENT_KERNELS,
        *sparsekit.kernels.CONV_KERNELS,
    )
    exact = [k for k in found if k.format in FORMATS and k.format is not Dense]
    return tuple(k for k in exact if not is_reference(k) and k not in REFERENCE_GRADIENT_KERNELS)


def check_kernel(kernel: Runs[Any], session: Session) -> None:
    """Run every check of ``kernel``; where one goes wrong, log it and leave the kernel out from there on."""
    if kernel.name in session.log.failed():  # it ended the process before this one
        return
    with torch.no_grad():
        found = list(checks_of(kernel, session))
        checks = [one for one in found if isinstance(one, Check)]
        if session.device.type == "cuda":
            with compiling(COMPILERS), suppress(Exception):  # what does not compile says so below
                for check in checks:
                    with suppress(Exception):
                        check.bind()()
        wrong: list[str] = []
        for check in checks:
            session.attempt(kernel.name, partial(_run, check), wrong.append)
    if wrong:
        session.log.add("failed", way=kernel.name, reason=f"{len(wrong)} of {len(checks)} checks: {wrong[0]}")
        session.tell(f"WRONG: {kernel.name}: {wrong[0]}")
    refused = sorted({str(one) for one in found if isinstance(one, Refusal)})
    session.log.add("checked", way=kernel.name, checks=len(checks), wrong=wrong[:5], refused=refused[:5])
    if not checks:
        session.tell(f"{kernel.name} runs nothing here: {'; '.join(refused[:1]) or 'no pattern has its format'}")


def _run(check: Check) -> None:
    call = check.bind()
    with poisoned():
        y = call()
    check.exact().expect(check.name, y, lenient=not rounds_once(check.name))


def checks_of(kernel: Runs[Any], session: Session) -> Iterator[Check | Refusal]:
    """Yield the checks of ``kernel``, or why it refuses them, on fresh random numbers."""
    if kernel in sparsekit.kernels.CONV_KERNELS:
        yield from _convolutions(kernel, session)
        return
    seed = 0
    for dtype in DTYPES:
        for pattern, sparsity in PATTERNS if dtype is DTYPES[0] else PATTERNS[::3]:
            for shape in SHAPES:
                seed += 1
                weight = session.random(*shape, dtype=dtype, seed=seed)
                packed = _packed(kernel, weight, pattern, sparsity)
                if packed is not None:
                    yield from _products(kernel, packed, session, f"{dtype} {pattern} {shape}")


def _packed(kernel: Runs[Any], weight: Tensor, pattern: Pattern, sparsity: float) -> Format | None:
    if weight[0].numel() < max(pattern.block_sides(tuple(weight.shape)) or (1,)):
        return None
    mask = select(pattern, weight, sparsity)
    return None if kernel.format.accepts(mask) is not None else kernel.format.pack(weight, Mask(mask.keep, pattern))


def _products(kernel: Any, packed: Format, session: Session, where: str) -> Iterator[Check | Refusal]:
    dtype, weight = packed.values.dtype, packed.unpack()
    for batch in BATCHES:
        if refusal := kernel.refuses(Problem(packed, batch)):
            yield refusal
            continue
        x = session.random(batch, packed.columns, dtype=dtype, seed=batch)
        if batch == 33:  # rows that do not follow one another
            x = torch.cat([x, x], dim=1)[:, : packed.columns]
        name = f"{kernel.name} {where} batch {batch}"
        if kernel in sparsekit.kernels.GRADIENT_KERNELS:
            yield from _gradients(kernel, packed, x, session, name)
            continue
        bias = session.random(packed.rows, dtype=dtype, seed=9) if batch % 2 else None
        yield Check(name, partial(_bound, kernel, packed, x, bias), partial(_with_bias, x, weight, bias))


def _bound(kernel: Any, packed: Format, x: Tensor, bias: Tensor | None) -> Callable[[], Tensor]:
    return partial(kernel.bind(packed), x, bias)


def _with_bias(x: Tensor, weight: Tensor, bias: Tensor | None) -> Exact:
    """The product, a bias being one term more."""
    if bias is None:
        return Exact.product(x, weight.T)
    ones = x.new_ones(x.shape[0], 1)
    return Exact.product(torch.cat([x, ones], dim=1), torch.cat([weight, bias[:, None]], dim=1).T)


def _gradients(kernel: Any, packed: Format, x: Tensor, session: Session, name: str) -> Iterator[Check]:
    grad = session.random(x.shape[0], packed.rows, dtype=x.dtype, seed=11)
    yield Check(
        f"{name}, of the input",
        lambda: partial(kernel.bind(packed, {}).of_x, grad),
        lambda: Exact.product(grad, packed.unpack()),
    )
    yield Check(
        f"{name}, of the weights",
        lambda: partial(kernel.bind(packed, {}).of_part, grad, x, "values"),
        lambda: Exact.product(grad.T, x).map(lambda dense: gather(dense, positions(packed)["values"])),
    )


def _convolutions(kernel: Any, session: Session) -> Iterator[Check | Refusal]:
    for dtype in DTYPES:
        for done, size in CONVOLUTIONS:
            for pattern, sparsity in CONV_PATTERNS:
                weight = session.random(64, done.in_channels, *done.kernel_size, dtype=dtype, seed=size[1])
                packed = _packed(kernel, weight, pattern, sparsity)
                if packed is None:
                    continue
                if refusal := kernel.refuses(ConvProblem(packed, done, size)):
                    yield refusal
                    continue
                x = session.random(size[0], done.in_channels, *size[1:], dtype=dtype, seed=size[0])
                dense = packed.unpack().reshape(done.weight_shape(packed.rows))
                for order in (torch.contiguous_format, torch.channels_last):
                    images = x.contiguous(memory_format=order)
                    yield Check(
                        f"{kernel.name} {dtype} {pattern} {done.kernel_size} {order}",
                        partial(_bound_conv, kernel, packed, done, images),
                        partial(exact_convolution, images, dense, done),
                    )


def _bound_conv(kernel: Any, packed: Format, done: Convolution, x: Tensor) -> Callable[[], Tensor]:
    return partial(kernel.bind(packed, done), x, None)
