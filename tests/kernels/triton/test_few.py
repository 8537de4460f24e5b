"""Few tokens in Triton, N:M, bitmask and delta: products against float64, and what the compiler makes of it."""

import pytest
import torch
import torch.nn.functional as F

from sparsekit.formats import Bitmask, NMPacked
from sparsekit.kernels import Problem
from sparsekit.kernels.activation import APPLY
from sparsekit.kernels.gpu import H100, Gpu
from sparsekit.kernels.triton import bitmask, delta, nm
from sparsekit.kernels.triton.bitmask import BITMASK_MM, BITMASK_MV
from sparsekit.kernels.triton.delta import DELTA_MV
from sparsekit.kernels.triton.few import splits_for
from sparsekit.kernels.triton.nm import NM_MM, NM_MV
from sparsekit.kernels.triton.tile import Tile
from sparsekit.kernels.triton.tiled import Operands
from sparsekit.mask import Mask
from sparsekit.patterns import NM, Unstructured
from tests.kernels.triton.compiled import assert_fits, compile_ahead, count
from tests.numerics import assert_product
from tests.weights import random_mask, random_weight

FEW = (NM_MV, NM_MM, DELTA_MV, BITMASK_MV, BITMASK_MM)
MOST = {NM_MV.name: 4, NM_MM.name: 64, DELTA_MV.name: 32, BITMASK_MV.name: 4, BITMASK_MM.name: 32}
A100 = Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 166_912, 40 << 20)
H200 = Gpu("NVIDIA H200", (9, 0), 132, 232_448, 50 << 20)
every_kernel = pytest.mark.parametrize("kernel", FEW, ids=lambda k: k.name)


def packed_of(kernel, shape, dtype, device, pattern=None, sparsity=None):
    """A packed weight and what it stands for, dense."""
    pattern = pattern or (NM(2, 4) if kernel.format is NMPacked else Unstructured())
    sparsity = (0.1 if isinstance(pattern, NM) else 0.7) if sparsity is None else sparsity
    mask, weight = random_mask(shape, pattern, sparsity), random_weight(shape, dtype)
    packed = kernel.format.pack(weight.to(device), Mask(mask.keep.to(device), pattern))
    return packed, (weight * mask.keep).to(device)


def assert_multiplies(kernel, packed, weight, batch, multiply=None):
    assert kernel.refuses(Problem(packed, batch)) is None
    x = random_weight((batch, packed.columns), weight.dtype, 1).to(weight.device)
    bias = random_weight((packed.rows,), weight.dtype, 2).to(weight.device)
    assert_product((multiply or kernel.bind(packed))(x, bias), x, weight, bias)


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("shape", "batch"), [((1, 64), 1), ((7, 90), 3), ((70, 275), 4)], ids=str)
def test_multiplies(kernel, shape, batch, dtype, device):
    assert_multiplies(kernel, *packed_of(kernel, shape, dtype, device), batch)


@every_kernel
@pytest.mark.parametrize("batch", [8, 17, 64])
def test_multiplies_batches_up_to_its_own_and_no_larger_ones(kernel, batch, device):
    packed, weight = packed_of(kernel, (20, 96), torch.bfloat16, device)
    if batch <= MOST[kernel.name]:
        assert_multiplies(kernel, packed, weight, batch)
    else:
        assert f"batches up to {MOST[kernel.name]}" in str(kernel.refuses(Problem(packed, batch)))
    assert kernel.refuses(Problem(packed, MOST[kernel.name])) is None
    assert f"not {MOST[kernel.name] + 1}" in str(kernel.refuses(Problem(packed, MOST[kernel.name] + 1)))


@pytest.mark.parametrize("kernel", [NM_MV, NM_MM], ids=lambda k: k.name)
@pytest.mark.parametrize("pattern", [NM(1, 2), NM(1, 4), NM(2, 8), NM(4, 8), NM(4, 16), NM(8, 16)], ids=str)
@pytest.mark.parametrize("columns", [128, 45])
def test_multiplies_n_of_m(kernel, pattern, columns, device):
    assert_multiplies(kernel, *packed_of(kernel, (9, columns), torch.bfloat16, device, pattern), 2)


@pytest.mark.parametrize("pattern", [NM(3, 4), NM(1, 8), NM(2, 3), NM(4, 4), NM(16, 32)], ids=str)
def test_refuses_other_n_of_m(pattern, device):
    packed, _ = packed_of(NM_MV, (9, 96), torch.bfloat16, device, pattern)
    for kernel in (NM_MV, NM_MM):
        refusal = str(kernel.refuses(Problem(packed, 1)))
        assert refusal == (
            f"it runs groups of 2, 4, 8 or 16 of which a half or a quarter is kept, not {pattern.n}:{pattern.m}"
        )


