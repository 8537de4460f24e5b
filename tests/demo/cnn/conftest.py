import pytest
import torch

from sparsekit.demo.cnn.digits import Digits


@pytest.fixture
def digits():
    """Images of stripes; the label says how dense they are, and in which direction."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 8
    stripes = torch.cos(torch.pi * (labels // 2 + 1)[:, None, None] * torch.arange(8) / 4).expand(80, 8, 8)
    turned = torch.where((labels % 2 == 1)[:, None, None], stripes.mT, stripes)
    images = turned[:, None] + 0.2 * torch.randn(80, 1, 8, 8, generator=generator)
    return Digits(images[:64], labels[:64], images[64:], labels[64:])
