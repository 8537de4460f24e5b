"""MKL's CSR: told beforehand what will come, by ctypes, and as ``sparse_dot_mkl`` calls it."""

from __future__ import annotations

import ctypes
import importlib
import os
import weakref
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from sparsekit.bench.peers.base import Call, Layer, Peer, only_float32, transposed
from sparsekit.formats import CSR
from sparsekit.mask import Mask

NO_TRANSPOSE, GENERAL, BY_ROWS, GNU_THREADS, INDICES_32 = 10, 20, 101, 3, 0
EXPECTED_CALLS = 1000


class _Description(ctypes.Structure):
    """``struct matrix_descr``."""

    _fields_ = (("type", ctypes.c_int), ("mode", ctypes.c_int), ("diagonal", ctypes.c_int))


ANY_MATRIX = _Description(GENERAL, 0, 0)


def library() -> Any:
    """MKL, on the threads that torch uses.

    Raises:
        ImportError: it is not installed.
    """
    for file in metadata.files("mkl") or ():
        if file.name.startswith(("libmkl_rt.so", "libmkl_rt.dylib")):
            for path in (str(file.locate()), file.name):
                try:
                    found = ctypes.CDLL(path)
                except OSError:
                    continue
                os.environ["MKL_RT"] = path  # where sparse_dot_mkl looks first
                found.MKL_Set_Threading_Layer(GNU_THREADS)
                found.MKL_Set_Interface_Layer(INDICES_32)
                return found
    raise ImportError("the package mkl has no libmkl_rt that can be loaded")


class _Hinted:
    """A weight that MKL has analysed for products with ``batch`` tokens."""

    def __init__(self, layer: Layer) -> None:
        self.mkl = mkl = library()
        mkl.MKL_Set_Num_Threads(layer.threads)
        packed = CSR.pack(layer.weight, Mask(layer.weight != 0))
        self.layer, self.handle = layer, ctypes.c_void_p()
        self.parts = packed.row_offsets.int(), packed.column_indices.int(), packed.values
        start, columns, values = (ctypes.c_void_p(part.data_ptr()) for part in self.parts)
        end = ctypes.c_void_p(self.parts[0].data_ptr() + 4)
        sides = (ctypes.c_int(side) for side in (0, *layer.weight.shape))
        self._expect_0(mkl.mkl_sparse_s_create_csr(ctypes.byref(self.handle), *sides, start, end, columns, values))
        weakref.finalize(self, mkl.mkl_sparse_destroy, self.handle)
        if layer.batch == 1:
            hint = mkl.mkl_sparse_set_mv_hint(self.handle, NO_TRANSPOSE, ANY_MATRIX, EXPECTED_CALLS)
        else:
            sizes = (BY_ROWS, ctypes.c_int(layer.batch), EXPECTED_CALLS)
            hint = mkl.mkl_sparse_set_mm_hint(self.handle, NO_TRANSPOSE, ANY_MATRIX, *sizes)
        self._expect_0(hint)
        self._expect_0(mkl.mkl_sparse_optimize(self.handle))

    def vector(self) -> Tensor:
        """One token."""
        one, y = ctypes.c_float(1.0), self.layer.bias.clone()
        x = ctypes.c_void_p(self.layer.x.data_ptr())
        to = ctypes.c_void_p(y.data_ptr())
        self._expect_0(self.mkl.mkl_sparse_s_mv(NO_TRANSPOSE, one, self.handle, ANY_MATRIX, x, one, to))
        return y[None]

    def matrix(self) -> Tensor:
        """Several tokens, transposed on the way in and out: MKL takes thrice as long where it has to do so itself."""
        batch, one, x = ctypes.c_int(self.layer.batch), ctypes.c_float(1.0), self.layer.x.T.contiguous()
        y = self.layer.bias[:, None].repeat(1, self.layer.batch)
        ends = (ctypes.c_void_p(x.data_ptr()), batch, batch, one, ctypes.c_void_p(y.data_ptr()), batch)
        self._expect_0(self.mkl.mkl_sparse_s_mm(NO_TRANSPOSE, one, self.handle, ANY_MATRIX, BY_ROWS, *ends))
        return transposed(y)

    def _expect_0(self, status: int) -> None:
        if status != 0:
            raise RuntimeError(f"MKL: expected status 0, got {status}")


def _hinted(layer: Layer) -> Call:
    weight = _Hinted(layer)
    return weight.vector if layer.batch == 1 else weight.matrix


def _dot(layer: Layer) -> Call:
    import scipy.sparse

    library().MKL_Set_Num_Threads(layer.threads)
    product = importlib.import_module("sparse_dot_mkl").dot_product_mkl
    weight = scipy.sparse.csr_matrix(layer.weight.numpy())

    def run() -> Tensor:
        x = layer.x.T.contiguous()
        return torch.from_numpy(product(weight, x.numpy())).T.add(layer.bias).contiguous()

    return run


MKL_PEERS = (
    Peer("MKL CSR, hinted", "mkl", _hinted, only_float32, sparse=True),
    Peer("sparse_dot_mkl", "sparse_dot_mkl", _dot, only_float32, sparse=True),
)
