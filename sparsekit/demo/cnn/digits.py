"""Images of handwritten digits that scikit-learn ships, and how well a network reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsekit.demo.installed import expect_installed

TEST_IMAGES = 360
SIDE = 16
"""Pixels of a side; the originals have 8, too few for a network that halves them twice."""


@dataclass(frozen=True)
class Digits:
    """Images ``(n, 1, side, side)`` and labels ``(n,)``; the training images have mean 0 and standard deviation 1."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every training image once, ``size`` at a time; the last batch may be smaller."""
        for chosen in torch.split(torch.randperm(len(self.labels), generator=generator), size):
            yield self.images[chosen], self.labels[chosen]

    def accuracy(self, model: nn.Module, size: int) -> float:
        """Share of the test images that ``model`` reads right, ``size`` of them at a time."""
        with torch.inference_mode():
            answers = torch.cat([model(images).argmax(dim=1) for images in torch.split(self.test_images, size)])
        return (answers == self.test_labels).double().mean().item()


def load_digits(side: int = SIDE) -> Digits:
    """Read the digits, resize them to ``side`` and hold 360 out, of each digit its share; the same every time.

    Raises:
        InputError: scikit-learn, which ships them, is not installed.
    """
    expect_installed("sklearn", "the demo with digits")
    from sklearn.datasets import load_digits as read
    from sklearn.model_selection import train_test_split

    pixels, labels = read(return_X_y=True)
    parts = train_test_split(pixels, labels, test_size=TEST_IMAGES, random_state=0, stratify=labels)
    train, test = (torch.tensor(part, dtype=torch.float32).reshape(-1, 1, 8, 8) for part in parts[:2])
    mean, spread = train.mean(), train.std()
    train, test = (
        F.interpolate((images - mean) / spread, size=(side, side), mode="bilinear") for images in (train, test)
    )
    return Digits(train, torch.tensor(parts[2]), test, torch.tensor(parts[3]))
