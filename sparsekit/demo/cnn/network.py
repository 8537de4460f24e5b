"""A small residual network for images of one channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTHS = (32, 64, 128)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm beside a shortcut, which is a 1x1 convolution where the shape changes.

    Source: He, Zhang, Ren, Sun 2015, "Deep Residual Learning for Image Recognition", figure 5, left.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, inputs, h, w)`` to ``(batch, outputs, h / stride, w / stride)``."""
        y = self.relu1(self.norm1(self.conv1(x)))
        z: Tensor = self.relu2(self.norm2(self.conv2(y)) + self.shortcut(x))
        return z


class ResidualNetwork(nn.Sequential):
    """A convolution, one :class:`BasicBlock` per width, each but the first at half the size, and a Linear.

    Args:
        widths: channels of each block.
        classes: outputs.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS, classes: int = 10) -> None:
        blocks = [
            BasicBlock(before, width, 1 if number == 0 else 2)
            for number, (before, width) in enumerate(zip((widths[0], *widths), widths))
        ]
        super().__init__(
            *(nn.Conv2d(1, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()),
            *blocks,
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)),
        )


def fresh(widths: tuple[int, ...] = WIDTHS) -> ResidualNetwork:
    """Return an untrained network, the same every time; the global generator stays where it was."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return ResidualNetwork(widths)


def behind_the_first(model: nn.Module) -> list[str]:
    """Names of all convolutions of ``model`` but the first and the depthwise ones, which hold next to no weights."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    return [name for name in names[1:] if convolution_at(model, name).groups == 1]


def inside_blocks(model: nn.Module) -> list[str]:
    """Names of the convolutions whose filters only the next one reads: the first of each :class:`BasicBlock`."""
    return [f"{name}.conv1" for name, module in model.named_modules() if isinstance(module, BasicBlock)]


def convolution_at(model: nn.Module, name: str) -> nn.Conv2d:
    """Return the convolution called ``name``."""
    found = model.get_submodule(name)
    assert isinstance(found, nn.Conv2d)
    return found
