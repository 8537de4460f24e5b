"""Whether a peer is there, runs a layer, and is right."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sparsekit.bench.peers.base import Call, Layer, Peer
from sparsekit.bench.runtimes import ABSENT, installed


def bind_peer(
    peer: Peer, layer: Layer, weights: str, check: Callable[[Tensor], None], told: dict[str, str]
) -> Call | None:
    """Return what runs ``layer`` by ``peer``, checked; None where it does not.

    Args:
        peer: what runs it.
        layer: what is run.
        weights: the kind of weights that it stands beside.
        check: raises unless a result is right.
        told: by the peer's name, its version, or why it is absent; an absent peer is not tried again.
    """
    if weights not in peer.beside or told.get(peer.name, "").startswith(ABSENT) or peer.refuses(layer):
        return None
    try:
        version = installed(peer.package)
        call = peer.bind(layer)
        check(call())
    except Exception as error:  # it is others' code, and nothing that it raises may end a long run
        told[peer.name] = f"{ABSENT}{' '.join(str(error).split())[:200]}"
        return None
    told[peer.name] = version
    return call
