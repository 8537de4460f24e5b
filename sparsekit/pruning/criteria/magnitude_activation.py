"""Keep what is large where its input is large on average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.statistics import InputMean, LayerStatistics, Needs


@dataclass(frozen=True)
class MagnitudeActivation(Criterion):
    """``|w_ij * mean(x_j)|``, the mean over all inputs that the weight is multiplied with.

    The mean is signed: an input that is as often negative as positive counts for nothing. For a convolution it is that
    of the patches under the kernel, the padding included.

    Source: Blalock, Gonzalez Ortiz, Frankle, Guttag 2020, "What is the State of Neural Network Pruning?", whose
    ShrinkBench has it as a baseline.
    """

    needs: ClassVar[Needs] = (InputMean,)

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Multiply by the means of the inputs; see :meth:`Criterion.score`."""
        mean = stats[InputMean].mean(weight.shape[0])
        return (weight * mean.to(weight.dtype).reshape(weight.shape)).abs()
