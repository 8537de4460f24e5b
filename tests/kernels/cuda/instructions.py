"""Instructions of NVIDIA GPUs as the PTX ISA 9.1 documents them, executed on arrays in float64.

Registers are arrays whose first axis is the thread; shared memory is an array of bytes. The sections are those of the
PTX ISA. Its figures 122 and 149, which a text cannot quote, agree with ``ELayout_64x32`` and ``CLayout_64xN`` of CuTe.
"""

from __future__ import annotations

import numpy as np
import torch

LANE = np.arange(32)
GROUP, IN_GROUP = LANE // 4, LANE % 4  # "groupID" and "threadID_in_group"
ORDERED = {0b0100, 0b1000, 0b1001, 0b1100, 0b1101, 0b1110}  # 9.7.14.6.1: the only codes with a meaning


def floats(stored: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """The float64 values of bytes whose last axis holds elements of ``dtype``."""
    return torch.from_numpy(np.ascontiguousarray(stored)).view(dtype).double().numpy()


def dense_rows(kept: np.ndarray, metadata: np.ndarray, selector: int) -> np.ndarray:
    """The 16 x 32 matrix A of 16 x 16 kept values (9.7.14.6.2.2, and 9.7.15.6.2 for each warp).

    The metadata of the chunk of columns ``4 c`` is in lane ``2 * selector + c // 4`` of each four (9.7.14.6.1): of row
    ``groupID`` in bits 0 to 15 and of row ``groupID + 8`` in bits 16 to 31, four bits a chunk (figure 122).
    """
    dense = np.zeros((16, 32))
    for row in range(16):
        for chunk in range(8):
            word = int(metadata[4 * (row % 8) + 2 * selector + chunk // 4])
            code = word >> (16 * (row // 8) + 4 * (chunk % 4)) & 0xF
            assert code in ORDERED, f"metadata {code:#06b} for row {row}, chunk {chunk}"
            dense[row, 4 * chunk + (code & 3)] = kept[row, 2 * chunk]
            dense[row, 4 * chunk + (code >> 2)] = kept[row, 2 * chunk + 1]
    return dense


def mma_sp(a: np.ndarray, b: np.ndarray, metadata: np.ndarray, selector: int) -> np.ndarray:
    """mma.sp::ordered_metadata.m16n8k32: ``a`` and ``b`` ``(32, 8)`` to the accumulators ``(32, 4)``."""
    kept, tokens, i = np.empty((16, 16)), np.empty((32, 8)), np.arange(8)
    # 9.7.14.6.2.2: row = groupID for 0 <= i < 2 || 4 <= i < 6; firstcol = threadID_in_group * 4, + 16 for i >= 4.
    row = np.where((i < 2) | ((i >= 4) & (i < 6)), GROUP[:, None], GROUP[:, None] + 8)
    chunk = IN_GROUP[:, None] + np.where(i < 4, 0, 4)
    kept[row, 2 * chunk + i % 2] = a
    # Figure 121, as 9.7.14.5.8 goes on: row = threadID_in_group * 2 + (i & 1) + 8 * (i / 2), col = groupID.
    tokens[IN_GROUP[:, None] * 2 + i % 2 + 8 * (i // 2), GROUP[:, None]] = b
    product = dense_rows(kept, metadata, selector) @ tokens
    c = np.arange(
        4
    )  # 9.7.14.5.8: row = groupID for c0 and c1, + 8 for c2 and c3; col = threadID_in_group * 2 + (i & 1)
    return product[GROUP[:, None] + 8 * (c // 2), IN_GROUP[:, None] * 2 + c % 2]


def ldmatrix_x4(shared: np.ndarray, rows: list[int], dtype: torch.dtype) -> np.ndarray:
    """ldmatrix.m8n8.x4: lanes 8 j to 8 j + 7 address the rows of matrix j; returns ``(32, 8)``, two of each matrix."""
    matrices = floats(np.stack([shared[at : at + 16] for at in rows]), dtype).reshape(4, 8, 8)
    pair = np.arange(2)
    return np.concatenate([m[GROUP[:, None], IN_GROUP[:, None] * 2 + pair] for m in matrices], axis=1)


def stmatrix_x4_transposed(registers: np.ndarray, rows: list[int], shared: np.ndarray) -> None:
    """stmatrix.m8n8.x4.trans of ``registers`` ``(32, 4, 2)`` to ``shared``, an array of 16-bit elements in float64."""
    for j in range(4):
        matrix = np.empty((8, 8))
        matrix[GROUP[:, None], IN_GROUP[:, None] * 2 + np.arange(2)] = registers[:, j]
        for r in range(8):
            at = rows[8 * j + r] // 2
            shared[at : at + 8] = matrix[:, r]


def swizzled(address: np.ndarray, bits: int) -> np.ndarray:
    """Swizzle<bits, 4, 3>: 3 bits for 128 bytes, 2 for 64 (9.7.15.5.1.2.1.3)."""
    return address ^ (address >> 7 & (1 << bits) - 1) << 4


def tensor_copy(shared: np.ndarray, to: int, tensor: np.ndarray, box: tuple[int, int], start: tuple[int, int]) -> int:
    """cp.async.bulk.tensor.2d under the 128-byte swizzle: rows of 128 bytes of ``tensor``, zeros outside; counts bytes.

    Args:
        shared: what is written.
        to: where the box goes.
        tensor: bytes ``(rows, bytes of a row)``.
        box: rows, and bytes of a row.
        start: the first row, and the first byte of it.
    """
    rows, width = box
    assert width == 128
    assert to % 1024 == 0
    row, byte = start[0] + np.arange(rows)[:, None], start[1] + np.arange(width)
    inside = (row < tensor.shape[0]) & (byte < tensor.shape[1])
    copied = np.where(inside, tensor[np.minimum(row, len(tensor) - 1), np.minimum(byte, tensor.shape[1] - 1)], 0)
    shared[swizzled(to + np.arange(rows)[:, None] * width + np.arange(width), 3)] = copied
    return rows * width


def described(shared: np.ndarray, descriptor: int, rows: int, width: int) -> np.ndarray:
    """The bytes ``(rows, width)`` of a K-major matrix that a descriptor describes (9.7.15.5.1.2.2)."""
    start, stride = (descriptor & 0x3FFF) << 4, (descriptor >> 32 & 0x3FFF) << 4
    bits = {1: 3, 2: 2}[descriptor >> 62]
    assert descriptor >> 49 & 7 == 0, "the base offset is 0 where the pattern starts on its own multiple"
    row_bytes = 16 << bits
    assert start % row_bytes + width <= row_bytes, "the matrix leaves its swizzled row"
    assert start - start % row_bytes == start // (8 * row_bytes) * (8 * row_bytes), "it starts inside a pattern"
    row = np.arange(rows)[:, None]
    return shared[swizzled(start + row // 8 * stride + row % 8 * row_bytes + np.arange(width), bits)]


def wgmma_sp(
    shared: np.ndarray, weights: int, tokens: tuple[int, int], metadata: np.ndarray, selector: int, dtype: torch.dtype
) -> np.ndarray:
    """wgmma.mma_async.sp.m64nNk32 with both operands in shared memory: the accumulators ``(128, N / 2)``.

    Args:
        shared: bytes of shared memory.
        weights: the descriptor of A, 64 rows of 16 kept values.
        tokens: the descriptor of B, N rows of 32 columns, and N.
        metadata: a word of each of the 128 threads.
        selector: which two lanes of every four contribute.
        dtype: of both operands.
    """
    kept = floats(described(shared, weights, 64, 32), dtype)
    columns = floats(described(shared, tokens[0], tokens[1], 64), dtype)
    # 9.7.15.6.2: each warp provides the metadata of 16 rows.
    dense = [dense_rows(kept[16 * w : 16 * w + 16], metadata[32 * w : 32 * w + 32], selector) for w in range(4)]
    product = np.concatenate(dense) @ columns.T
    thread, i = np.arange(128)[:, None], np.arange(tokens[1] // 2)
    row = thread // 32 * 16 + thread % 32 // 4 + 8 * (i % 4 // 2)  # figure 149
    return product[row, i // 4 * 8 + thread % 4 * 2 + i % 2]
