import pytest
import torch
from torch import nn

from sparsekit.errors import CalibrationError, PruningError
from sparsekit.pruning import OWL, Magnitude, SparseGPT, Wanda, prune
from sparsekit.pruning.allocations.owl import blocks
from sparsekit.pruning.problem import ModelProblem
from sparsekit.pruning.targets import find_targets


class Tower(nn.Module):
    """Blocks of two layers, some with large weights here and there, and a head."""

    def __init__(self, outliers=(0, 3, 12)):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(16, 24), "down": nn.Linear(24, 16)}) for _ in outliers
        )
        self.head = nn.Linear(16, 4)
        with torch.no_grad():
            for block, count in zip(self.layers, outliers):
                block["up"].weight.view(-1)[:: 384 // count if count else 999] *= 50

    def forward(self, x):
        for block in self.layers:
            x = x + block["down"](block["up"](x).tanh())
        return self.head(x)


def inputs():
    return torch.randn(32, 16, generator=torch.Generator().manual_seed(1))


def prepared(model, allocation):
    with torch.no_grad():
        return allocation.prepare(ModelProblem(model, find_targets(model), [inputs()]))


def shapes(model):
    return {name: value for name, value in model.named_parameters() if value.dim() > 1}


def densities(model, allocation, sparsity):
    return {n: 1 - s for n, s in prepared(model, allocation).sparsities(shapes(model), sparsity).items()}


def by_hand(model, multiple=5.0):
    """Share of outliers per block, from the definition."""
    x, found = inputs(), {}
    with torch.no_grad():
        for i, block in enumerate(model.layers):
            hidden = block["up"](x).tanh()
            pooled = torch.cat(
                [
                    (block["up"].weight.abs() * x.norm(dim=0)).flatten(),
                    (block["down"].weight.abs() * hidden.norm(dim=0)).flatten(),
                ]
            )
            found[f"layers.{i}"] = (pooled > multiple * pooled.mean()).float().mean().item()
            x = x + block["down"](hidden)
        pooled = (model.head.weight.abs() * x.norm(dim=0)).flatten()
        found["head.weight"] = (pooled > multiple * pooled.mean()).float().mean().item()
    return found


def test_outliers_are_counted_per_block():
    model = Tower()
    expected = by_hand(model)
    found = dict(prepared(model, OWL()).outliers)
    assert found == pytest.approx(
        {name: expected[name.rsplit(".", 2)[0] if "layers" in name else name] for name in shapes(model)}, abs=1e-6
    )
    assert expected["layers.2"] > expected["layers.1"] > expected["layers.0"]


@pytest.mark.parametrize("sparsity", [0.3, 0.7])
def test_mean_and_width(sparsity):
    model = Tower()
    found = densities(model, OWL(width=0.08), sparsity)
    sizes = {name: value.numel() for name, value in shapes(model).items()}
    assert sum(found[name] * sizes[name] for name in sizes) == pytest.approx((1 - sparsity) * sum(sizes.values()))
    assert max(found.values()) - min(found.values()) == pytest.approx(0.16)
    assert found["layers.2.up.weight"] == found["layers.2.down.weight"] == max(found.values())
    expected = by_hand(model)  # the reference formula: rescaled, minus the mean over weights, plus 1 - sparsity
    scaled = {name: 0.16 * share / max(expected.values()) for name, share in expected.items()}
    size = {name: sum(s for n, s in sizes.items() if n.startswith(name)) for name in scaled}
    mean = sum(scaled[name] * size[name] for name in scaled) / sum(size.values())
    assert found["layers.1.up.weight"] == pytest.approx(scaled["layers.1"] - mean + 1 - sparsity, abs=1e-6)


def test_shares_that_are_equal_give_the_same_to_all():
    model = Tower((0, 0))
    assert list(densities(model, OWL(multiple=1e9), 0.7).values()) == pytest.approx([0.3] * 5)


def test_densities_stay_between_the_minimum_and_1():
    model = Tower()
    sizes = {name: value.numel() for name, value in shapes(model).items()}
    for sparsity, allocation in ((0.98, OWL(width=0.5, minimum=0.01)), (0.02, OWL(width=0.5))):
        found = densities(model, allocation, sparsity)
        assert max(found.values()) <= 1
        assert min(found.values()) >= allocation.minimum
        assert sum(found[name] * sizes[name] for name in sizes) == pytest.approx((1 - sparsity) * sum(sizes.values()))


def test_blocks_share_their_longest_numbered_prefix():
    names = {
        "encoder.layer.3.attention.query.weight": "encoder.layer.3",
        "encoder.layer.3.output.dense.weight": "encoder.layer.3",
        "layers.0.mlp.0.weight": "layers.0",
        "layers.0.mlp.2.weight": "layers.0",
        "stages.1.blocks.4.fc1.weight": "stages.1.blocks.4",
        "stages.1.blocks.4.fc2.weight": "stages.1.blocks.4",
        "stages.1.norm.weight": "stages.1",
        "encoder.encoder_layer_7.mlp.0.weight": "encoder.encoder_layer_7",
        "encoder.encoder_layer_7.mlp.3.weight": "encoder.encoder_layer_7",
        "lone.3.inner.proj.weight": "lone.3.inner.proj.weight",
        "0.weight": "0.weight",
        "head.weight": "head.weight",
    }
    assert blocks(list(names)) == names


@pytest.mark.parametrize("method", [Wanda(), SparseGPT(), Magnitude()], ids=str)
def test_prunes_with_every_kind_of_method(method):
    model = Tower()
    masks = prune(model, method, sparsity=0.7, allocation=OWL(), batches=[inputs()])
    kept = sum(mask.nnz for mask in masks.values()) / sum(mask.keep.numel() for mask in masks.values())
    assert kept == pytest.approx(0.3, abs=0.03)
    assert masks["layers.2.up.weight"].sparsity < masks["layers.0.up.weight"].sparsity - 0.05


def test_says_what_it_lacks():
    with pytest.raises(CalibrationError, match=r"OWL\(.*\) needs batches of what the model takes, got None"):
        prune(Tower(), Magnitude(), sparsity=0.7, allocation=OWL())
    with pytest.raises(PruningError, match="outliers, which prepare"):
        OWL().sparsities({"a": torch.ones(2, 2)}, 0.5)
    for wrong in ({"multiple": 0}, {"width": 0.6}, {"minimum": 1.0}):
        with pytest.raises(PruningError, match="expected"):
            OWL(**wrong)
