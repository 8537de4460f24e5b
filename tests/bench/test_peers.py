"""Every way of another library computes what it is compared with, or says why it does not."""

import importlib

import pytest
import torch

from sparsekit.bench.peers import PEERS, Layer, fbgemm, mkl
from sparsekit.bench.peers.presence import bind_peer
from sparsekit.bench.weights import Expected
from sparsekit.patterns import Block, Unstructured

BESIDE = [(peer, weights) for peer in PEERS for weights in peer.beside]
SQUARE, TALL = Block(8, 8), Block(16, 1)


def layer_of(batch=5, pattern=SQUARE, dtype=torch.float32, threads=1, shape=(48, 32)):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    weight = torch.where(pattern.select(weight.abs(), 0.5), weight, 0.0)
    bias, x = torch.randn(shape[0], generator=generator), torch.randn(batch, shape[1], generator=generator)
    return Layer(weight.to(dtype), bias.to(dtype), x.to(dtype), pattern, threads)


@pytest.fixture(autouse=True)
def not_compiled(monkeypatch):
    """Compiling takes seconds: that torch.compile is right is not what is tested here."""
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: model)


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(("peer", "weights"), BESIDE, ids=lambda part: getattr(part, "name", part))
def test_each_gives_the_product_of_each_kind_that_it_stands_beside(peer, weights, batch):
    layer = layer_of(batch, dtype=torch.bfloat16 if weights == "bfloat16" else torch.float32)
    expected, told = Expected(layer.x, layer.weight, layer.bias), {}
    with torch.no_grad():
        call = bind_peer(peer, layer, weights, lambda y: expected.check("it", y, peer.rounds), told)
        if call is None:
            reason = told.get(peer.name) or peer.refuses(layer)
            assert reason
            assert "expected" not in reason
            pytest.skip(f"{peer.name}: {reason}")
        first, second = call().clone(), call()
    assert torch.equal(first, second)
    assert second.is_contiguous()
    assert told[peer.name].startswith(f"{peer.package} ")


def test_torch_scipy_and_fbgemm_are_there():
    told = {}
    for peer in PEERS:
        if peer.package in ("torch", "scipy"):
            bind_peer(peer, layer_of(), "float32", lambda y: None, told)
    assert {name for name, state in told.items() if state.startswith("absent")} <= {"FBGEMM SparseDenseMM"}
    assert len(told) >= 5


def test_what_a_library_does_not_run_it_refuses_in_a_sentence():
    found = {peer.name: peer for peer in PEERS}
    half, two = layer_of(dtype=torch.bfloat16), layer_of(threads=2)
    for name in ("torch CSR, by MKL", "torch BSR, by MKL", "scipy CSR", "MKL CSR, hinted", "FBGEMM SparseDenseMM"):
        assert found[name].refuses(half) == "it runs float32, not bfloat16"
    for name in ("scipy CSR", "FBGEMM SparseDenseMM"):
        assert found[name].refuses(two) == "it runs on one thread, not on 2"
    assert found["MKL CSR, hinted"].refuses(two) == ""
    blocks = found["torch BSR, by MKL"]
    assert blocks.refuses(layer_of(pattern=TALL)) == "it runs square blocks, not Block(16, 1)"
    assert blocks.refuses(layer_of(pattern=Unstructured())).startswith("it runs square blocks")
    assert blocks.refuses(layer_of(shape=(44, 32))) == "it runs weights of whole blocks, not (44, 32)"


def test_libraries_that_are_not_there_are_absent_with_the_reason(monkeypatch):
    def refuse(name, *rest):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", refuse)
    monkeypatch.setattr(mkl.metadata, "files", lambda name: [])
    monkeypatch.setattr(fbgemm, "SYMBOL", "no_such_symbol")
    told = {}
    for peer in PEERS:
        if peer.name not in (
            "torch.compile, frozen",
            "torch int8",
            "torch CSR, by MKL",
            "torch BSR, by MKL",
            "scipy CSR",
        ):
            layer = layer_of(dtype=torch.bfloat16 if peer.beside == ("bfloat16",) else torch.float32)
            assert bind_peer(peer, layer, peer.beside[0], lambda y: None, told) is None
    assert told["FBGEMM SparseDenseMM"] == "absent: this torch exports no fbgemm::SparseDenseMM"
    assert len(told) == len(PEERS) - 5
    assert all(state.startswith("absent: ") for state in told.values())
