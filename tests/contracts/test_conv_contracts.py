"""What holds for every convolution kernel of the tuple."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsekit.formats import FORMATS
from sparsekit.kernels import CONV_KERNELS, REFERENCE_CONV_KERNELS, Convolution, ConvProblem, choose
from sparsekit.kernels.candidates import conv_candidates
from sparsekit.mask import Mask
from sparsekit.patterns import NM, PATTERNS, Block, KernelSlice, Unstructured
from tests.numerics import assert_convolution
from tests.weights import random_weight

every_kernel = pytest.mark.parametrize("kernel", CONV_KERNELS, ids=lambda k: k.name)

# (convolution, outputs, (N, H, W))
PROBLEMS = {
    "1x1": (Convolution(16, (1, 1)), 24, (1, 7, 7)),
    "1x1, 3 images": (Convolution(17, (1, 1)), 9, (3, 5, 9)),
    "1x1, stride 2": (Convolution(8, (1, 1), (2, 2)), 16, (1, 9, 7)),
    "1x1, one pixel": (Convolution(12, (1, 1)), 8, (1, 1, 1)),
    "1x1, padded": (Convolution(4, (1, 1), (1, 1), (1, 1, 1, 1)), 4, (1, 4, 5)),
    "3x3": (Convolution(16, (3, 3), (1, 1), (1, 1, 1, 1)), 16, (1, 14, 14)),
    "3x3, 3 images": (Convolution(5, (3, 3), (1, 1), (1, 1, 1, 1)), 7, (3, 9, 11)),
    "3x3, no padding": (Convolution(4, (3, 3)), 8, (1, 8, 19)),
    "3x3, one output": (Convolution(4, (3, 3)), 8, (2, 3, 3)),
    "3x3, stride 2": (Convolution(8, (3, 3), (2, 2), (1, 1, 1, 1)), 8, (2, 14, 14)),
    "3x3, stride 2, odd": (Convolution(6, (3, 3), (2, 2), (1, 1, 1, 1)), 5, (1, 13, 9)),
    "3x3, stride 3": (Convolution(3, (3, 3), (3, 3), (1, 1, 1, 1)), 4, (1, 11, 10)),
    "3x3, stride 2 x 1": (Convolution(3, (3, 3), (2, 1), (1, 1, 1, 1)), 4, (1, 10, 7)),
    "3x3, asymmetric": (Convolution(4, (3, 3), (2, 2), (0, 1, 0, 1)), 8, (1, 8, 8)),
    "3x3, padding on one side": (Convolution(4, (3, 3), (1, 1), (0, 2, 3, 0)), 4, (1, 5, 6)),
    "3x3, more padding than image": (Convolution(2, (3, 3), (1, 1), (3, 4, 5, 3)), 4, (1, 2, 2)),
    "3x3, dilation 2": (Convolution(4, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)), 4, (1, 9, 9)),
    "3x3, dilation 2 x 3, stride 2": (Convolution(3, (3, 3), (2, 2), (2, 2, 3, 3), (2, 3)), 4, (1, 9, 12)),
    "3x3, 2 groups": (Convolution(8, (3, 3), (1, 1), (1, 1, 1, 1), groups=2), 16, (1, 7, 7)),
    "3x3, 3 groups, stride 2": (Convolution(9, (3, 3), (2, 2), (1, 1, 1, 1), groups=3), 6, (2, 7, 8)),
    "depthwise": (Convolution(8, (3, 3), (1, 1), (1, 1, 1, 1), groups=8), 8, (1, 9, 9)),
    "depthwise, two outputs each": (Convolution(5, (3, 3), (2, 2), (1, 1, 1, 1), groups=5), 10, (1, 9, 9)),
    "5x5": (Convolution(4, (5, 5), (1, 1), (2, 2, 2, 2)), 8, (1, 10, 17)),
    "7x7, stride 2": (Convolution(3, (7, 7), (2, 2), (3, 3, 3, 3)), 16, (1, 32, 30)),
    "1x3": (Convolution(4, (1, 3), (1, 1), (0, 0, 1, 1)), 8, (1, 6, 6)),
    "4x2, same": (Convolution(4, (4, 2), (1, 1), (1, 2, 0, 1)), 8, (1, 6, 6)),
    "one channel": (Convolution(1, (3, 3), (1, 1), (1, 1, 1, 1)), 1, (1, 6, 6)),
    "wide": (Convolution(2, (3, 3), (1, 1), (1, 1, 1, 1)), 4, (1, 3, 130)),
    "relu": (Convolution(8, (3, 3), (1, 1), (1, 1, 1, 1), activation="relu"), 8, (1, 9, 9)),
    "silu": (Convolution(8, (1, 1), activation="silu"), 8, (2, 9, 5)),
}
SIDES = {"rows": 4, "columns": 2, "n": 2, "m": 4, "v": 2, "dim": 2, "pattern": NM(1, 2)}


def mask_for(pattern, shape, sparsity, seed=0):
    """A mask of the pattern, or None where it takes no such weight, or cannot be so sparse."""
    if pattern.refuses(shape):
        return None
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 0.1
    if sparsity == 1.0:
        keep = torch.zeros(shape, dtype=torch.bool)
        return Mask(keep, pattern) if pattern.admits(keep) else None
    return Mask(pattern.select(scores, None if pattern.fixes_sparsity else sparsity), pattern)


def images(convolution, size, dtype=torch.float32, seed=1):
    return random_weight((size[0], convolution.in_channels, *size[1:]), dtype, seed)


def in_every_layout(x):
    """The same images in memory as it is, in channels_last, with gaps, and turned."""
    yield x
    yield x.to(memory_format=torch.channels_last)
    padded = torch.full((x.shape[0], x.shape[1] + 1, x.shape[2] + 2, x.shape[3] + 3), torch.nan, dtype=x.dtype)
    padded[:, 1:, 1:-1, 2:-1] = x
    yield padded[:, 1:, 1:-1, 2:-1]
    yield x.transpose(2, 3).contiguous().transpose(2, 3)
    yield padded.to(memory_format=torch.channels_last)[:, 1:, 1:-1, 2:-1]


def refused(kernel, problem):
    """Whether the kernel refuses, in a sentence; then another one runs the problem."""
    refusal = kernel.refuses(problem)
    if refusal is None:
        return False
    assert len(str(refusal).split()) > 3
    assert choose(problem, REFERENCE_CONV_KERNELS).format is kernel.format
    return True


def test_names_tell_format_operation_and_backend_and_are_unique():
    names = [kernel.name for kernel in CONV_KERNELS]
    assert len(set(names)) == len(names)
    for kernel in CONV_KERNELS:
        assert re.fullmatch(
            rf"{kernel.format.name}_conv_(native|reference|onednn|channels_last|triton)\w*", kernel.name
        )


def test_every_format_has_a_reference_that_refuses_nothing_and_comes_after_the_sparse_kernels():
    assert {kernel.format for kernel in REFERENCE_CONV_KERNELS} == set(FORMATS)
    order = {kernel.name: at for at, kernel in enumerate(CONV_KERNELS)}
    for kernel in CONV_KERNELS:
        if "native" in kernel.name:
            assert order[kernel.name] < order[f"{kernel.format.name}_conv_reference"]
    assert all(kernel.refuses(None) is None for kernel in REFERENCE_CONV_KERNELS)


@every_kernel
@pytest.mark.parametrize("name", PROBLEMS)
def test_refuses_in_a_sentence_or_convolves_images_in_every_layout(kernel, name):
    convolution, outputs, size = PROBLEMS[name]
    shape = convolution.weight_shape(outputs)
    weight, bias = random_weight(shape), random_weight((2 * outputs,), seed=2)[::2]
    for pattern, sparsity in ((Unstructured(), 0.7), (KernelSlice(), 0.5), (Block(4, 1), 0.5), (NM(2, 4), None)):
        mask = mask_for(pattern, shape, sparsity)
        if kernel.format.accepts(mask) is not None:
            continue
        packed = kernel.format.pack(weight, mask)
        if refused(kernel, ConvProblem(packed, convolution, size)):
            continue
        run = kernel.bind(packed, convolution)
        for x in in_every_layout(images(convolution, size)):
            before = x.clone()
            y = run(x, bias)
            assert_convolution(y, x, weight * mask.keep, convolution, bias)
            assert y.is_contiguous() or y.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(x, before)
            assert_convolution(run(x, None), x, weight * mask.keep, convolution)


@every_kernel
@pytest.mark.parametrize("kind", PATTERNS, ids=lambda kind: kind.__name__)
def test_every_pattern_at_every_sparsity(kernel, kind):
    needed = [f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING]
    pattern = kind(**{name: SIDES[name] for name in needed})
    for name in ("3x3", "1x1", "3x3, 2 groups"):
        convolution, outputs, size = PROBLEMS[name]
        shape = convolution.weight_shape(outputs)
        weight, x, bias = random_weight(shape), images(convolution, size), random_weight((outputs,), seed=2)
        for sparsity in (0.0, 0.3, 0.6, 0.95, 1.0):
            mask = mask_for(pattern, shape, sparsity)
            if mask is None or kernel.format.accepts(mask) is not None:
                continue
            packed = kernel.format.pack(weight, mask)
            if not refused(kernel, ConvProblem(packed, convolution, size)):
                assert_convolution(kernel.bind(packed, convolution)(x, bias), x, weight * mask.keep, convolution, bias)


def packed_for(kernel, convolution, outputs, dtype=torch.float32, seed=0):
    """A weight of a pattern that the kernel's format stores, in that format, and the dense one."""
    shape = convolution.weight_shape(outputs)
    weight = random_weight(shape, dtype, seed)
    masks = (mask_for(p, shape, s, seed) for p, s in ((Unstructured(), 0.6), (Block(4, 1), 0.5), (NM(2, 4), None)))
    mask = next(mask for mask in masks if kernel.format.accepts(mask) is None)
    return kernel.format.pack(weight, mask), weight * mask.keep


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes(kernel, dtype):
    for name in ("3x3", "1x1, 3 images", "3x3, asymmetric", "silu"):
        convolution, outputs, size = PROBLEMS[name]
        (packed, weight), bias = packed_for(kernel, convolution, outputs, dtype), random_weight((outputs,), dtype, 2)
        if not refused(kernel, ConvProblem(packed, convolution, size)):
            x = images(convolution, size, dtype)
            assert_convolution(kernel.bind(packed, convolution)(x, bias), x, weight, convolution, bias)


