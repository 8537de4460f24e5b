"""Block CSR in Triton: products against float64."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from sparsekit.formats import BlockCSR
from sparsekit.kernels import Problem, gpu
from sparsekit.kernels.activation import APPLY
from sparsekit.kernels.triton import launch
from sparsekit.kernels.triton.block_bands import bands_of
from sparsekit.kernels.triton.block_csr import BLOCK_CSR_MM, launches, tiles
from sparsekit.kernels.triton.tile import Tile
from sparsekit.kernels.triton.tiled import laid_out
from sparsekit.mask import Mask
from sparsekit.patterns import Block
from tests.kernels.triton.blocks import long_offsets, packed_of, uneven
from tests.numerics import assert_product
from tests.weights import random_mask, random_weight, same_bits

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def multiply(packed, x, bias, tile):
    """The product with one tile, by the kernel's own launches."""
    operands = laid_out(x, bias, packed.rows, "none")
    for each in launches(bands_of(packed), operands, tile):
        each.run()
    return operands.y


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("sides", "batch"),
    [((16, 16), 1), ((32, 16), 17), ((16, 64), 130), ((64, 32), 33), ((48, 16), 7), ((128, 128), 16)],
)
def test_multiplies(sides, batch, dtype, device):
    packed, weight = packed_of((70, 90), sides, dtype, device)
    assert BLOCK_CSR_MM.refuses(Problem(packed, batch)) is None
    x, bias = random_weight((batch, 90), dtype, 1).to(device), random_weight((70,), dtype, 2).to(device)
    assert_product(BLOCK_CSR_MM.bind(packed)(x, bias), x, weight, bias)


@pytest.mark.parametrize("batch", [1, 7, 16, 33, 130])
def test_batches_of_uneven_block_rows(batch, device):
    packed, weight = uneven((48, 100), (16, 32), torch.float32, device)
    x = random_weight((batch, 100), seed=1).to(device)
    assert_product(BLOCK_CSR_MM.bind(packed)(x, None), x, weight)
    assert_product(BLOCK_CSR_MM.bind(long_offsets(packed))(x, None), x, weight)


FEATURES = (
    *(Tile(16, 32, inner) for inner in (16, 32, 64, 128)),
    *(Tile(16, 16, 32), Tile(64, 32, 32)),
    *(Tile(16, 32, inner, splits=splits) for inner, splits in ((16, 2), (64, 2), (32, 5))),
    *(Tile(16, 32, 32, persistent=True), Tile(32, 16, 64, splits=2, persistent=True)),
)


@pytest.mark.parametrize("tile", FEATURES, ids=str)
@pytest.mark.parametrize("columns", [128, 100])
def test_tiles_change_no_result(tile, columns, device):
    packed, weight = uneven((80, columns), (32, 32), torch.float32, device)
    x, bias = random_weight((20, columns), seed=1).to(device), random_weight((80,), seed=2).to(device)
    assert_product(multiply(packed, x, bias, tile), x, weight, bias)


def test_programs_that_persist_compute_every_tile(device, monkeypatch):
    packed, weight = uneven((100, 64), (16, 16), torch.float32, device)
    few = replace(gpu.H100, multiprocessors=1, shared_bytes=4096)
    monkeypatch.setattr("sparsekit.kernels.triton.block_csr.gpu_of", lambda device: few)
    x = random_weight((50, 64), seed=1).to(device)
    tile = Tile(16, 16, 32, persistent=True)
    (product,) = launches(bands_of(packed), laid_out(x, None, 100, "none"), tile)
    assert product.grid == (1,)
    assert_product(multiply(packed, x, None, tile), x, weight)


@pytest.mark.parametrize("group", [1, 2, 3, 100])
def test_groups_of_tokens_cover_all_tiles(group, device, monkeypatch):
    monkeypatch.setattr("sparsekit.kernels.triton.block_csr._group", lambda x, tile, gpu: group)
    packed, weight = packed_of((70, 64), (16, 16), torch.float32, device)
    x = random_weight((75, 64), seed=1).to(device)
    assert_product(multiply(packed, x, None, Tile(16, 16, 32)), x, weight)


def test_long_block_rows_come_first(device):
    packed, _ = uneven((112, 100), (16, 32), torch.float32, device)
    order = bands_of(packed).order.tolist()
    counts = packed.block_offsets.diff()[order].tolist()
    assert sorted(order) == list(range(7))
    assert counts == sorted(counts, reverse=True)


