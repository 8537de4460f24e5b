import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sparsekit.errors import CalibrationError, PruningError
from sparsekit.patterns import NM, Block, Unstructured
from sparsekit.pruning import Magnitude, SampledOutput, Sensitivity, SparseGPT, Wanda, prune, sensitivity_scan
from sparsekit.pruning.sensitivity import best_shares


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))


def data(count=3):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 12, generator=generator) for _ in range(count)]


def loss_fn(model, batch):
    return F.cross_entropy(model(batch), batch[:, :4].argmax(dim=1))


LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)


@given(st.lists(st.lists(st.integers(0, 20), min_size=4, max_size=4), min_size=2, max_size=3), st.integers(0, 11))
@settings(deadline=None, max_examples=60)
def test_convex_curves_get_the_best_of_all_choices(steps, quarters):
    """Layers of one size, and a budget of whole steps: the optimum is on the grid, and found by trying all of it."""
    curves = {
        str(i): dict(zip(LEVELS, itertools.accumulate(sorted(rises), initial=3.0))) for i, rises in enumerate(steps)
    }
    quarters = min(quarters, 4 * len(curves) - 1)
    shares = best_shares(curves, dict.fromkeys(curves, 8), quarters / 4 / len(curves))
    assert sum(shares.values()) == pytest.approx(quarters / 4)

    def loss(name, share):
        below = max(level for level in LEVELS if level <= share + 1e-9)
        above = min(level for level in LEVELS if level >= share - 1e-9)
        way = (share - below) / (above - below) if above > below else 0.0
        return (1 - way) * curves[name][below] + way * curves[name][above]

    choices = itertools.product(LEVELS, repeat=len(curves))
    best = min(
        sum(curves[name][level] for name, level in zip(curves, levels))
        for levels in choices
        if sum(levels) == quarters / 4
    )
    assert sum(loss(name, share) for name, share in shares.items()) == pytest.approx(best)


def test_weights_count_and_equal_costs_are_shared():
    flat = dict.fromkeys(LEVELS, 1.0)
    assert best_shares({"a": flat, "b": flat}, {"a": 10, "b": 90}, 0.6) == pytest.approx({"a": 0.6, "b": 0.6})
    steep = {0.0: 0.0, 0.5: 5.0, 1.0: 20.0}
    gentle = {0.0: 0.0, 0.5: 5.0, 1.0: 100.0}  # the same rise, over nine times as many weights
    assert best_shares({"a": steep, "b": gentle}, {"a": 10, "b": 90}, 0.45) == pytest.approx({"a": 0.0, "b": 0.5})


def test_a_dent_in_a_curve_is_bridged():
    dented = {0.0: 0.0, 0.5: 9.0, 1.0: 10.0}
    shares = best_shares({"a": dented, "b": {0.0: 0.0, 1.0: 30.0}}, {"a": 1, "b": 1}, 0.25)
    assert shares == pytest.approx({"a": 0.5, "b": 0.0})


def test_a_minimum_is_kept():
    curves = {"a": {0.0: 0.0, 1.0: 0.0}, "b": {0.0: 0.0, 1.0: 9.0}}
    assert best_shares(curves, {"a": 1, "b": 1}, 0.5, 0.2) == pytest.approx({"a": 0.8, "b": 0.2})
    with pytest.raises(PruningError, match="minimum"):
        best_shares(curves, {"a": 1, "b": 1}, 0.9, 0.2)


@pytest.mark.parametrize("pattern", [Unstructured(), Block(2, 2)], ids=str)
@pytest.mark.parametrize("method", [Magnitude(), Wanda(), SparseGPT()], ids=str)
def test_a_scan_is_what_pruning_one_layer_costs(method, pattern):
    batches, dense = data(), network()
    before = [value.clone() for value in dense.parameters()]
    found = sensitivity_scan(dense, method, pattern, (0.5, 0.75), batches=batches, loss_fn=loss_fn)
    assert all(torch.equal(value, old) for value, old in zip(dense.parameters(), before))
    assert not any("forward" in module.__dict__ for module in dense.modules())
    for name, curve in found.items():
        assert list(curve) == [0.0, 0.5, 0.75, 1.0]
        for level, loss in curve.items():
            model = network()
            if level == 1.0:
                nn.init.zeros_(model.get_parameter(name))
            elif level:
                prune(model, method, pattern, level, batches=batches, layers=[name.removesuffix(".weight")])
            with torch.no_grad():
                expected = sum(loss_fn(model, batch).item() for batch in batches) / len(batches)
            assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("by", ["mse", "cosine"])
