"""Other libraries' ways, on stand-ins where there is no GPU: what they are given, and that they multiply."""

import importlib

import pytest
import torch

from sparsekit.bench.gpu import ways as module
from sparsekit.bench.gpu.cases import BSR, BSR_TUNED, CUSPARSE, CUSPARSELT, CUSPARSELT_SEARCHED, Floor, GpuLinear
from sparsekit.bench.gpu.contests import select
from sparsekit.bench.gpu.ways import DENSE_WAYS, peers_of
from sparsekit.patterns import NM, Block, Unstructured

PEERS = (CUSPARSELT, CUSPARSELT_SEARCHED, BSR, BSR_TUNED, CUSPARSE)


def case_of(pattern, batch=5):
    return GpuLinear(pattern, batch, 32, 48, {0.5: Floor()}, torch.float32, tunes_peer=True)


@pytest.fixture
def calls(monkeypatch):
    """Stand-ins for what runs on a GPU only; records what they were given."""
    seen = []

    def compress(weight):
        return weight.clone()

    def sparse_mm(compressed, columns, *, transpose_result=False, alg_id=0, split_k=1, split_k_mode=-1):
        assert columns.T.is_contiguous()
        assert columns.shape[1] % 8 == 0
        seen.append((alg_id, split_k, split_k_mode))
        y = compressed @ columns
        return y.T if transpose_result else y

    def search(compressed, columns, transpose_result=False):
        seen.append("search")
        return 7

    monkeypatch.setattr(torch, "_cslt_compress", compress)
    monkeypatch.setattr(torch, "_cslt_sparse_mm", sparse_mm)
    monkeypatch.setattr(torch, "_cslt_sparse_mm_search", search)

    def bsr_dense_addmm(input, bsr, dense, *, beta, meta=None):
        assert beta == 0
        seen.append(meta)
        return bsr.to_dense() @ dense

    def tune(input, bsr, dense, *, beta):
        seen.append("tune")
        importlib.import_module("triton.testing").do_bench(lambda: None, warmup=500, rep=100)
        return {"num_stages": 3}

    monkeypatch.setattr(importlib.import_module("torch.sparse._triton_ops"), "bsr_dense_addmm", bsr_dense_addmm, False)
    tuning = importlib.import_module("torch.sparse._triton_ops_meta")
    monkeypatch.setattr(tuning, "tune_bsr_dense_addmm", tune)
    monkeypatch.setattr(importlib.import_module("triton.testing"), "do_bench", lambda call, **how: seen.append(how))
    monkeypatch.setattr(torch.backends.cuda, "preferred_blas_library", library := Library())
    seen.append(library)
    return seen


class Library:
    """Stands in for the switch between cuBLAS and cuBLASLt."""

    def __init__(self):
        self.now, self.asked = "cublas", []

    def __call__(self, name=None):
        if name is not None:
            self.now = name
            self.asked.append(name)
        return self.now


@pytest.mark.parametrize("pattern", [NM(2, 4), Block(16, 16), Unstructured()], ids=str)
def test_every_way_multiplies(calls, pattern):
    case, generator = case_of(pattern), torch.Generator().manual_seed(0)
    weight, x = (torch.randn(shape, generator=generator) for shape in ((48, 32), (5, 32)))
    masked = weight.masked_fill(~select(pattern, weight, 0.5).keep, 0.0)
    for way in (*DENSE_WAYS, *peers_of(case)):
        product, known = way.bind(masked, x, case, None)
        again, _ = way.bind(masked.clone(), x, case, known)
        for y in (product(), again()):
            torch.testing.assert_close(y, x @ masked.T)


def test_every_peer_has_its_pattern():
    found = [way.name for pattern in (NM(2, 4), Block(16, 16), Unstructured()) for way in peers_of(case_of(pattern))]
    assert tuple(found) == PEERS


def test_what_is_searched_is_searched_once(calls):
    case, x = case_of(NM(2, 4)), torch.ones(5, 32)
    searched = peers_of(case)[1]
    _, known = searched.bind(torch.ones(48, 32), x, case, None)
    product, _ = searched.bind(torch.ones(48, 32), x, case, known)
    product()
    assert calls[1:] == ["search", (7, 1, -1)]


def test_the_whole_search_is_taken_where_torch_has_it(calls, monkeypatch):
    class Module:
        @staticmethod
        def mm_search(compressed, columns, bias, alpha, dtype, transposed):
            return 3, 2, 1, 9

    monkeypatch.setattr(torch._C, "_cusparselt", Module, raising=False)
    _, known = peers_of(case_of(NM(2, 4)))[1].bind(torch.ones(48, 32), torch.ones(5, 32), case_of(NM(2, 4)), None)
    assert known == {"alg_id": 3, "split_k": 2, "split_k_mode": 1}


def test_torchs_own_is_tuned_once_and_quicker_than_it_would(calls):
    case, x = case_of(Block(16, 16)), torch.ones(5, 32)
    tuned = peers_of(case)[1]
    _, known = tuned.bind(torch.ones(48, 32), x, case, None)
    tuned.bind(torch.ones(48, 32), x, case, known)[0]()
    assert calls[1:] == ["tune", {"warmup": 10, "rep": 30, "return_mode": "median"}, {"num_stages": 3}]


def test_cublaslt_is_asked_for_in_each_call_and_then_left(calls):
    product, _ = DENSE_WAYS[1].bind(torch.ones(48, 32), torch.ones(5, 32), case_of(Unstructured()), None)
    assert calls[0].asked == []
    product()
    assert calls[0].asked == ["cublaslt", "cublas"]
    assert module.DENSE_WAYS[0].name == "F.linear"
