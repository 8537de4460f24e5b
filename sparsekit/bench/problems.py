"""What is measured, and what each case has to reach."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from sparsekit.patterns import AllTaps, Block, KernelSlice, OnePerKernel, Pattern, PerTap, Unstructured


@dataclass(frozen=True)
class LinearProblem:
    """One product ``(batch, columns) @ (rows, columns).T + bias``.

    Args:
        batch: tokens, M.
        columns: inputs, K.
        rows: outputs, N.
        pattern: how the weight is pruned.
        floors: by sparsity, the speedup over the fastest dense way that the kernels promise; None promises none.
        threads: numbers of threads to run on.
        weights: how the weights are kept, as :data:`~sparsekit.bench.weights.WEIGHTS` calls it.
        peers: which ways of other libraries are measured too.
    """

    batch: int
    columns: int
    rows: int
    pattern: Pattern
    floors: dict[float, float | None] = field(default_factory=dict)
    threads: tuple[int, ...] = (1, 2)
    weights: str = "float32"
    peers: Literal["none", "sparse", "all"] = "none"

    def __str__(self) -> str:
        weights = "" if self.weights == "float32" else f" {self.weights}"
        return f"{self.pattern}{weights} M={self.batch} K={self.columns} N={self.rows}"


@dataclass(frozen=True)
class ModelCase:
    """The sentence encoder of the demo at 8 x 128 tokens, pruned by magnitude in every encoder Linear.

    Args:
        sparsity: fraction of zeros; 0 leaves the model dense.
        floor: the speedup over eager that ``compile`` promises.
        threads: threads to run on.
    """

    sparsity: float
    floor: float
    threads: int = 2


@dataclass(frozen=True)
class EncoderCase:
    """A text encoder at 8 x 128 tokens in bfloat16, pruned by magnitude in every encoder Linear.

    Args:
        encoder: "MiniLM", or "BERT-base" for one of its shape with random weights.
        pattern: how the weights are pruned.
        sparsity: fraction of zeros.
        floor: the speedup over the fastest dense way in floating numbers that ``compile`` within ``torch.compile``
            promises on processors with AMX.
        threads: numbers of threads to run on.
    """

    encoder: str
    pattern: Pattern
    sparsity: float
    floor: float
    threads: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class ConvLayer:
    """A convolution with bias whose padding keeps the size at a stride of 1.

    Args:
        inputs, outputs: channels.
        kernel: taps of a side.
        size: pixels of a side.
        stride: step between outputs.
    """

    inputs: int
    outputs: int
    kernel: int
    size: int
    stride: int = 1

    @property
    def padding(self) -> int:
        """Zeros on each side."""
        return self.kernel // 2

    def __str__(self) -> str:
        step = f" stride {self.stride}" if self.stride > 1 else ""
        return f"{self.kernel}x{self.kernel}{step} {self.inputs}->{self.outputs} at {self.size}x{self.size}"


@dataclass(frozen=True)
class ConvCase:
    """One convolution of ``batch`` images.

    Args:
        layer: what is convolved.
        pattern: how the weight is pruned.
        floors: by sparsity, the speedup over the fastest dense way that the kernels promise; None promises none.
        batch: images.
        dtype: of weight and images.
        threads: numbers of threads to run on.
    """

    layer: ConvLayer
    pattern: Pattern
    floors: dict[float, float | None] = field(default_factory=dict)
    batch: int = 1
    dtype: torch.dtype = torch.float32
    threads: tuple[int, ...] = (1, 2)

    def __str__(self) -> str:
        dtype = "" if self.dtype is torch.float32 else f" {str(self.dtype).removeprefix('torch.')}"
        return f"{self.layer} {self.pattern}{dtype} batch {self.batch}"


@dataclass(frozen=True)
class NetworkCase:
    """One image of 224 px through a whole network, pruned by magnitude in all but its first convolution.

    Args:
        network: as :data:`~sparsekit.demo.cnn.networks.NETWORKS` calls it.
        pattern: how the weights are pruned.
        sparsity: fraction of zeros.
        floor: the speedup over the fastest dense way that ``compile`` promises; None promises none.
        threads: numbers of threads to run on.
    """

    network: str
    pattern: Pattern
    sparsity: float
    floor: float | None = None
    threads: tuple[int, ...] = (1, 2)

    def __str__(self) -> str:
        return f"{self.network} {self.pattern}, 1 image of 224 px, compiled"


TRAINING_PROBLEMS = tuple(
    LinearProblem(512, 2048, 2048, Block(*sides), {0.5: None, 0.8: 1.0, 0.9: floor, 0.95: 1.0})
    for sides, floor in (((16, 16), 4.0), ((32, 32), 1.0), ((16, 1), 1.0))
)
QUICK_TRAINING_PROBLEMS = (LinearProblem(512, 2048, 2048, Block(16, 16), {0.8: 1.0, 0.9: 4.0}, (1,)),)
MODEL_CASES: tuple[ModelCase | EncoderCase, ...] = (
    *(ModelCase(0.9, 2.2), ModelCase(0.2, 0.97), ModelCase(0.0, 0.97)),
    *(EncoderCase("MiniLM", Block(32, 32), 0.8, 1.35), EncoderCase("MiniLM", Block(32, 32), 0.9, 1.5)),
    *(EncoderCase("BERT-base", Block(32, 32), 0.8, 1.6), EncoderCase("BERT-base", Block(32, 32), 0.9, 2.0)),
)
CONV_1X1 = (ConvLayer(256, 1024, 1, 14), ConvLayer(1024, 256, 1, 14))
CONV_3X3 = (
    ConvLayer(64, 64, 3, 56),
    ConvLayer(128, 128, 3, 28),
    ConvLayer(256, 256, 3, 14),
    ConvLayer(128, 256, 3, 28, stride=2),
)
CONV_7X7 = (ConvLayer(3, 64, 7, 224, stride=2),)
CONV_PROMISES: tuple[tuple[tuple[ConvLayer, ...], Pattern, dict[float, float | None], torch.dtype], ...] = (
    (CONV_1X1, Unstructured(), {0.7: 1.7, 0.8: 2.4, 0.9: 4.4, 0.95: 8.0}, torch.float32),
    (CONV_1X1, Block(16, 1), {0.7: 2.7, 0.8: 4.0, 0.9: 8.0}, torch.float32),
    (CONV_1X1, Block(8, 1), {0.7: 2.7, 0.8: 4.0, 0.9: 8.0}, torch.float32),
    (CONV_3X3, Unstructured(), {0.7: 1.4, 0.8: 2.0, 0.9: 3.8, 0.95: 6.5}, torch.float32),
    (CONV_3X3, KernelSlice(), {0.7: 2.3, 0.8: 3.4, 0.9: 6.5, 0.95: 11.0}, torch.float32),
    (CONV_3X3, OnePerKernel(), {8 / 9: 4.5}, torch.float32),
    (CONV_3X3, AllTaps(Block(16, 16)), {0.7: 2.4, 0.8: 3.6, 0.9: 6.5}, torch.bfloat16),
    (CONV_3X3, PerTap(Block(16, 16)), {0.7: 2.4, 0.8: 3.6, 0.9: 6.5}, torch.bfloat16),
    (CONV_7X7, Unstructured(), {0.7: None, 0.8: None, 0.9: None, 0.95: None}, torch.float32),
)
"""Layers, how they are pruned, and by sparsity the speedup over the fastest dense way in that dtype."""
CONV_CASES = tuple(
    ConvCase(layer, pattern, floors, batch, dtype)
    for layers, pattern, floors, dtype in CONV_PROMISES
    for layer in layers
    for batch in (1, 8)
)
QUICK_CONV_CASES = tuple(
    ConvCase(layers[0], pattern, {0.9: floors[0.9]}, 1, dtype, (1,))
    for layers, pattern, floors, dtype in CONV_PROMISES
    if 0.9 in floors
)
NETWORK_CASES = (
    NetworkCase("ResNet-50", Unstructured(), 0.9, 2.5),
    NetworkCase("ResNet-50", KernelSlice(), 0.9, 3.0),
    NetworkCase("MobileNetV2", Unstructured(), 0.9),
    NetworkCase("MobileNetV2", KernelSlice(), 0.9),
)
