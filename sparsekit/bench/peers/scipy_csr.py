"""scipy: CSR by one thread, what a user has without any extra."""

from __future__ import annotations

import scipy.sparse
import torch

from sparsekit.bench.peers.base import Call, Layer, Peer, only_one_thread


def _bind(layer: Layer) -> Call:
    weight, x = scipy.sparse.csr_matrix(layer.weight.numpy()), layer.x.numpy()
    return lambda: torch.from_numpy(weight @ x.T).T.add(layer.bias).contiguous()


SCIPY_PEERS = (Peer("scipy CSR", "scipy", _bind, only_one_thread, sparse=True),)
