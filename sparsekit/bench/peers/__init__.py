"""What a user would otherwise run a layer by; ``pip install 'sparsekit[bench]'`` installs what is not in torch."""

from sparsekit.bench.peers.base import Call, Layer, Peer
from sparsekit.bench.peers.fbgemm import FBGEMM_PEERS
from sparsekit.bench.peers.mkl import MKL_PEERS
from sparsekit.bench.peers.onnxruntime_dense import ONNXRUNTIME_PEERS
from sparsekit.bench.peers.openvino_dense import OPENVINO_PEERS
from sparsekit.bench.peers.pytorch import PYTORCH_PEERS
from sparsekit.bench.peers.scipy_csr import SCIPY_PEERS

PEERS: tuple[Peer, ...] = (
    *PYTORCH_PEERS,
    *SCIPY_PEERS,
    *MKL_PEERS,
    *FBGEMM_PEERS,
    *ONNXRUNTIME_PEERS,
    *OPENVINO_PEERS,
)

__all__ = ["PEERS", "Call", "Layer", "Peer"]
