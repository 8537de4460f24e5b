"""Large networks as transformers defines them, with random weights: they say what speed is gained, and no more."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparsekit.demo.cnn.network import behind_the_first
from sparsekit.demo.installed import expect_transformers
from sparsekit.mask import Mask
from sparsekit.patterns import Pattern
from sparsekit.pruning import Magnitude, prune, recalibrate_batchnorm

PIXELS = 224
CLASSES = 1000


class Classifier(nn.Module):
    """A classifier of transformers, from images to the logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(batch, 3, h, w)`` to logits ``(batch, classes)``."""
        logits: Tensor = self.network(x).logits
        return logits


def load_network(name: str) -> Classifier:
    """Return the network ``name`` of :data:`NETWORKS` in eval mode, with the same random weights every time.

    Convolutions start as He et al. propose and BatchNorm normalises what noise gives, so that values are neither lost
    nor infinite on their way through 50 layers.

    Raises:
        InputError: transformers is not installed.
    """
    expect_transformers(name)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = Classifier(NETWORKS[name]()).eval()
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    settle(model)
    return model


def images(count: int = 1) -> Tensor:
    """Return noise ``(count, 3, 224, 224)``, the same every time."""
    return torch.randn(count, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0))


def settle(model: nn.Module) -> None:
    """Let every BatchNorm normalise by what two images of noise bring."""
    recalibrate_batchnorm(model, [images(2)])


def thin_out(model: nn.Module, pattern: Pattern, sparsity: float | None) -> dict[str, Mask]:
    """Prune ``model`` in place by magnitude, in every convolution but the first and the depthwise ones."""
    masks = prune(model, Magnitude(), pattern=pattern, sparsity=sparsity, layers=behind_the_first(model))
    settle(model)
    return masks


def _resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    found: nn.Module = ResNetForImageClassification(ResNetConfig.from_dict({"num_labels": CLASSES}))
    return found


def _mobilenet() -> nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    found: nn.Module = MobileNetV2ForImageClassification(MobileNetV2Config.from_dict({"num_labels": CLASSES}))
    return found


NETWORKS: dict[str, Callable[[], nn.Module]] = {"ResNet-50": _resnet, "MobileNetV2": _mobilenet}
