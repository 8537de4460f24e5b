"""Block CSR on the CPU, fp32."""

from __future__ import annotations

import torch

from sparsekit.formats import BlockCSR
from sparsekit.formats.base import Format
from sparsekit.kernels.base import Kernel, Multiply
from sparsekit.kernels.native import extension


def _bind(packed: Format) -> Multiply:
    assert isinstance(packed, BlockCSR)
    packed = extension.laid_out(packed)
    values = extension.on_cache_line(packed.values)
    native = extension.build(
        "BlockCsr",
        packed.rows,
        packed.columns,
        packed.block_rows,
        packed.block_columns,
        packed.values.shape[0],
        extension.pointer(values),
        extension.pointer(packed.block_indices),
        extension.pointer(packed.block_offsets),
        packed.block_offsets.dtype == torch.int64,
    )
    return extension.multiply_with(native, packed.rows, values, packed.block_indices)


BLOCK_CSR_MM = Kernel("block_csr_mm_native", BlockCSR, extension.refuses, _bind)
"""Cost: 2 FLOP per stored weight and token, near the machine's peak where blocks fill a vector of outputs."""