def test_without_labels_the_distance_from_the_dense_output_counts(by):
    batches, found = data(1), sensitivity_scan(network(), levels=(0.5,), batches=data(1), by=by)
    with torch.no_grad():
        wanted = network()(batches[0])
        model = network()
        prune(model, Magnitude(), sparsity=0.5, layers=["2"])
        got = model(batches[0])
    if by == "mse":
        expected = (got - wanted).square().sum() / wanted.square().sum()
    else:
        expected = 1 - F.cosine_similarity(got, wanted, dim=-1).mean()
    assert found["2.weight"][0.5] == pytest.approx(expected.item(), rel=1e-4)
    assert found["2.weight"][0.0] == pytest.approx(0.0, abs=1e-6)


def test_a_loss_whose_value_says_nothing_is_not_compared():
    one, other = (sensitivity_scan(network(), batches=data(), loss_fn=loss) for loss in (SampledOutput(), None))
    assert one == other
    with pytest.raises(PruningError, match="the value of SampledOutput says nothing"):
        sensitivity_scan(network(), batches=data(), loss_fn=SampledOutput(), by="loss")


def test_padded_tokens_do_not_count():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(12, 12)

        def forward(self, x, attention_mask):
            return self.layer(x)

    torch.manual_seed(0)
    model, x = Tokens(), torch.randn(2, 3, 12)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    other = torch.where(mask.bool()[..., None], x, 1e3)
    scans = [sensitivity_scan(model, batches=[{"x": value, "attention_mask": mask}]) for value in (x, other)]
    assert scans[0] == scans[1]


def test_a_weight_that_is_used_without_its_layer_is_scanned_too():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(12, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x)[0]

    torch.manual_seed(0)
    curve = sensitivity_scan(Attention(), batches=[torch.randn(2, 3, 12)])["attention.out_proj.weight"]
    assert curve[0.5] > 0
    assert curve[1.0] == pytest.approx(1.0, abs=0.05)  # nothing but the bias is left


@pytest.mark.parametrize("method", [Magnitude(), Wanda(), SparseGPT()], ids=str)
def test_what_matters_less_loses_more(method):
    model = network()
    with torch.no_grad():
        model[2].weight.mul_(1e-3)
    masks = prune(model, method, sparsity=0.5, allocation=Sensitivity(by="mse"), batches=data())
    assert masks["4.weight"].sparsity == 0  # the bias of the layer before is all that it sees
    assert masks["2.weight"].sparsity > 0.5
    total = sum(mask.keep.numel() - mask.nnz for mask in masks.values())
    assert total == pytest.approx(0.5 * (12 * 16 + 16 * 16 + 16 * 4), abs=40 if method == Wanda() else 3)


def test_a_scan_may_be_used_again():
    curves = sensitivity_scan(network(), batches=data(), loss_fn=loss_fn)
    allocation = Sensitivity(curves=curves)
    assert allocation == Sensitivity(curves=allocation.curves)
    assert hash(allocation) == hash(Sensitivity(curves=curves))
    first = prune(network(), Magnitude(), sparsity=0.6, allocation=allocation)
    second = prune(network(), Magnitude(), sparsity=0.6, allocation=Sensitivity(), batches=data(), loss_fn=loss_fn)
    assert all(torch.equal(first[name].keep, second[name].keep) for name in first)


def test_says_what_it_lacks():
    with pytest.raises(CalibrationError, match="needs batches of what the model takes, got None"):
        prune(network(), Magnitude(), sparsity=0.5, allocation=Sensitivity())
    with pytest.raises(CalibrationError, match="by loss needs loss_fn"):
        prune(network(), Magnitude(), sparsity=0.5, allocation=Sensitivity(by="loss"), batches=data())
    with pytest.raises(CalibrationError, match=r"batches\[0\]: expected what the model takes"):
        sensitivity_scan(network(), batches=[torch.randn(2, 5)])
    with pytest.raises(CalibrationError, match="got none"):
        sensitivity_scan(network(), batches=[])
    with pytest.raises(CalibrationError, match="expected a finite loss"):
        sensitivity_scan(network(), batches=data(), loss_fn=lambda model, batch: model(batch).sum() / 0)
    with pytest.raises(PruningError, match="fixes the sparsity"):
        sensitivity_scan(network(), pattern=NM(2, 4), batches=data())
    with pytest.raises(PruningError, match=r"sparsities in \[0, 1\), got 1.5"):
        sensitivity_scan(network(), levels=(1.5,), batches=data())
    with pytest.raises(PruningError, match=r"got none of 0\.weight"):
        prune(network(), Magnitude(), sparsity=0.5, allocation=Sensitivity(curves={"a": {0.0: 0.0, 1.0: 1.0}}))
    with pytest.raises(PruningError, match="at sparsity 0 and 1"):
        Sensitivity(curves={"a": {0.0: 0.0}})
