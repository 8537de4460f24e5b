"""Convolutions by one packed weight, against every dense way, in one process and interleaved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsekit.bench.linear import Tell
from sparsekit.bench.memory import keep_memory, warming
from sparsekit.bench.problems import ConvCase
from sparsekit.bench.results import Row
from sparsekit.bench.rounding import expect_exact
from sparsekit.demo.cnn.dense import Call, contenders, dense_ways
from sparsekit.formats import Dense, Format
from sparsekit.kernels import Convolution, native
from sparsekit.kernels.candidates import conv_candidates
from sparsekit.kernels.timing import fastest
from sparsekit.mask import Mask

BUDGET_S = 0.8
LAST = " NHWC"
LAYOUTS = {"": torch.contiguous_format, LAST: torch.channels_last}
"""What is written behind a kernel's name, and the memory order of the images that it got."""


@dataclass(frozen=True)
class Pruned:
    """One weight of a case, and what a convolution by it gives.

    Args:
        mask: what stays.
        exact, scale: the result in float64, and that of the absolute values.
    """

    mask: Mask
    exact: Tensor
    scale: Tensor


def run_conv(cases: Sequence[ConvCase], tell: Tell = lambda _: None) -> Iterator[Row]:
    """Check, then time every kernel that runs each case.

    Dense are ``nn.Conv2d``, eager and frozen, and the dense kernels; they and the sparse kernels get their images in
    NCHW and in channels_last order, and the faster of the two counts. Each is called a few times unmeasured before
    every measured call: what it finds in the caches does not depend on who else is in the race.

    Args:
        cases: what to measure.
        tell: is told in a few words what comes next.

    Yields:
        One row per case, sparsity, number of threads and sparse kernel.

    Raises:
        KernelError: a kernel is wrong; it names the kernel, the case and the error.
    """
    keep_memory()
    before = torch.get_num_threads()
    peaks = {threads: native.measured_peaks(threads).get("flops", 0.0) for c in cases for threads in c.threads}
    try:
        for case in cases:
            tell(f"{case}, exact results")
            bench = ConvBench(case)
            for threads in case.threads:
                torch.set_num_threads(threads)
                tell(f"{case}, {threads} thread{'s' if threads > 1 else ''}")
                yield from bench.rows(threads, peaks[threads] if case.dtype is torch.float32 else 0.0)
    finally:
        torch.set_num_threads(before)


class ConvBench:
    """One case: the layer, its pruned weights, and the images in both orders."""

    def __init__(self, case: ConvCase) -> None:
        layer, generator = case.layer, torch.Generator().manual_seed(0)
        self.case = case
        self.conv = nn.Conv2d(layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.padding, dtype=case.dtype)
        for parameter in self.conv.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator).to(case.dtype)
        self.conv.eval().requires_grad_(False)
        x = torch.randn(case.batch, layer.inputs, layer.size, layer.size, generator=generator).to(case.dtype)
        self.images = {layout: x.contiguous(memory_format=order) for layout, order in LAYOUTS.items()}
        everything = Mask(torch.ones_like(self.conv.weight, dtype=torch.bool))
        self.pruned = {0.0: self._convolved(everything)}
        for sparsity in case.floors:
            keep = case.pattern.select(
                self.conv.weight.float().abs(), None if case.pattern.fixes_sparsity else sparsity
            )
            self.pruned[sparsity] = self._convolved(Mask(keep, case.pattern))

    def _convolved(self, mask: Mask) -> Pruned:
        x, weight = self.images[""].double(), torch.where(mask.keep, self.conv.weight, 0.0).double()
        assert self.conv.bias is not None
        bias, settings = self.conv.bias.double(), (self.case.layer.stride, self.case.layer.padding)
        exact = F.conv2d(x, weight, bias, *settings)
        return Pruned(mask, exact, F.conv2d(x.abs(), weight.abs(), bias.abs(), *settings))

    def rows(self, threads: int, peak: float) -> Iterator[Row]:
        """Time all sparsities in the same rounds as the dense ways.

        Args:
            threads: how many torch uses now.
            peak: FLOP per second that this machine reaches; 0 where it was not measured.
        """
        dense, sparse = self.dense_calls(), self.sparse_calls()
        with torch.no_grad():
            calls = {f"{way} {sparsity}": call for (way, sparsity), (call, _) in sparse.items()}
            ways = {**dense, **calls}
            times = fastest(
                ways, BUDGET_S * len(self.case.floors), {way: partial(warming, call) for way, call in ways.items()}
            )
        way = min(dense, key=lambda name: times[name])
        for (name, sparsity), (_, packed) in sparse.items():
            others = [f"{name.removesuffix(LAST)}{layout} {sparsity}" for layout in LAYOUTS]
            if times[f"{name} {sparsity}"] == min(times[other] for other in others):
                yield self._row(
                    (name, sparsity, threads), times[f"{name} {sparsity}"], (way, times[way]), (packed, peak)
                )

    def dense_calls(self) -> dict[str, Call]:
        """Return the dense ways that could be the fastest, by name; the dense kernels were checked."""
        calls = {name: call for (name, _), (call, _) in self._checked(0.0)}
        return contenders({**dense_ways(self.conv, self.images[""]), **calls})

    def sparse_calls(self) -> dict[tuple[str, float], tuple[Call, Format]]:
        """Return what runs each sparsity of the case, checked, with the packed weight, by kernel and sparsity."""
        return {key: found for sparsity in self.case.floors for key, found in self._checked(sparsity)}

    def _checked(self, sparsity: float) -> Iterator[tuple[tuple[str, float], tuple[Call, Format]]]:
        """Yield every kernel on images of both orders, checked; dense kernels only where nothing was removed."""
        convolution, pruned = Convolution.of(self.conv), self.pruned[sparsity]
        size = (self.case.batch, self.case.layer.size, self.case.layer.size)
        for kernel, packed in conv_candidates(self.conv.weight, pruned.mask, convolution, size):
            if kernel.format is Dense and sparsity:
                continue
            run = kernel.bind(packed, convolution)
            for layout, images in self.images.items():
                call, name = partial(run, images, self.conv.bias), f"{kernel.name}{layout}"
                expect_exact(f"{self.case}: {name}", call(), pruned.exact, pruned.scale)
                yield (name, sparsity), (call, packed)

    def _row(
        self, what: tuple[str, float, int], seconds: float, dense: tuple[str, float], means: tuple[Format, float]
    ) -> Row:
        (name, sparsity, threads), (packed, peak) = what, means
        pixels = self.pruned[sparsity].exact[:, 0].numel()
        operations = 2.0 * pixels * self.pruned[sparsity].mask.nnz
        return Row(
            case=str(self.case),
            sparsity=sparsity,
            threads=threads,
            kernel=name,
            seconds=seconds,
            dense_kernel=dense[0],
            dense_seconds=dense[1],
            kept_flops=operations / seconds,
            dense_flops=2.0 * pixels * self.conv.weight.numel() / seconds,
            share_of_peak=operations / seconds / peak if peak else 0.0,
            bandwidth=packed.nbytes / seconds,
            floor=self.case.floors[sparsity],
        )
