"""Convolutions in Triton, against float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sparsekit.formats import BlockCSR
from sparsekit.kernels import Convolution, ConvProblem
from sparsekit.kernels.convolution import ACTIVATIONS
from sparsekit.kernels.triton import tiled_conv
from sparsekit.kernels.triton.conv import BLOCK_CSR_CONV, ConvWeight, launches
from sparsekit.kernels.triton.tile import Tile
from sparsekit.kernels.triton.tiled_conv import laid_out
from sparsekit.mask import Mask
from sparsekit.nn import SparseConv2d
from sparsekit.patterns import AllTaps, Block, KernelSlice, PerTap
from tests.kernels.triton.convolutions import images_of, packed_of
from tests.numerics import assert_convolution
from tests.weights import random_weight

SAME = (1, 1, 1, 1)
PROBLEMS = {
    "1x1": (Convolution(32, (1, 1)), 32, (1, 5, 7)),
    "1x1, 3 images, stride 2": (Convolution(40, (1, 1), (2, 2)), 20, (3, 5, 4)),
    "3x3": (Convolution(32, (3, 3), (1, 1), SAME), 48, (1, 6, 5)),
    "3x3, 3 images": (Convolution(24, (3, 3), (1, 1), SAME), 16, (3, 4, 5)),
    "3x3, stride 2": (Convolution(17, (3, 3), (2, 2), SAME), 33, (1, 7, 9)),
    "3x3, stride 2 x 1": (Convolution(16, (3, 3), (2, 1)), 16, (1, 7, 6)),
    "3x3, dilation 2 x 3": (Convolution(16, (3, 3), (1, 2), (2, 2, 3, 3), (2, 3)), 16, (1, 6, 9)),
    "3x3, asymmetric": (Convolution(16, (3, 3), (1, 1), (0, 2, 3, 0)), 16, (1, 5, 6)),
    "3x3, more padding than image": (Convolution(16, (3, 3), (1, 1), (3, 4, 5, 3)), 16, (1, 2, 2)),
    "5x5, smaller than its reach": (Convolution(16, (5, 5), (1, 1), (2, 2, 2, 2)), 16, (2, 3, 3)),
    "15x1": (Convolution(16, (15, 1), (1, 1), (7, 7, 0, 0)), 16, (1, 5, 4)),
    "1x3": (Convolution(16, (1, 3), (1, 1), (0, 0, 1, 1)), 16, (1, 3, 6)),
    "4x2": (Convolution(18, (4, 2), (1, 1), (1, 2, 0, 1)), 24, (1, 6, 6)),
    "one pixel": (Convolution(16, (3, 3), (1, 1), SAME), 16, (1, 1, 1)),
}
PATTERNS = (PerTap(Block(16, 16)), AllTaps(Block(16, 8)), Block(16, 12))
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
TILE = Tile(64, 32, 64)


def convolved(packed, convolution, x, bias=None, tile=TILE):
    """The result by one tile: a call of the kernel itself chooses small ones here, which the interpreter is slow at."""
    images = laid_out(x, bias, packed.rows, convolution)
    for launch in launches(ConvWeight(packed, convolution), images, tile):
        launch.run()
    return images.y


@pytest.mark.parametrize("name", PROBLEMS)
def test_convolves(name, device):
    convolution, outputs, size = PROBLEMS[name]
    pattern = PATTERNS[list(PROBLEMS).index(name) % len(PATTERNS)]
    packed, weight = packed_of(pattern, convolution, outputs, device=device)
    assert BLOCK_CSR_CONV.refuses(ConvProblem(packed, convolution, size)) is None
    x, bias = images_of(convolution, size, device=device), random_weight((outputs,), seed=2).to(device)
    assert_convolution(convolved(packed, convolution, x, bias), x, weight, convolution, bias)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_dtypes_and_patterns(pattern, dtype, device):
    for name in ("3x3, stride 2", "1x1"):
        convolution, outputs, size = PROBLEMS[name]
        packed, weight = packed_of(pattern, convolution, outputs, dtype, device)
        x, bias = images_of(convolution, size, dtype, device), random_weight((outputs,), dtype, 2).to(device)
        assert_convolution(convolved(packed, convolution, x, bias), x, weight, convolution, bias)


@pytest.mark.parametrize("tile", [Tile(16, 16, 16), Tile(16, 64, 32), Tile(32, 32, 128), Tile(128, 16, 64)], ids=str)
def test_tiles(tile, device):
    convolution, outputs, size = PROBLEMS["3x3"]
    packed, weight = packed_of(PATTERNS[0], convolution, outputs, device=device)
    x = images_of(convolution, size, device=device)
    assert_convolution(convolved(packed, convolution, x, tile=tile), x, weight, convolution)


@pytest.mark.parametrize("splits", [2, 8])
def test_sums_of_parts(splits, device):
    """Of 3 tiles of outputs one has no step and one has fewer steps than parts."""
    convolution, outputs, size = replace(PROBLEMS["3x3, 3 images"][0], activation="silu"), 48, (2, 4, 5)
    weight, keep = random_weight(convolution.weight_shape(outputs), torch.float16), torch.ones(48, 24, 3, 3).bool()
    keep[16:32] = False
    keep[32:, 16:] = keep[32:, :, 1:] = False
    packed = BlockCSR.pack(weight.to(device), Mask(keep.to(device), PerTap(Block(16, 1))))
    x, bias = (
        images_of(convolution, size, torch.float16, device),
        random_weight((outputs,), torch.float16, 2).to(device),
    )
    y = convolved(packed, convolution, x, bias, Tile(64, 16, 16, splits=splits))
    assert_convolution(y, x, (weight * keep).to(device), convolution, bias)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_applies_activations(activation, device):
    convolution = replace(PROBLEMS["1x1"][0], activation=activation)
    packed, weight = packed_of(PATTERNS[0], convolution, 32, device=device)
    x, bias = images_of(convolution, (1, 5, 7), device=device), random_weight((32,), seed=2).to(device)
    assert_convolution(convolved(packed, convolution, x, bias), x, weight, convolution, bias)


def in_every_layout(x):
    """The images as they are, in channels_last order, and as parts of a larger tensor that the others surround."""
    n, c, h, w = x.shape
    yield x
    yield x.to(memory_format=torch.channels_last)
    yield x.transpose(2, 3).contiguous().transpose(2, 3)
    # of more channels: 16 bytes stay together, begin elsewhere, are apart in the next pixel, or from channel to channel
    for channels, first, step in ((c + 16, 0, 1), (c + 16, 3, 1), (c + 9, 0, 1), (2 * c, 0, 2)):
        around = torch.full((n, channels, h + 2, w + 3), torch.nan, dtype=x.dtype, device=x.device)
        inside = around.to(memory_format=torch.channels_last)[:, first : first + c * step : step, :-2, :-3]
        inside.copy_(x)
        yield inside
    yield torch._neg_view(-x.to(memory_format=torch.channels_last))


@pytest.mark.parametrize("name", ["3x3, 3 images", "3x3, stride 2"])
def test_images_in_every_layout(name, device):
    convolution, outputs, size = PROBLEMS[name]
    packed, weight = packed_of(PATTERNS[0], convolution, outputs, torch.float16, device)
    for x in in_every_layout(images_of(convolution, size, torch.float16, device)):
        before = x.clone()
        y = convolved(packed, convolution, x)
        assert_convolution(y, x, weight, convolution)
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(x, before)


def test_only_images_that_cannot_be_read_as_they_lie_are_copied(device):
    convolution, outputs, size = PROBLEMS["3x3, 3 images"]
    kept = [
        laid_out(x, None, outputs, convolution).x is x
        for x in in_every_layout(images_of(convolution, size, torch.float16, device))
    ]
    assert kept == [False, True, False, True, False, False, False, False]


def test_images_whose_places_32_bits_do_not_count_are_copied(monkeypatch, device):
    convolution, outputs, _ = PROBLEMS["3x3, 3 images"]
    x = images_of(convolution, (3, 4, 5), torch.float16, device).to(memory_format=torch.channels_last)[::2]
    for most, kept in ((3 * x[0].numel() + 1, True), (3 * x[0].numel(), False)):
        monkeypatch.setattr(tiled_conv, "MOST_ELEMENTS", most)
        assert (laid_out(x, None, outputs, convolution).x is x) == kept


def test_outputs_without_weights(device):
    convolution, outputs, size = PROBLEMS["3x3"]
    weight, bias = random_weight(convolution.weight_shape(outputs)), random_weight((outputs,), seed=2).to(device)
    x = images_of(convolution, size, device=device)
    for rows in (slice(0, 16), slice(16, 48), slice(0, 48)):
        keep = torch.ones(weight.shape, dtype=torch.bool)
        keep[rows] = False
        packed = BlockCSR.pack(weight.to(device), Mask(keep.to(device), PerTap(Block(16, 16))))
        y = convolved(packed, convolution, x, bias, Tile(64, 16, 64))
        assert_convolution(y, x, (weight * keep).to(device), convolution, bias)


def test_what_is_not_stored_is_not_read(device):
    """Infinite images make NaN of a product with a zero that fills a tile up."""
    convolution = Convolution(32, (1, 1))
    keep = torch.zeros(16, 32, 1, 1, dtype=torch.bool)
    keep[:, :16] = True
    weight = random_weight(keep.shape).to(device)
    packed = BlockCSR.pack(weight, Mask(keep.to(device), PerTap(Block(16, 16))))
    x = images_of(convolution, (1, 4, 4), device=device)
    x[:, 16:] = torch.inf
    y = convolved(packed, convolution, x)
    assert_convolution(y, x[:, :16], weight[:, :16], replace(convolution, in_channels=16))


def test_one_binding_convolves_images_of_every_size(device):
    convolution, outputs, _ = PROBLEMS["3x3, 3 images"]
    packed, weight = packed_of(PATTERNS[0], convolution, outputs, torch.bfloat16, device)
    run, results = BLOCK_CSR_CONV.bind(packed, convolution), []
    for size in ((1, 3, 4), (2, 4, 3), (1, 3, 4)):
        x = images_of(convolution, size, torch.bfloat16, device)
        results.append((run(x, None), x))
    for y, x in results:
        assert_convolution(y, x, weight, convolution)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_layers_return_the_order_of_their_images(order, device):
    dense = nn.Conv2d(32, 48, 3, stride=2, padding=(1, 2), device=device)
    keep = PATTERNS[0].select(torch.rand(dense.weight.shape), 0.5).to(device)
    layer = SparseConv2d.from_dense(dense, Mask(keep, PATTERNS[0]), BlockCSR, activation="relu").eval()
    assert BLOCK_CSR_CONV.name in repr(layer)
    x = images_of(layer.convolution, (2, 7, 6), device=device).contiguous(memory_format=order)
    with torch.inference_mode():
        y = layer(x)
    assert_convolution(y, x, dense.weight.detach() * keep, layer.convolution, dense.bias.detach())
    assert y.is_contiguous(memory_format=order)


@pytest.mark.parametrize(
    ("convolution", "outputs", "pattern", "reason"),
    [
        (Convolution(32, (3, 3), groups=2), 32, PerTap(Block(16, 16)), "it runs convolutions of one group, not of 2"),
        (Convolution(32, (3, 3), groups=32), 32, Block(16, 1), "it runs convolutions of one group, not of 32"),
        (Convolution(3, (7, 7)), 64, Block(16, 1), "it fills matrix instructions from 16 channels on"),
        (Convolution(32, (1, 1)), 8, Block(8, 1), "it fills matrix instructions from 16 channels on"),
        (Convolution(32, (3, 3)), 32, KernelSlice(), "it reads channels for 16 outputs at once, and a block has 1"),
        (Convolution(32, (3, 3)), 32, PerTap(Block(8, 16)), "it reads channels for 16 outputs at once"),
        (Convolution(16, (16, 1)), 16, Block(16, 1), "it runs kernels up to 15 x 15"),
        (Convolution(2048, (1, 1)), 16, Block(16, 16), "it counts places in 32 bits, and x has"),
        (Convolution(16, (1, 1), (1, 1)), 4096, Block(16, 16), "it counts places in 32 bits, and y has"),
    ],
)
def test_says_what_it_does_not_run(convolution, outputs, pattern, reason, device):
    size = (1, 1024, 1024) if "places" in reason else (1, 20, 20)
    packed, _ = packed_of(pattern, convolution, outputs, device=device)
    assert str(BLOCK_CSR_CONV.refuses(ConvProblem(packed, convolution, size))).startswith(reason)


def test_runs_no_float64(device):
    convolution, outputs, size = PROBLEMS["1x1"]
    packed, _ = packed_of(PATTERNS[0], convolution, outputs, torch.float64, device)
    assert "not float64" in str(BLOCK_CSR_CONV.refuses(ConvProblem(packed, convolution, size)))
