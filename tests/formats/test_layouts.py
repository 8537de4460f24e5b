"""The bytes of each format, written out by hand: kernels read exactly these."""

from __future__ import annotations

import pytest
import torch

from sparsekit.formats import CSR, Bitmask, BlockCSR, DeltaCSR, NMPacked
from sparsekit.formats.bits import pack_fields, unpack_fields
from sparsekit.formats.offsets import offsets_from_counts
from sparsekit.mask import Mask
from sparsekit.patterns import NM, AllTaps, Block, Channel, Filter, KernelPattern, KernelSlice, PerTap, Unstructured
from tests.weights import hard_weight, random_mask, random_weight, same_bits


def test_csr_layout():
    weight = torch.tensor([[0.0, 2.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0], [5.0, 0.0, 0.0, 0.0]])
    packed = CSR.pack(weight, Mask(weight != 0))
    assert packed.values.tolist() == [2.0, 1.0, 5.0]
    assert packed.column_indices.tolist() == [1, 3, 0]
    assert packed.row_offsets.tolist() == [0, 2, 2, 3]
    assert (packed.column_indices.dtype, packed.row_offsets.dtype) == (torch.uint16, torch.int32)


@pytest.mark.parametrize(("columns", "dtype"), [(65536, torch.uint16), (65537, torch.int32)])
def test_csr_columns_take_16_bits_where_they_fit(columns, dtype):
    keep = torch.zeros(1, columns, dtype=torch.bool)
    keep[0, -1] = True
    packed = CSR.pack(torch.ones(1, columns), Mask(keep))
    packed.validate()
    assert packed.column_indices.dtype == dtype
    assert packed.column_indices.tolist() == [columns - 1]
    assert torch.equal(packed.unpack(), keep.float())


def test_offsets_widen_at_2_to_the_31():
    assert offsets_from_counts(torch.tensor([2**31 - 1])).dtype == torch.int32
    assert offsets_from_counts(torch.tensor([2**30, 2**30])).tolist() == [0, 2**30, 2**31]
    assert offsets_from_counts(torch.tensor([2**30, 2**30])).dtype == torch.int64


def test_bitmask_layout():
    weight = torch.zeros(2, 18)
    weight[0, 0], weight[0, 15], weight[0, 16], weight[1, 17] = 1.0, 2.0, 3.0, 4.0
    packed = Bitmask.pack(weight, Mask(weight != 0))
    assert packed.bits.tolist() == [[1 | 1 << 15, 1], [0, 2]]
    assert packed.bits.dtype == torch.uint16
    assert packed.values.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert packed.row_offsets.tolist() == [0, 3, 4]


def test_delta_layout():
    weight = torch.zeros(3, 60, dtype=torch.bfloat16)
    weight[0, [5, 7, 21, 22, 23, 24, 25, 26, 56]] = torch.arange(1.0, 10.0).bfloat16()
    weight[2, :2] = 10.0
    packed = DeltaCSR.pack(weight, Mask(weight != 0))
    assert packed.values.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 9, 0, 0, 0, 0, 0], [10, 10, 0, 0, 0, 0, 0, 0]]
    # from 7 to 21 are 14, the farthest without an escape; from 26 to 56 are two escapes of 15 and 0
    distances = [[0 | 2 << 4, 14 | 1 << 4, 1 | 1 << 4, 1 | 1 << 4], [15 | 15 << 4, 0, 0, 0], [0 | 1 << 4, 0, 0, 0]]
    assert packed.distances.tolist() == distances
    assert packed.first_columns.tolist() == [5, 26, 0]
    assert packed.chunk_offsets.tolist() == [0, 2, 2, 3]
    assert (packed.bits, packed.first_columns.dtype) == (4, torch.uint16)
    packed.validate()
    assert torch.equal(packed.unpack(), weight)


def test_delta_starts_each_chunk_from_its_own_column():
    keep = torch.zeros(1, 70000, dtype=torch.bool)
    keep[0, 3:60:4] = True  # 15 weights: two chunks
    keep[0, -1] = True
    packed = DeltaCSR.pack(torch.ones(1, 70000), Mask(keep))
    packed.validate()
    assert (packed.bits, packed.first_columns.dtype) == (8, torch.int32)
    assert packed.first_columns[:2].tolist() == [3, 31], "the column before, and distances that lead on from there"
    assert torch.equal(packed.unpack(), keep.float())


