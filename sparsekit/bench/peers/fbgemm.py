"""FBGEMM's product of a sparse matrix with a dense one, which torch's library exports and nothing in torch calls."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsekit.bench.peers.base import Call, Layer, Peer, only_one_thread, transposed
from sparsekit.formats import CSR
from sparsekit.mask import Mask

SYMBOL = "_ZN6fbgemm13SparseDenseMMEiiPKiS1_PKfS3_iPfib"
"""``SparseDenseMM(int M, int N, const int* row_ptr, const int* col_idx, const float* values, const float* B, int ldb,
float* C, int ldc, bool accum)``, of which ``fbgemm/FbgemmSparse.h`` beside torch has the declaration."""


def _product() -> Any:
    """The function.

    Raises:
        ImportError: this torch has none.
    """
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        product = getattr(library, SYMBOL)
    except (OSError, AttributeError):
        raise ImportError("this torch exports no fbgemm::SparseDenseMM") from None
    integer, pointer = ctypes.c_int, ctypes.c_void_p
    product.restype = None
    product.argtypes = [integer, integer, *[pointer] * 4, integer, pointer, integer, ctypes.c_bool]
    return product


def _bind(layer: Layer) -> Call:
    product, rows, batch = _product(), layer.weight.shape[0], layer.batch
    packed = CSR.pack(layer.weight, Mask(layer.weight != 0))
    parts = packed.row_offsets.int(), packed.column_indices.int(), packed.values

    def run() -> Tensor:
        x = layer.x.T.contiguous()
        y = layer.bias[:, None].repeat(1, batch)
        pointers = [part.data_ptr() for part in parts]
        product(rows, batch, *pointers, x.data_ptr(), batch, y.data_ptr(), batch, True)
        return transposed(y)

    return run


FBGEMM_PEERS = (Peer("FBGEMM SparseDenseMM", "torch", _bind, only_one_thread, sparse=True),)