@every_kernel
@pytest.mark.parametrize("name", ["1x1", "3x3", "3x3, stride 2", "7x7, stride 2", "depthwise"])
def test_one_binding_runs_every_size_and_each_result_belongs_to_the_caller(kernel, name):
    convolution, outputs, (n, h, w) = PROBLEMS[name]
    packed, weight = packed_for(kernel, convolution, outputs)
    if refused(kernel, ConvProblem(packed, convolution, (n, h, w))):
        return
    run, results = kernel.bind(packed, convolution), []
    for size in ((n, h, w), (n + 2, h, w), (n, h + 1, w + 3), (n, 2 * h, w + 17), (n, h, w)):
        if not refused(kernel, ConvProblem(packed, convolution, size)):
            x = images(convolution, size, seed=len(results))
            results.append((run(x, None), x))
    for y, x in results:
        assert_convolution(y, x, weight, convolution)


@every_kernel
@pytest.mark.parametrize("name", ["3x3", "1x1, 3 images", "3x3, 2 groups"])
def test_outputs_and_inputs_without_weights(kernel, name):
    convolution, outputs, size = PROBLEMS[name]
    shape = convolution.weight_shape(outputs)
    weight, bias, x = random_weight(shape), random_weight((outputs,), seed=2), images(convolution, size)
    for rows, columns in (
        ([0], []),
        ([-1], [0]),
        ([0, 1, 2, 3], [-1]),
        (range(1, outputs), []),
        ([], range(1, shape[1])),
    ):
        keep = torch.ones(shape, dtype=torch.bool)
        keep[list(rows)] = False
        keep[:, list(columns)] = False
        for pattern in (Unstructured(), KernelSlice(), Block(1, 1)):
            if kernel.format.accepts(mask := Mask(keep, pattern)) is None:
                packed = kernel.format.pack(weight, mask)
                if not refused(kernel, ConvProblem(packed, convolution, size)):
                    y = kernel.bind(packed, convolution)(x, bias)
                    assert_convolution(y, x, weight * keep, convolution, bias)


