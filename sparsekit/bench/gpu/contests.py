"""Every case as a race: the product, the gradients, and the convolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import sparsekit.kernels
from sparsekit.bench.gpu.cases import GpuCase, GpuConv, GpuLinear
from sparsekit.bench.gpu.exact import Exact
from sparsekit.bench.gpu.race import About, Make, Race
from sparsekit.bench.gpu.rows import DENSE, KERNEL, PEER
from sparsekit.bench.gpu.session import Session
from sparsekit.bench.gpu.tables import apply_tuned
from sparsekit.bench.gpu.tuning import tune_kernel
from sparsekit.bench.gpu.ways import DENSE_WAYS, Way, peers_of
from sparsekit.formats import FORMATS, Dense, Format, gather, positions
from sparsekit.kernels import Convolution, ConvProblem, Problem
from sparsekit.kernels.base import PackedProblem, Runs
from sparsekit.kernels.candidates import candidates, conv_candidates, is_reference
from sparsekit.kernels.reference import REFERENCE_GRADIENT_KERNELS
from sparsekit.mask import Mask
from sparsekit.patterns import Pattern


def run_case(case: GpuCase, session: Session) -> None:
    """Check and time all that computes ``case``."""
    with torch.no_grad():
        if isinstance(case, GpuConv):
            with torch.backends.cudnn.flags(enabled=True, benchmark=True):  # type: ignore[no-untyped-call]
                _convolve(case, session)
        elif case.backward:
            _differentiate(case, session)
        else:
            _multiply(case, session)


def select(pattern: Pattern, weight: Tensor, sparsity: float) -> Mask:
    """Return the mask of the largest weights."""
    wanted = None if pattern.fixes_sparsity else sparsity
    return Mask(pattern.select(weight.float().abs(), wanted), pattern)


def copy_of(packed: Format) -> Format:
    """Return the same weight in memory of its own."""
    return packed.from_parts({name: part.clone() for name, part in packed.tensors().items()}, packed.integers())


@dataclass(frozen=True)
class Entrant:
    """A kernel with a packed weight, ready to be tuned and to take part.

    Args:
        kernel, packed: what.
        problem: what for.
        call: given a packed weight, binds the kernel to it.
    """

    kernel: Runs[Any]
    packed: Format
    problem: PackedProblem
    call: Callable[[Format], Callable[[], Tensor]]

    def enter(self, race: Race, sparsity: float, about: About) -> None:
        """Tune where there is time, then take part."""
        session = race.session
        if self.kernel.name in session.log.failed():
            return
        if session.tunes:
            tune_kernel(self.kernel, self.problem, lambda: self.call(self.packed), about.exact, race.x, session)
            apply_tuned(session)
        race.enter(self.kernel.name, sparsity, about, lambda: self.call(copy_of(self.packed)))


def _multiply(case: GpuLinear, session: Session) -> None:
    x = session.random(case.batch, case.columns, dtype=case.dtype, seed=1)
    weight = session.random(case.rows, case.columns, dtype=case.dtype, seed=2)
    race = Race(str(case), case.batch, x, session)
    wide = x.element_size()
    traffic = (x.numel() + case.batch * case.rows) * wide

    def about(kind: str, exact: Exact, nbytes: int, nnz: int) -> About:
        return About(kind, exact, nbytes, 2.0 * case.batch * nnz, traffic)

    exact = Exact.product(x, weight.T)
    for way in DENSE_WAYS:
        race.enter(
            way.name, 0.0, about(DENSE, exact, weight.numel() * wide, weight.numel()), _layer(way, weight, x, case)
        )
    for sparsity in case.floors:
        mask = select(case.pattern, weight, sparsity)
        masked = weight.masked_fill(~mask.keep, 0.0)
        exact = Exact.product(x, masked.T)
        for kernel, packed in candidates(weight, mask, case.batch):
            if kernel.format is not Dense:
                bind = partial(_bound, kernel, x)
                entrant = Entrant(kernel, packed, Problem(packed, case.batch), bind)
                entrant.enter(race, sparsity, about(KERNEL, exact, packed.nbytes, mask.nnz))
        for way in peers_of(case):
            nbytes = int(masked.numel() * wide * (1.0 - mask.sparsity))
            race.enter(way.name, sparsity, about(PEER, exact, nbytes, mask.nnz), _layer(way, masked, x, case))
    race.run(case.floors)


def _layer(way: Way, weight: Tensor, x: Tensor, case: GpuLinear) -> Make:
    """Bind ``way`` to a copy of the weight, again and again; only the first binding finds anything out."""
    found: list[Any] = [None]

    def make() -> Callable[[], Tensor]:
        product, found[0] = way.bind(weight.clone(), x, case, found[0])
        return product

    return make


def _bound(kernel: Any, x: Tensor, packed: Format) -> Callable[[], Tensor]:
    return partial(kernel.bind(packed), x, None)


def _differentiate(case: GpuLinear, session: Session) -> None:
    """Race for the gradient of the input, and for that of the kept weights."""
    x = session.random(case.batch, case.columns, dtype=case.dtype, seed=1)
    grad = session.random(case.batch, case.rows, dtype=case.dtype, seed=3)
    weight = session.random(case.rows, case.columns, dtype=case.dtype, seed=2)
    wide, traffic = x.element_size(), (x.numel() + grad.numel()) * x.element_size()
    of_x, of_part = (Race(f"{case}, {of}", case.batch, grad, session) for of in ("of the input", "of the weights"))
    exact_weight = Exact.product(grad.T, x)

    def about(kind: str, exact: Exact, nnz: int) -> About:
        return About(kind, exact, nnz * wide, 2.0 * case.batch * nnz, traffic)

    dense = partial(torch.matmul, grad, weight), partial(torch.matmul, grad.T, x)
    of_x.enter("matmul", 0.0, about(DENSE, Exact.product(grad, weight), weight.numel()), _once(dense[0]))
    of_part.enter("matmul", 0.0, about(DENSE, exact_weight, weight.numel()), _once(dense[1]))
    for sparsity in case.floors:
        mask = select(case.pattern, weight, sparsity)
        exact_x = Exact.product(grad, weight.masked_fill(~mask.keep, 0.0))
        for kernel, packed in gradient_kernels(weight, mask, case.batch):
            if kernel in REFERENCE_GRADIENT_KERNELS:
                continue
            places = positions(packed)["values"]
            exact_part = exact_weight.map(partial(_gathered, places))
            bound = kernel.bind(packed, {})
            of_x.enter(kernel.name, sparsity, about(KERNEL, exact_x, mask.nnz), _once(partial(bound.of_x, grad)))
            entry = about(KERNEL, exact_part, mask.nnz)
            of_part.enter(kernel.name, sparsity, entry, _once(partial(bound.of_part, grad, x, "values")))
    of_x.run(case.floors)
    of_part.run(case.floors)


def _gathered(places: Tensor, dense: Tensor) -> Tensor:
    return gather(dense, places)


def _once(call: Callable[[], Tensor]) -> Make:
    """Bind nothing: one layer is timed."""
    return lambda: call


def gradient_kernels(weight: Tensor, mask: Mask, batch: int) -> Iterator[tuple[Any, Format]]:
    """Yield every kernel for gradients that does not refuse the mask, with the weight packed for it.

    Formats that round the weights are left out: they have no gradient of their weights.
    """
    packed: dict[type[Format], Format] = {}
    for kernel in sparsekit.kernels.GRADIENT_KERNELS:
        if kernel.format is Dense or kernel.format not in FORMATS or kernel.format.accepts(mask) is not None:
            continue
        if kernel.format not in packed:
            packed[kernel.format] = kernel.format.pack(weight, mask)
        if kernel.refuses(Problem(packed[kernel.format], batch)) is None:
            yield kernel, packed[kernel.format]


def _convolve(case: GpuConv, session: Session) -> None:
    layer = case.layer
    shape = (layer.outputs, layer.inputs, layer.kernel, layer.kernel)
    weight = session.random(*shape, dtype=case.dtype, seed=2)
    x = session.random(case.batch, layer.inputs, layer.size, layer.size, dtype=case.dtype, seed=1)
    last = x.contiguous(memory_format=torch.channels_last)
    padding, stride = (layer.padding,) * 4, (layer.stride, layer.stride)
    done = Convolution(layer.inputs, (layer.kernel, layer.kernel), stride, padding)
    size = (case.batch, layer.size, layer.size)
    high, wide = done.output_size(layer.size, layer.size)
    pixels = case.batch * high * wide
    traffic = (x.numel() + pixels * layer.outputs) * x.element_size()
    race = Race(str(case), pixels, last, session)

    def about(kind: str, exact: Exact, nbytes: int, nnz: int) -> About:
        return About(kind, exact, nbytes, 2.0 * pixels * nnz, traffic)

    exact = exact_convolution(x, weight, done)
    for name, images in (("F.conv2d", x), ("F.conv2d NHWC", last)):
        order = torch.channels_last if images is last else torch.contiguous_format
        call = partial(F.conv2d, images, weight.contiguous(memory_format=order), None, stride, layer.padding)
        race.enter(name, 0.0, about(DENSE, exact, weight.nbytes, weight.numel()), _once(call))
    for sparsity in case.floors:
        mask = select(case.pattern, weight, sparsity)
        exact = exact_convolution(x, weight.masked_fill(~mask.keep, 0.0), done)
        for kernel, packed in conv_candidates(weight, mask, done, size):
            if kernel.format is Dense or is_reference(kernel):
                continue
            entrant = Entrant(kernel, packed, ConvProblem(packed, done, size), partial(_bound_conv, kernel, done, last))
            entrant.enter(race, sparsity, about(KERNEL, exact, packed.nbytes, mask.nnz))
    race.run(case.floors)


def _bound_conv(kernel: Any, done: Convolution, x: Tensor, packed: Format) -> Callable[[], Tensor]:
    return partial(kernel.bind(packed, done), x, None)


def exact_convolution(x: Tensor, weight: Tensor, done: Convolution) -> Exact:
    """Return the convolution of ``x`` by the dense weight ``(out, in, kh, kw)``, in one group, as a matrix product."""
    top, bottom, left, right = done.padding
    padded = F.pad(x.double(), (left, right, top, bottom))
    pieces = F.unfold(padded, done.kernel_size, done.dilation, 0, done.stride)  # (N, in * kh * kw, pixels)
    shape = (x.shape[0], weight.shape[0], *done.output_size(x.shape[2], x.shape[3]))
    matrix = weight.flatten(1)
    product = Exact.product(pieces.transpose(1, 2), matrix.T)  # (N, pixels, out)
    return product.map(lambda t: t.transpose(1, 2).reshape(shape))
