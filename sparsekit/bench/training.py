"""One training step of a layer with a fixed mask, against the dense layer, in one process and interleaved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from sparsekit.bench.linear import Tell
from sparsekit.bench.problems import LinearProblem
from sparsekit.bench.results import Row
from sparsekit.bench.weights import Expected
from sparsekit.errors import KernelError
from sparsekit.kernels.timing import fastest
from sparsekit.mask import Mask
from sparsekit.nn import SparseLinear

BUDGET_S = 4.0
KERNEL = "training step"


def run_training(problems: Sequence[LinearProblem], tell: Tell = lambda _: None) -> Iterator[Row]:
    """Check, then time forward and backward of a trainable layer for each problem.

    A step is a forward and the gradients of input, bias and kept weights; before each one all weights are written anew,
    as an optimizer does, and that alone is not timed. "Dense" is ``nn.Linear``.

    Args:
        problems: what to measure; the pattern must be Block.
        tell: is told in a few words what comes next.

    Yields:
        One row per problem, sparsity and number of threads.

    Raises:
        KernelError: an output or a gradient is wrong.
    """
    before = torch.get_num_threads()
    try:
        for problem in problems:
            for threads in problem.threads:
                torch.set_num_threads(threads)
                tell(f"training, {problem}, {threads} thread{'s' if threads > 1 else ''}")
                yield from _time(problem, threads)
    finally:
        torch.set_num_threads(before)


def _time(problem: LinearProblem, threads: int) -> Iterator[Row]:
    """Time all sparsities of a problem in the same rounds as the dense layer."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(problem.batch, problem.columns, generator=generator).requires_grad_()
    grad = torch.randn(problem.batch, problem.rows, generator=generator)
    dense = nn.Linear(problem.columns, problem.rows)
    layers: dict[str, nn.Module] = {"0.0": dense}
    nnz = {}
    for sparsity in problem.floors:
        mask = Mask(problem.pattern.select(dense.weight.detach().abs(), sparsity), problem.pattern)
        layer = SparseLinear.from_dense(dense, mask, trainable=True)
        _check(layer, mask, x, grad)
        layers[str(sparsity)], nnz[sparsity] = layer, mask.nnz
    calls = {name: partial(_step, layer, x, grad) for name, layer in layers.items()}
    times = fastest(calls, BUDGET_S * len(problem.floors), before=partial(_rewrite, list(layers.values())))
    for sparsity, floor in problem.floors.items():
        seconds = times[str(sparsity)]
        yield Row(
            case=f"{KERNEL}, {problem}",
            sparsity=sparsity,
            threads=threads,
            kernel=KERNEL,
            seconds=seconds,
            dense_kernel="nn.Linear",
            dense_seconds=times["0.0"],
            kept_flops=6.0 * problem.batch * nnz[sparsity] / seconds,
            dense_flops=6.0 * problem.batch * dense.weight.numel() / seconds,
            floor=floor,
        )


def _step(layer: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> None:
    """One forward and backward; gradients are new tensors every time."""
    assert isinstance(layer, nn.Module)
    layer.zero_grad()
    x.grad = None
    layer(x).backward(grad)


def _rewrite(layers: Sequence[nn.Module]) -> None:
    with torch.no_grad():
        for layer in layers:
            for parameter in layer.parameters():
                parameter.mul_(1.0)


def _check(layer: SparseLinear, mask: Mask, x: Tensor, grad: Tensor) -> None:
    """Raise :class:`KernelError` unless output and gradients are right up to rounding."""
    assert layer.bias is not None
    _step(layer, x, grad)
    values, bias_grad, x_grad = layer.packed.values.grad, layer.bias.grad, x.grad
    assert values is not None
    assert bias_grad is not None
    assert x_grad is not None
    weight, no_bias = layer.weight, grad.new_zeros(())
    parts = {**layer.packed.tensors(), "values": values}
    weight_grad = layer.format.from_parts(parts, layer.packed.integers()).unpack()
    if torch.count_nonzero(weight_grad[~mask.keep]):
        raise KernelError(f"{KERNEL}: expected no gradient of removed weights")
    with torch.no_grad():
        _expect("output", layer(x), x, weight, layer.bias)
        _expect("gradient of the input", x_grad, grad, weight.T, no_bias)
        _expect("gradient of the bias", bias_grad[None], grad.new_ones(1, len(grad)), grad.T, no_bias)
        kept = torch.where(mask.keep, weight_grad, grad.T @ x)
        _expect("gradient of the weight", kept, grad.T, x.T, no_bias)


def _expect(what: str, y: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    Expected(x, weight, bias).check(f"{KERNEL}, {what}", y)
