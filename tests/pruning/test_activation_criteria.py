"""Criteria that look at what flows through a layer."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparsekit.pruning import MagnitudeActivation, ModelView, prune
from sparsekit.pruning.targets import find_targets
from sparsekit.pruning.walk import surveyed


class TestMagnitudeActivation:
    def test_linear(self):
        torch.manual_seed(0)
        layer = nn.Linear(5, 3)
        batches = [torch.randn(4, 7, 5) + 0.5, torch.randn(2, 5)]
        ((_, stats),) = surveyed(ModelView(layer, find_targets(layer), batches), MagnitudeActivation.needs)
        scores = MagnitudeActivation().score(layer.weight.detach(), stats)
        rows = [row for batch in batches for row in batch.reshape(-1, 5).tolist()]
        weight = layer.weight.tolist()
        for i in range(3):
            for j in range(5):
                wanted = abs(weight[i][j] * sum(row[j] for row in rows) / 30)
                assert float(scores[i, j]) == pytest.approx(wanted, rel=1e-5)

    def test_grouped_convolution(self):
        """Each weight meets one input per output position, zeros of the padding included."""
        torch.manual_seed(0)
        layer, x = nn.Conv2d(4, 6, 3, groups=2, stride=2, padding=1), torch.randn(5, 4, 7, 7) + 0.3
        ((_, stats),) = surveyed(ModelView(layer, find_targets(layer), [x]), MagnitudeActivation.needs)
        scores = MagnitudeActivation().score(layer.weight.detach(), stats)
        padded, wanted = F.pad(x, (1, 1, 1, 1)), torch.empty(6, 2, 3, 3)
        for out in range(6):
            for c in range(2):
                for i in range(3):
                    for j in range(3):
                        met = padded[:, out // 3 * 2 + c, i : i + 7 : 2, j : j + 7 : 2]
                        wanted[out, c, i, j] = (layer.weight[out, c, i, j] * met.mean()).abs()
        torch.testing.assert_close(scores, wanted)

    def test_an_input_that_cancels_counts_for_nothing(self):
        layer = nn.Linear(2, 4)
        keep = prune(layer, MagnitudeActivation(), sparsity=0.5, batches=[torch.tensor([[5.0, 0.1], [-5.0, 0.1]])])
        assert keep["weight"].keep.tolist() == [[False, True]] * 4