@every_kernel
def test_two_threads_agree_with_one(kernel):
    before = torch.get_num_threads()
    try:
        for name in ("3x3, 3 images", "3x3", "1x1", "7x7, stride 2", "depthwise", "one channel"):
            convolution, outputs, size = PROBLEMS[name]
            packed, weight = packed_for(kernel, convolution, outputs)
            torch.set_num_threads(2)
            if not refused(kernel, ConvProblem(packed, convolution, size, threads=2)):
                x = images(convolution, size)
                assert_convolution(kernel.bind(packed, convolution)(x, None), x, weight, convolution)
    finally:
        torch.set_num_threads(before)


@st.composite
def any_problem(draw):
    """A convolution, its outputs and the size of images that it takes."""
    side, groups = st.integers(1, 4), draw(st.integers(1, 3))
    kernel, dilation = (draw(side), draw(side)), (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    convolution = Convolution(
        in_channels=groups * draw(st.integers(1, 9)),
        kernel_size=kernel,
        stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        padding=(*(draw(st.integers(0, 3)) for _ in range(4)),),
        dilation=dilation,
        groups=groups,
        activation=draw(st.sampled_from(["none", "relu", "silu"])),
    )
    (top, bottom, left, right), (high, wide) = convolution.padding, convolution.reach
    height = max(1, high - top - bottom) + draw(st.integers(0, 9))
    width = max(1, wide - left - right) + draw(st.integers(0, 40))
    return convolution, groups * draw(st.integers(1, 9)), (draw(st.integers(1, 3)), height, width)


@every_kernel
@given(problem=any_problem(), seed=st.integers(0, 999), layout=st.integers(0, 4))
@settings(deadline=None, max_examples=40)
def test_any_problem(kernel, problem, seed, layout):
    convolution, outputs, size = problem
    packed, weight = packed_for(kernel, convolution, outputs, seed=seed)
    if kernel.refuses(ConvProblem(packed, convolution, size)) is None:
        x = list(in_every_layout(images(convolution, size, seed=seed + 1)))[layout]
        bias = random_weight((outputs,), seed=seed + 2) if seed % 2 else None
        assert_convolution(kernel.bind(packed, convolution)(x, bias), x, weight, convolution, bias)


def test_candidates_leave_out_what_cannot_pay():
    convolution, outputs, size = PROBLEMS["3x3"]
    shape = convolution.weight_shape(outputs)
    weight, mask = random_weight(shape), mask_for(Unstructured(), shape, 0.5)
    names = [kernel.name for kernel, _ in conv_candidates(weight, mask, convolution, size)]
    assert {"dense_conv_reference", "dense_conv_onednn", "dense_conv_channels_last"} <= set(names)
    assert not {"csr_conv_reference", "bitmask_conv_reference", "block_csr_conv_reference"} & set(names)
    dense = Mask(torch.ones(shape, dtype=torch.bool))
    assert all(k.name.startswith("dense") for k, _ in conv_candidates(weight, dense, convolution, size))
