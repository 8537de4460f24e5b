"""Torch itself: compiled with frozen weights, and its sparse layouts, which MKL runs.

Eager ``F.linear``, oneDNN and MKL with prepacked weights are kernels of the dense format and thus always there.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsekit.bench.peers.base import Call, Layer, Peer, only_float32, transposed


def _compiled(layer: Layer) -> Call:
    linear = nn.Linear(layer.weight.shape[1], layer.weight.shape[0], dtype=layer.weight.dtype).eval()
    linear.requires_grad_(False)
    linear.weight.copy_(layer.weight)
    linear.bias.copy_(layer.bias)
    compiled = torch.compile(linear, dynamic=False)

    def run() -> Tensor:
        y: Tensor = compiled(layer.x)
        return y

    with torch._inductor.config.patch(freezing=True), torch.no_grad():
        run()
    return run


def _int8(layer: Layer) -> Call:
    """Dynamic quantisation: 8-bit weights by output, activations by tensor in every call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that these operators have successors, which need a package of their own
        scales = layer.weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
        places = torch.zeros(len(scales), dtype=torch.long)
        weight = torch.quantize_per_channel(layer.weight, scales, places, 0, torch.qint8)
        packed = torch.ops.quantized.linear_prepack(weight, layer.bias)

    def run() -> Tensor:
        y: Tensor = torch.ops.quantized.linear_dynamic(layer.x, packed)
        return y

    return run


def _csr(layer: Layer) -> Call:
    """With 32-bit indices; ``F.linear`` is the fastest way for one token, and ten times slower for many."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the layout is in beta
        wide = layer.weight.to_sparse_csr()
        places = wide.crow_indices().int(), wide.col_indices().int()
        weight = torch.sparse_csr_tensor(*places, wide.values(), wide.shape, check_invariants=False)
    if layer.batch == 1:
        return lambda: F.linear(layer.x, weight, layer.bias)
    return lambda: transposed(weight @ layer.x.T + layer.bias[:, None])


def _bsr(layer: Layer) -> Call:
    sides = layer.pattern.block_sides(tuple(layer.weight.shape))
    assert sides is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        wide = layer.weight.to_sparse_bsr(sides)
        places = wide.crow_indices().int(), wide.col_indices().int()
        weight = torch.sparse_bsr_tensor(*places, wide.values(), wide.shape, check_invariants=False)
    return lambda: transposed(weight @ layer.x.T + layer.bias[:, None])


def _refuses_bsr(layer: Layer) -> str:
    sides, shape = layer.pattern.block_sides(tuple(layer.weight.shape)), layer.weight.shape
    if sides is None or sides[0] != sides[1] or sides[0] == 1:
        return f"it runs square blocks, not {layer.pattern}"
    if shape[0] % sides[0] or shape[1] % sides[1]:
        return f"it runs weights of whole blocks, not {tuple(shape)}"
    return only_float32(layer)


PYTORCH_PEERS = (
    Peer("torch.compile, frozen", "torch", _compiled, beside=("float32", "bfloat16")),
    Peer("torch int8", "torch", _int8, only_float32, beside=("float32", "int8"), rounds=True),
    Peer("torch CSR, by MKL", "torch", _csr, only_float32, sparse=True, beside=("float32", "bfloat16")),
    Peer("torch BSR, by MKL", "torch", _bsr, _refuses_bsr, sparse=True, beside=("float32", "bfloat16")),
)
