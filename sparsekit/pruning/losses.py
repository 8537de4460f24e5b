"""A loss for models without labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsekit.batches import call_model, describe, tensors_in
from sparsekit.errors import CalibrationError


@dataclass(frozen=True)
class SampledOutput:
    """``1/2 ||y - y0 - noise||^2`` per sample, where ``y0`` is the output itself, held fixed, and the noise is normal.

    Its value says nothing, but its gradients have the Gauss-Newton matrix of ``1/2 ||y - y0||^2`` as their second
    moment: they are those of a model whose output is the mean of a normal distribution, with a label drawn from it. So
    methods that need gradients ask with it which weights the output depends on. The noise depends on the seed and the
    batch alone. Where a batch has an ``attention_mask`` ``(batch, tokens)``, padded tokens do not count.

    Source: Kunstner, Balles, Hennig 2019, "Limitations of the Empirical Fisher Approximation", section 2.
    """

    seed: int = 0

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the mean over the samples, a scalar.

        Raises:
            CalibrationError: the model returns no tensor of floats.
        """
        returned = call_model(model, batch)
        output = next((value for value in tensors_in(returned) if value.is_floating_point()), None)
        if output is None:
            raise CalibrationError(f"expected a model that returns a tensor of floats, got {describe(returned)}")
        noise = torch.randn(output.shape, generator=self._generator(batch)).to(output)
        mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
        if isinstance(mask, Tensor) and mask.shape == output.shape[:2]:
            noise = noise * mask[(...,) + (None,) * (output.dim() - 2)].to(output)
        return 0.5 * (output - output.detach() - noise).square().sum() / max(1, len(output))

    def _generator(self, batch: Any) -> torch.Generator:
        digest = hashlib.sha256(str(self.seed).encode())
        for value in tensors_in(batch):
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return torch.Generator().manual_seed(int.from_bytes(digest.digest()[:8], "little", signed=True))