def test_parts_are_added_up_in_the_same_order(device):
    packed, _ = packed_of((32, 256), (32, 32), torch.float32, device, 0.0)
    x = random_weight((10, 256), seed=1).to(device)
    tile = Tile(16, 32, 32, splits=5)
    assert same_bits(multiply(packed, x, None, tile), multiply(packed, x, None, tile))


@pytest.mark.parametrize("tile", [Tile(16, 32, 64), Tile(16, 32, 64, splits=2)], ids=str)
def test_what_is_not_multiplied_does_not_reach_the_result(tile, device):
    """Infinity in an input without a weight, and in the block that follows the last of a block row."""
    keep = torch.zeros(64, 96, dtype=torch.bool)
    keep[:32, 32:64] = True
    keep[32:, 64:] = True
    weight = random_weight((64, 96))
    weight[32:] = torch.inf
    packed = BlockCSR.pack(weight.to(device), Mask(keep.to(device), Block(32, 32)))
    x = random_weight((20, 96), seed=1).abs().to(device)
    x[:, :32] = torch.inf
    y = multiply(packed, x, None, tile)
    assert_product(y[:, :32], x[:, 32:64], weight[:32, 32:64].to(device))


def test_no_blocks_at_all(device):
    packed, _ = packed_of((48, 64), (16, 16), torch.float32, device, 1.0)
    assert packed.values.shape[0] == 0
    x, bias = random_weight((9, 64)).to(device), random_weight((48,), seed=1).to(device)
    assert torch.equal(BLOCK_CSR_MM.bind(packed)(x, bias), bias.expand(9, 48))


@pytest.mark.parametrize("splits", [1, 2])
def test_operands_may_have_any_strides(splits, device):
    packed, weight = packed_of((48, 64), (16, 16), torch.float32, device)
    wide, bias = random_weight((20, 100), seed=1).to(device), random_weight((96,), seed=2).to(device)[::2]
    for x in (wide[:, 3:67], wide[::2, :64], random_weight((64, 20), seed=3).to(device).T):
        assert_product(multiply(packed, x, bias, Tile(16, 16, 32, splits=splits)), x, weight, bias)


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("activation", BLOCK_CSR_MM.activations)
def test_applies_activations(activation, splits, device):
    packed, weight = packed_of((32, 64), (16, 16), torch.float32, device)
    x, bias = random_weight((4, 64), seed=1).to(device), random_weight((32,), seed=2).to(device)
    operands = laid_out(x, bias, 32, activation)
    for each in launches(bands_of(packed), operands, Tile(16, 16, 32, splits=splits)):
        each.run()
    torch.testing.assert_close(operands.y, APPLY[activation](F.linear(x, weight, bias)))


def test_every_tile_to_try_is_right(device):
    packed, weight = packed_of((64, 128), (32, 32), torch.float32, device, 0.3)
    x = random_weight((70, 128), seed=1).to(device)
    for tile in tiles(Problem(packed, 70), gpu.H100):
        assert_product(multiply(packed, x, None, tile), x, weight)


def test_refuses_in_a_sentence(device, monkeypatch):
    packed = BlockCSR.pack(random_weight((48, 48)), random_mask((48, 48), Block(24, 16), 0.5))
    packed = replace(packed, **{name: tensor.to(device) for name, tensor in packed.tensors().items()})
    reason = str(BLOCK_CSR_MM.refuses(Problem(packed, 4)))
    assert reason == "it runs blocks whose sides are multiples of 16, not 24 x 16"
    packed, _ = packed_of((32, 32), (16, 16), torch.float64, device)
    assert "not float64" in str(BLOCK_CSR_MM.refuses(Problem(packed, 4)))
    packed, _ = packed_of((32, 32), (16, 16), torch.float16, device)
    monkeypatch.setattr(gpu, "MOST_ELEMENTS", 100)
    assert "counts places in 32 bits, and values has" in str(BLOCK_CSR_MM.refuses(Problem(packed, 4)))
    monkeypatch.undo()
    monkeypatch.setattr(gpu, "DEVICES", ())
    assert str(BLOCK_CSR_MM.refuses(Problem(packed, 4))).startswith("it runs on CUDA devices, not on")
    monkeypatch.setattr(gpu, "DEVICES", (device.type,))
    monkeypatch.setattr(gpu, "gpu_of", lambda device: replace(gpu.H100, name="GTX", capability=(7, 5)))
    assert "8.0 or newer, and GTX has 7.5" in str(BLOCK_CSR_MM.refuses(Problem(packed, 4)))
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
    assert "Triton is not installed" in str(BLOCK_CSR_MM.refuses(Problem(packed, 4)))
