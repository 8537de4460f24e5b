"""Planning on the device of the model."""

import torch
from torch import nn

from sparsekit.mask import Mask
from sparsekit.patterns import NM, Block, Unstructured
from sparsekit.planning import plan
from sparsekit.planning.sites import LinearSite


def test_every_tensor_is_made_where_the_model_is(cache, monkeypatch):
    """What was made on the default device would be on a GPU's host, or the other way round: here it is nowhere."""
    monkeypatch.setattr("sparsekit.planning.measure.BUDGET_S", 0.0)
    monkeypatch.setattr("sparsekit.planning.planner.BUDGET_S", 0.0)
    layers = (nn.Conv2d(16, 16, 3, padding=1), nn.Flatten(), nn.Linear(16 * 16, 32), nn.Linear(32, 32))
    model, masks = nn.Sequential(*layers).eval(), {}
    for name, pattern in (("0", Block(16, 16)), ("2", NM(2, 4)), ("3", Unstructured())):
        scores = model.get_submodule(name).weight.detach().abs()
        masks[f"{name}.weight"] = Mask(pattern.select(scores, None if pattern.fixes_sparsity else 0.5), pattern)
    x = torch.randn(2, 16, 4, 4)
    with torch.device("meta"):
        found = plan(model, x, masks)
        y = found.apply()(x)
    assert y.device == x.device
    assert all(layer.dense is not None for layer in found.layers)


def test_layers_on_other_devices_stay_as_they_are():
    model = nn.Sequential(nn.Linear(4, 4, device="meta"))
    assert LinearSite(model, "0", None).why_not((1,)) == "layers on meta are not measured"
