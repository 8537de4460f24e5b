"""Keep the channels that get attention."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsekit.errors import PruningError
from sparsekit.pruning.criteria.base import Criterion
from sparsekit.pruning.criteria.spreading import share_by_magnitude
from sparsekit.pruning.statistics import ChannelAttention, LayerStatistics, Needs
from sparsekit.pruning.statistics.channel_attention import Training, trained


@dataclass(frozen=True)
class PCAS(Criterion):
    """The mean attention of each channel, learnt on the loss, shared out over the weights of the filter.

    A squeeze-and-excitation network behind each layer is trained for a few steps while the model stays fixed, and then
    removed; a channel's score is the mean of its sigmoid over the samples. Made for patterns whose units are whole
    filters and for ``Global``; the weights of a filter share its score by magnitude. The paper's exact loss and
    training are not reproduced: see :class:`~sparsekit.pruning.statistics.ChannelAttention` for what is done.

    Args:
        steps: of Adam, one batch each, in turn.
        rate: learning rate.
        reduction: the attention has ``1 / reduction`` as many hidden units as the layer has outputs, at least one.
        seed: of the attention's first weights, together with the parameter's name.

    Raises:
        PruningError: ``steps`` is negative, ``rate`` not positive, or ``reduction`` smaller than 1.

    Source: Yamamoto, Maeno 2018, "PCAS: Pruning Channels with Attention Statistics for Deep Network Compression".
    """

    steps: int = 32
    rate: float = 1e-2
    reduction: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0 or not self.rate > 0 or self.reduction < 1:
            got = f"{self.steps}, {self.rate} and {self.reduction}"
            raise PruningError(f"PCAS: expected steps >= 0, rate > 0 and reduction >= 1, got {got}")

    def statistics(self) -> Needs:
        """Return the attention, trained as the settings say."""
        return (self._attention(),)

    def score(self, weight: Tensor, stats: LayerStatistics) -> Tensor:
        """Return each weight's share in the attention of its filter; see :meth:`Criterion.score`."""
        return share_by_magnitude(stats[self._attention()].mean, weight)

    def _attention(self) -> type[ChannelAttention]:
        return trained(Training(self.steps, self.rate, self.reduction, self.seed))
