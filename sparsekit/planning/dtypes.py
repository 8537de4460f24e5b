"""What the layers of a model would take in another dtype: often more is to be gained there than by the zeros."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sparsekit.planning.cache import Cache, Times
from sparsekit.planning.jobs import Job
from sparsekit.planning.layer import LayerPlan, decide
from sparsekit.planning.measure import look
from sparsekit.planning.sites import Site

WORTH = 1.1
"""Another dtype is mentioned where the layers get faster by this factor."""

WIDE = (torch.float32, torch.float16)
"""Dtypes of layers for which another is looked at."""


@dataclass(frozen=True)
class OtherDtype:
    """All measured layers in another dtype, in seconds.

    Args:
        name: of the dtype.
        dense: in the fastest dense way each.
        sparse: each in the fastest way, dense or sparse.
        planned: as planned, in the dtype that they have.
    """

    name: str
    dense: float
    sparse: float
    planned: float

    @property
    def pays(self) -> bool:
        """Whether it is worth to be mentioned."""
        return self.sparse * WORTH <= self.planned

    def __str__(self) -> str:
        ways = f"the dense layers would take {self.dense * 1e6:.0f} us"
        if self.sparse < self.dense:
            ways += f" and the sparse ones {self.sparse * 1e6:.0f} us"
        return f"In {self.name} {ways}, against {self.planned * 1e6:.0f} us as planned."

    def as_json(self) -> dict[str, str | float]:
        """Return it as JSON types; times are in microseconds."""
        times = {"dense_us": self.dense * 1e6, "sparse_us": self.sparse * 1e6, "planned_us": self.planned * 1e6}
        return {"dtype": self.name, **times, "sentence": str(self)}


def other_dtypes(
    sites: Sequence[Site], layers: Sequence[LayerPlan], others: int, cache: Cache
) -> tuple[OtherDtype, ...]:
    """Look at the measured layers in the dtypes in which they would be faster.

    This is bfloat16, for layers in float32 or float16 on a CPU whose oneDNN multiplies it. Layers of one shape and
    size of input have one representative, that of the median sparsity.

    Args:
        sites, layers: what was measured, and what was planned for each.
        others: as in :class:`~sparsekit.planning.jobs.Job`, for the dtype that the layers have.
        cache: what has been looked at, in entries of its own; it is not saved here.

    Returns:
        the dtypes that pay.
    """
    measured = [(site, layer) for site, layer in zip(sites, layers) if layer.dense is not None]
    weights = [site.layer.weight for site, _ in measured]
    if not weights or any(w.dtype not in WIDE or w.device.type != "cpu" for w in weights):
        return ()
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return ()
    alike: dict[object, list[tuple[Site, LayerPlan]]] = {}
    for site, layer in measured:
        zeros = (str(layer.mask.pattern), layer.mask.sparsity > 0.0)
        alike.setdefault((type(site), site.work, zeros, tuple(layer.calls.items())), []).append((site, layer))
    dense = sparse = 0.0
    for group in alike.values():
        site, layer = sorted(group, key=lambda one: one[1].mask.nnz)[len(group) // 2]
        jobs = {
            key: site.job(layer.mask, key, others // 2, layer.order).in_dtype(torch.bfloat16) for key in layer.calls
        }
        found = decide(layer.name, layer.mask, layer.calls, {key: _times(job, cache) for key, job in jobs.items()})
        dense += len(group) * found.best_dense
        sparse += len(group) * (found.seconds if found.sparse else found.best_dense)
    other = OtherDtype("bfloat16", dense, sparse, sum(layer.seconds for _, layer in measured))
    return (other,) if other.pays else ()


def _times(job: Job, cache: Cache) -> Times:
    """Times by a first look, under a key that no plan takes for its own."""
    key = f"first look: {job.key}"
    found = cache.get(key)
    if found is None:
        found = look(job)
        cache.put(key, found)
    return found