def test_nm_layout():
    weight = torch.tensor(
        [[0.0, 1.0, 0.0, 2.0, 3.0, 4.0, 0.0, 0.0, 9.0], [0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    )
    keep = weight != 0
    packed = NMPacked.pack(weight, Mask(keep, NM(2, 4)))
    assert packed.values.tolist() == [[1.0, 2.0, 3.0, 4.0], [0.0, 5.0, 0.0, 0.0]]
    # positions (1, 3, 0, 1) and (0, 3, 0, 1), two bits each, the first lowest
    assert packed.positions.tolist() == [[1 | 3 << 2 | 0 << 4 | 1 << 6], [0 | 3 << 2 | 0 << 4 | 1 << 6]]
    assert packed.tail.tolist() == [[9.0], [0.0]]


def test_block_csr_layout_has_the_output_fastest():
    weight = torch.arange(1.0, 25.0).reshape(4, 6)
    keep = torch.zeros(4, 6, dtype=torch.bool)
    keep[0:2, 3:6] = keep[2:4, 0:3] = True
    packed = BlockCSR.pack(weight, Mask(keep, Block(2, 3)))
    assert packed.block_indices.tolist() == [1, 0]
    assert packed.block_offsets.tolist() == [0, 1, 2]
    assert packed.values.shape == (2, 3, 2)
    assert packed.values[0].tolist() == [[4.0, 10.0], [5.0, 11.0], [6.0, 12.0]]


def test_block_csr_fills_edge_blocks_with_zeros():
    packed = BlockCSR.pack(torch.ones(3, 4), random_mask((3, 4), Block(2, 3), 1.0))
    assert packed.block_offsets.tolist() == [0, 1, 3]
    assert packed.values[0].tolist() == [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
    assert packed.values[1].tolist() == [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]


def test_a_remainder_may_be_kept_in_part():
    keep = torch.ones(3, 4, dtype=torch.bool)
    keep[2, 1] = keep[0, 3] = False
    for family, pattern in ((BlockCSR, Block(2, 3)), (NMPacked, NM(3, 3))):
        packed = family.pack(torch.ones(3, 4), Mask(keep, pattern))
        assert torch.equal(packed.unpack(), keep.float())
    assert BlockCSR.pack(torch.ones(3, 4), Mask(keep, Block(2, 3))).values[1, :, 0].tolist() == [0.0, 0.0, 0.0]


BLOCKS_OF_KERNELS = {
    KernelSlice(): (1, 6),
    PerTap(Block(3, 2)): (3, 1),
    AllTaps(Block(3, 2)): (3, 12),
    AllTaps(NM(1, 2)): (1, 6),
    AllTaps(Unstructured()): (1, 6),
}


@pytest.mark.parametrize(("pattern", "sides"), BLOCKS_OF_KERNELS.items(), ids=str)
@pytest.mark.parametrize("shape", [(6, 4, 2, 3), (8, 5, 3, 2), (0, 3, 3, 2), (2, 0, 3, 2)], ids=str)
def test_block_csr_stores_patterns_of_kernels_by_their_blocks(pattern, sides, shape):
    sparsity = None if pattern.fixes_sparsity else 0.6
    mask = Mask(pattern.select(random_weight(shape, seed=1), sparsity), pattern)
    weight = hard_weight(shape, torch.float32)
    packed = BlockCSR.pack(weight, mask)
    packed.validate()
    expected = torch.where(mask.keep, weight, 0.0).reshape(shape[0], shape[1] * 6)
    assert (packed.block_rows, packed.block_columns) == sides
    assert same_bits(packed.unpack(), expected)
    filled = packed.values.shape[0] * sides[0] * sides[1]
    if shape == (6, 4, 2, 3):  # nothing but what is kept
        assert filled == mask.nnz


@pytest.mark.parametrize(
    "pattern", [Filter(), Channel(), PerTap(NM(2, 4)), PerTap(Channel()), KernelPattern()], ids=str
)
def test_block_csr_refuses_patterns_without_blocks(pattern):
    keep = torch.zeros(4, 4, 3, 3, dtype=torch.bool)
    refusal = BlockCSR.accepts(Mask(keep, pattern))
    assert str(refusal) == f"it stores block patterns only, and this is {pattern}"


@pytest.mark.parametrize("bits", range(9))
def test_fields_of_any_width_round_trip(bits):
    fields = torch.randint(0, 2**bits, (3, 29), generator=torch.Generator().manual_seed(bits)).to(torch.uint8)
    packed = pack_fields(fields, bits)
    assert packed.shape == (3, -(-29 * bits // 8))
    assert torch.equal(unpack_fields(packed, bits, 29), fields)
    stream = sum(value << i * bits for i, value in enumerate(fields[1].tolist()))
    assert int.from_bytes(bytes(packed[1].tolist()), "little") == stream


@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_packed_sizes(sparsity):
    weight, mask = random_weight((256, 512)), random_mask((256, 512), Block(16, 16), sparsity)
    nnz, dense = mask.nnz, weight.numel() * 4
    assert CSR.pack(weight, mask).nbytes == 6 * nnz + 4 * 257
    assert Bitmask.pack(weight, mask).nbytes == 4 * nnz + dense // 32 + 4 * 257
    assert BlockCSR.pack(weight, mask).nbytes == 4 * nnz + 4 * (nnz // 256) + 4 * 17
    nm = random_mask((256, 512), NM(2, 4), 0.0)
    assert NMPacked.pack(weight, nm).nbytes == dense // 2 + weight.numel() // 8