@pytest.mark.parametrize(("sparsity", "bits"), [(0.3, 4), (0.97, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_multiplies_by_short_and_long_distances(sparsity, bits, dtype, device):
    packed, weight = packed_of(DELTA_MV, (6, 1400), dtype, device, sparsity=sparsity)
    assert packed.bits == bits
    assert_multiplies(DELTA_MV, packed, weight, 2)


@every_kernel
def test_multiplies_empty_rows_and_an_empty_weight(kernel, device):
    pattern = NM(2, 4) if kernel.format is NMPacked else Unstructured()
    keep = random_mask((24, 80), pattern, 0.5).keep
    keep[:9] = keep[20:] = False
    weight = random_weight((24, 80), torch.bfloat16)
    for kept in (keep, torch.zeros_like(keep)):
        packed = kernel.format.pack(weight.to(device), Mask(kept.to(device), pattern))
        assert_multiplies(kernel, packed, (weight * kept).to(device), 3)


@every_kernel
def test_reads_strided_inputs_and_applies_no_bias(kernel, device):
    packed, weight = packed_of(kernel, (4, 48), torch.bfloat16, device)
    multiply, x = kernel.bind(packed), random_weight((48, 6), torch.bfloat16, 1).to(device)
    bias = random_weight((8,), torch.bfloat16, 2).to(device)[::2]
    assert_product(multiply(x.T[:2], bias), x.T[:2], weight, bias)
    assert_product(multiply(x.T.contiguous()[::3], None), x.T[::3], weight)


@every_kernel
def test_applies_activations(kernel, device):
    packed, weight = packed_of(kernel, (12, 64), torch.float32, device)
    x = random_weight((2, 64), torch.float32, 1).to(device)
    for activation in kernel.activations:
        y = kernel.bind(packed, activation)(x, None)
        torch.testing.assert_close(y, APPLY[activation](F.linear(x, weight)))


@every_kernel
def test_parts_add_up_to_the_same_bits_twice(kernel, device):
    packed, weight = packed_of(kernel, (5, 2081), torch.float32, device, sparsity=0.1)
    x, bias = random_weight((2, 2081), torch.float32, 1).to(device), random_weight((5,), torch.float32, 2).to(device)
    tile = kernel.tiling.tiles(Problem(packed, 2), H100)[0]
    assert tile.splits > 1
    results = []
    for activation in ("none", "none", "relu"):
        operands = Operands(x, bias, torch.full((2, 5), torch.nan, device=device), activation)
        launches = kernel.tiling.launches(kernel.tiling.prepare(packed), operands, tile)
        assert [launch.program for launch in launches][1:] == ["partial.add"]
        for launch in launches:
            launch.run()
        results.append(operands.y)
    assert_product(results[0], x, weight, bias)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0].relu(), results[2])


def test_weights_that_fill_chunks_are_not_copied(device):
    packed, _ = packed_of(NM_MV, (16, 64), torch.bfloat16, device)
    prepared = NM_MV.tiling.prepare(packed)
    assert prepared.values.data_ptr() == packed.values.data_ptr()
    assert prepared.positions.data_ptr() == packed.positions.data_ptr()
    packed, _ = packed_of(DELTA_MV, (16, 64), torch.bfloat16, device)
    assert DELTA_MV.tiling.prepare(packed).values.data_ptr() == packed.values.data_ptr()
    for columns, copied in ((64, False), (63, True)):
        packed, _ = packed_of(BITMASK_MV, (1, columns), torch.bfloat16, device, sparsity=0.0)
        assert (BITMASK_MV.tiling.prepare(packed).values.data_ptr() != packed.values.data_ptr()) is copied


@pytest.mark.parametrize("kernel", [BITMASK_MV, BITMASK_MM], ids=lambda k: k.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("before", range(8))
def test_a_bitmask_row_begins_anywhere_in_a_chunk_and_reads_no_other_row(kernel, dtype, before, device):
    keep = torch.ones(4, 300, dtype=torch.bool)
    keep[0, before:] = False
    keep[2, 1::2] = False
    keep[3, 8:] = False
    weight = random_weight((4, 300), dtype)
    weight[0] = torch.nan
    packed = Bitmask.pack(weight.to(device), Mask(keep.to(device)))
    x = random_weight((3, 300), dtype, 1).to(device)
    y = kernel.bind(packed)(x, None)
    assert_product(y[:, 1:], x, (weight * keep)[1:].to(device))


@pytest.mark.parametrize("gpu", [H100, H200, A100], ids=lambda g: g.name)
@pytest.mark.parametrize("size", [512, 4096])
@every_kernel
def test_tiles_fill_the_gpu_and_are_few(kernel, size, gpu):
    weight = torch.empty(size, size, dtype=torch.bfloat16, device="meta")
    small, _ = packed_of(kernel, (1, size), torch.bfloat16, "cpu")
    parts = {name: t.to("meta").expand(t.shape) for name, t in small.tensors().items()}
    stretched = {name: t.new_empty(stretch(kernel, name, t, size)) for name, t in parts.items()}
    packed = kernel.format.from_parts(stretched, {**small.integers(), "rows": size})
    assert weight.shape == (packed.rows, packed.columns)
    for batch in (1, MOST[kernel.name]):
        tiles = kernel.tiling.tiles(Problem(packed, batch), gpu)
        assert len(set(tiles)) == len(tiles) <= 12
        first = tiles[0]
        whole = -(-size // first.outputs) * -(-batch // first.tokens)
        blocks = whole * first.splits
        assert blocks * first.warps <= max(32 * gpu.multiprocessors, whole * first.warps)
        assert blocks >= gpu.multiprocessors or size == 512
        assert all(tile.tokens & (tile.tokens - 1) == 0 for tile in tiles)


def stretch(kernel, name, tensor, rows):
    """The shape of a part when each of ``rows`` rows is like the one that was packed."""
    if name in ("row_offsets", "chunk_offsets"):
        return (rows + 1,)
    return (tensor.shape[0] * rows, *tensor.shape[1:])


def test_splits():
    assert splits_for(H100, blocks=1, warps=1, steps=4) == 2
    assert splits_for(H100, blocks=1024, warps=1, steps=100) == 4
    assert splits_for(A100, blocks=1024, warps=1, steps=100) == 2
    assert splits_for(H100, blocks=5000, warps=1, steps=100) == 1
    assert splits_for(H100, blocks=1, warps=1, steps=1) == 1
    assert splits_for(H100, blocks=1, warps=1, steps=1000) == 32


def compile_case(kernel, launches, tile, capability, batch):
    packed, _ = packed_of(kernel, (64, 1024), torch.bfloat16, "cpu")
    x = torch.randn(batch, 1024).bfloat16()
    operands = Operands(x, None, torch.empty(batch, 64, dtype=x.dtype))
    return kernel.name, capability, launches(kernel.tiling.prepare(packed), operands, tile)


@pytest.mark.skipif(torch.cuda.is_available(), reason="compiles for GPUs that are not there")
@pytest.mark.parametrize("capability", [80, 90])
def test_compiles(capability):
    """A chunk is read in 16 bytes, and where warps work alone, no number passes through shared memory in a loop."""
    found = compile_ahead(
        [
            compile_case(NM_MV, nm.launches_few, Tile(1, 4, 512, 1, 1), capability, 1),
            compile_case(DELTA_MV, delta.launches, Tile(1, 4, 256, 1, 1), capability, 1),
            compile_case(BITMASK_MV, bitmask.launches_few, Tile(1, 4, 256, 1, 1), capability, 1),
            compile_case(NM_MM, nm.launches_many, Tile(16, 64, 128, 4, 3, 2), capability, 16),
            compile_case(BITMASK_MM, bitmask.launches_many, Tile(16, 64, 256, 8, 1), capability, 16),
        ]
    )
    for case in found:
        assert_fits(case)
    vector, short, bits, matrix, spread = found
    assert count(vector, "LDG.E.128") == 4 + 2, "the values of 4 rows, and 16 inputs"
    assert count(short, "LDG.E.128") == 4, "the values of 4 rows"
    assert count(bits, "LDG.E.128") == 2 * 4 + 1, "the two chunks that may hold values of 4 rows, and 8 inputs"
    for case in (bits, spread):
        assert count(case, "LDG.E.U16") == 0, "no value comes on its own"
    for case in (vector, short, bits):
        assert count(case, "BAR") == 0, case["name"]
        assert count(case, "LDS") <= 1, case["name"]
    assert count(matrix, "LDGSTS.E.BYPASS.128") > 0, "values go to shared memory past the first-level cache"
    for case in (matrix, spread):
        assert count(case, "HGMMA" if capability == 90 else "HMMA") > 0, case["name"]
