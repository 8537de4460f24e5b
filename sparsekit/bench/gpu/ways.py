"""Other people's ways to multiply: cuBLAS, cuSPARSELt, cuSPARSE, and torch's own block-sparse kernel."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsekit.bench.gpu.cases import BSR, BSR_TUNED, CUSPARSE, CUSPARSELT, CUSPARSELT_SEARCHED, GpuLinear
from sparsekit.errors import KernelError
from sparsekit.patterns import NM, Block, Unstructured

Product = Callable[[], Tensor]
"""Computes ``x @ weight.T``, ``(batch, rows)``."""

BATCH_STEP = 8
"""cuSPARSELt takes batches in multiples of it; a peer gets its input filled up before it is timed."""


@dataclass(frozen=True)
class Way:
    """One way to multiply by a weight.

    Args:
        name: what it is called.
        bind: given the weight ``(rows, columns)``, the input ``(batch, columns)``, the case, and what the first of
            several bindings found out (None for the first), returns the product and what it found out.
    """

    name: str
    bind: Callable[[Tensor, Tensor, GpuLinear, Any], tuple[Product, Any]]


@contextmanager
def blas_library(name: str) -> Iterator[None]:
    """Let torch take its dense products from ``name``, "cublas" or "cublaslt"."""
    before = torch.backends.cuda.preferred_blas_library()
    torch.backends.cuda.preferred_blas_library(name)
    try:
        yield
    finally:
        torch.backends.cuda.preferred_blas_library(before)


def _dense(weight: Tensor, x: Tensor, case: GpuLinear, known: Any) -> tuple[Product, Any]:
    return partial(F.linear, x, weight), None


def _cublaslt(weight: Tensor, x: Tensor, case: GpuLinear, known: Any) -> tuple[Product, Any]:
    def product() -> Tensor:
        with blas_library("cublaslt"):
            return F.linear(x, weight)

    return product, None


def _filled_up(x: Tensor) -> Tensor:
    """``x`` with rows of zeros up to the batch that cuSPARSELt takes."""
    return F.pad(x, (0, 0, 0, -x.shape[0] % BATCH_STEP)).contiguous()


def _cusparselt(weight: Tensor, x: Tensor, case: GpuLinear, known: Any) -> tuple[Product, Any]:
    compressed, columns = torch._cslt_compress(weight), _filled_up(x).T
    run = partial(torch._cslt_sparse_mm, compressed, columns, transpose_result=True)
    return lambda: run()[: case.batch], None


def _cusparselt_searched(weight: Tensor, x: Tensor, case: GpuLinear, known: Any) -> tuple[Product, Any]:
    """Let cuSPARSELt try its algorithms and ways to split the sums once, and take the fastest."""
    compressed, columns = torch._cslt_compress(weight), _filled_up(x).T
    if known is None:
        known = _search(compressed, columns)
    run = partial(torch._cslt_sparse_mm, compressed, columns, transpose_result=True, **known)
    return lambda: run()[: case.batch], known


def _search(compressed: Tensor, columns: Tensor) -> dict[str, Any]:
    everything = getattr(getattr(torch._C, "_cusparselt", None), "mm_search", None)
    if everything is not None:
        with suppress(Exception):  # it is torch's own affair; the public search finds less
            found = everything(compressed, columns, None, None, None, True)
            known: dict[str, Any] = dict(zip(("alg_id", "split_k", "split_k_mode"), map(int, found)))
            torch._cslt_sparse_mm(compressed, columns, transpose_result=True, **known)
            return known
    return {"alg_id": int(torch._cslt_sparse_mm_search(compressed, columns, transpose_result=True))}


def _bsr(weight: Tensor, case: GpuLinear) -> Tensor:
    assert isinstance(case.pattern, Block)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the layout is a beta
        return weight.to_sparse_bsr((case.pattern.rows, case.pattern.columns))


def _blocks(weight: Tensor, x: Tensor, case: GpuLinear, known: Any) -> tuple[Product, Any]:
    multiply = importlib.import_module("torch.sparse._triton_ops").bsr_dense_addmm
    blocks = _bsr(weight, case)
    y = x.new_zeros(case.rows, case.batch)
    return (lambda: multiply(y, blocks, x.T, beta=0, meta=known).T), known


def _blocks_tuned(weight: Tensor, x: Tensor, case: GpuLinear, known: Any) -> tuple[Product, Any]:
    if known is None:
        testing: Any = importlib.import_module("triton.testing")
        tuning: Any = importlib.import_module("torch.sparse._triton_ops_meta")
        blocks = _bsr(weight, case)
        y, bench = x.new_zeros(case.rows, case.batch), testing.do_bench
        # its own looks last 0.6 s each, of which there are dozens
        testing.do_bench = lambda call, **_: bench(call, warmup=10, rep=30, return_mode="median")
        try:
            known = tuning.tune_bsr_dense_addmm(y, blocks, x.T, beta=0)
        finally:
            testing.do_bench = bench
        if not known:
            raise KernelError(f"{BSR_TUNED}: no setting that it tried runs")
    return _blocks(weight, x, case, known)


def _csr(weight: Tensor, x: Tensor, case: GpuLinear, known: Any) -> tuple[Product, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the layout is a beta
        found = weight.to_sparse_csr()
        parts = (found.crow_indices().int(), found.col_indices().int(), found.values())
        rows = torch.sparse_csr_tensor(*parts, size=found.shape, device=weight.device)
    return (lambda: (rows @ x.T).T), None


DENSE_WAYS = (Way("F.linear", _dense), Way("F.linear, cublasLt", _cublaslt))


def peers_of(case: GpuLinear) -> tuple[Way, ...]:
    """Return who else multiplies by weights of the pattern of ``case``."""
    if isinstance(case.pattern, NM):
        return Way(CUSPARSELT, _cusparselt), Way(CUSPARSELT_SEARCHED, _cusparselt_searched)
    if isinstance(case.pattern, Block):
        tuned = (Way(BSR_TUNED, _blocks_tuned),) if case.tunes_peer else ()
        return (Way(BSR, _blocks), *tuned)
    return (Way(CUSPARSE, _csr),) if isinstance(case.pattern, Unstructured) else ()
