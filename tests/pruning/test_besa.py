import copy

import pytest
import torch
from torch import nn

from sparsekit.errors import CalibrationError, PruningError
from sparsekit.patterns import NM, Block, Unstructured
from sparsekit.patterns.base import removed
from sparsekit.pruning import BESA, ERK, ModelProblem, Wanda, prune
from sparsekit.pruning.blocks import calls_of, find_blocks, in_order
from sparsekit.pruning.searches.besa import Rates, _Task
from sparsekit.pruning.statistics.backward import differentiable
from sparsekit.pruning.targets import find_targets


def transformer(blocks=2):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, blocks, enable_nested_tensor=False).eval()


FEED_FORWARD = ("linear1", "linear2")


def choice(name, module):
    return name.endswith(FEED_FORWARD)


def data(count=4):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 8, 16, generator=generator) * torch.linspace(0.1, 3, 16) for _ in range(count)]


def problem(model):
    return ModelProblem(model, find_targets(model, choice), data(), sparsity=0.6)


class TestRates:
    def units(self, n=20):
        return torch.rand(3, n, generator=torch.Generator().manual_seed(0))

    @pytest.mark.parametrize("row_wise", [True, False])
    def test_the_expected_rate_is_that_of_the_probabilities(self, row_wise):
        rates = Rates(self.units(), 10, 0.6, row_wise)  # every rate is a whole number of 20 units
        with torch.no_grad():
            rates.logits += torch.randn(rates.logits.shape, generator=torch.Generator().manual_seed(1))
        shares = rates.logits.softmax(dim=1)
        by_hand = (shares * torch.arange(11) / 10).sum(dim=1).expand(3)
        torch.testing.assert_close(rates.expected(), by_hand)
        torch.testing.assert_close(rates.probabilities().mean(dim=1), by_hand)

    def test_a_unit_goes_with_the_rates_that_cover_it(self):
        units = self.units(7)
        rates = Rates(units, 5, 0.5)
        shares, found = rates.shares(), rates.probabilities()
        for row in range(3):
            ranked = sorted(range(7), key=lambda i: (units[row, i].item(), -i))
            for rank, place in enumerate(ranked):
                covering = [d for d in range(6) if rank < d / 5 * 7 - 1e-9]
                assert found[row, place].item() == pytest.approx(sum(shares[row, d].item() for d in covering))
            in_rank_order = found[row, ranked]
            assert (in_rank_order.diff() <= 0).all()

    @pytest.mark.parametrize("sparsity", [0.05, 0.5, 0.9, 0.99])
    def test_starts_at_the_sparsity(self, sparsity):
        rates = Rates(self.units(100), 100, sparsity)
        assert rates.expected().tolist() == pytest.approx([sparsity] * 3, abs=1e-4)
        gone = rates.keep().eq(0)
        assert gone.sum(dim=1).tolist() == [round(100 * sparsity)] * 3
        for row in range(3):
            assert set(gone[row].nonzero().flatten().tolist()) == set(
                self.units(100)[row].argsort()[: round(100 * sparsity)].tolist()
            )

    def test_equal_units_go_from_the_back(self):
        rates = Rates(torch.zeros(1, 8), 8, 0.5)
        assert rates.keep().tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]

    def test_gradients_are_those_of_the_probability_to_stay(self):
        rates, pull = Rates(self.units(), 10, 0.5), torch.linspace(-1, 1, 60).reshape(3, 20)
        (hard,) = torch.autograd.grad((rates.keep() * pull).sum(), rates.logits)
        (soft,) = torch.autograd.grad(((1 - rates.probabilities()) * pull).sum(), rates.logits)
        torch.testing.assert_close(hard, soft)


def errors_of_blocks(dense, pruned):
    """Relative error of each block of ``pruned``, against the dense block on the same inputs."""
    found = []
    with torch.no_grad():
        for x in data():
            hidden = x
            for wanted, block in zip(dense.layers, pruned.layers):
                found.append(((block(hidden) - wanted(hidden)).square().sum() / wanted(hidden).square().sum()).item())
                hidden = block(hidden)
    return sum(found) / len(found)


@pytest.mark.parametrize("sparsity", [0.5, 0.75])
def test_a_block_changes_less_than_by_wanda_of_the_same_size(sparsity):
    found = {}
    for method in (Wanda(), BESA()):
        model = transformer()
        masks = prune(model, method, sparsity=sparsity, batches=data(), layers=choice)
        found[method] = errors_of_blocks(transformer(), model)
        assert sum(mask.nnz for mask in masks.values()) == 2048 * (1 - sparsity)
    assert found[BESA()] < 0.9 * found[Wanda()]


@pytest.mark.parametrize("dense_targets", [False, True])
def test_the_loss_falls(dense_targets):
    model = transformer()
    view = problem(model)
    with differentiable(view):
        blocks, _ = in_order(view, find_blocks(model, view.targets), keep=False)
        tasks = [_Task(BESA(epochs=epochs), view, blocks[0], calls_of(view, blocks[0])) for epochs in (0, 8)]
        losses = []
        with torch.no_grad():
            wanted = [blocks[0].module(x) for x in data()]
        for task in tasks:
            task.solve(wanted if dense_targets else None, 600)
            with torch.no_grad():
                losses.append(sum(float(task.loss(*pair)) for pair in zip(task.calls, wanted)))
    assert losses[1] < 0.9 * losses[0]


@pytest.mark.parametrize("pattern", [Unstructured(), Block(2, 2), Block(3, 5)], ids=str)
@pytest.mark.parametrize("sparsity", [0.0, 0.313, 0.9])
def test_the_total_is_exact(pattern, sparsity):
    model = transformer()
    before = copy.deepcopy(model)
    masks = prune(model, BESA(epochs=1), pattern, sparsity, batches=data(1), layers=choice)
    units = [pattern.pool(mask.keep.float()) for mask in masks.values()]
    total = sum(unit.numel() for unit in units)
    assert sum(int((unit == 0).sum()) for unit in units) == removed(sparsity, total)
    for name, mask in masks.items():
        assert pattern.admits(mask.keep)
        assert torch.equal(model.get_parameter(name), before.get_parameter(name) * mask.keep)


def test_rows_of_a_layer_may_share_their_rates():
    masks = prune(transformer(), BESA(row_wise=False), sparsity=0.5, batches=data(), layers=choice)
    for mask in masks.values():
        rows = mask.keep.sum(dim=1)
        assert rows.max() - rows.min() <= 1
    shares = [mask.sparsity for mask in masks.values()]
    assert max(shares) - min(shares) > 0.01


def test_is_deterministic_and_leaves_the_generator_alone():
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        found.append(prune(transformer(), BESA(epochs=1), sparsity=0.5, batches=data(), layers=choice))
        torch.manual_seed(seed)
        assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(found[0][name].keep, found[1][name].keep) for name in found[0])


def test_padded_tokens_do_not_count():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(2))

        def forward(self, x, attention_mask):
            for layer in self.layers:
                x = layer(x)
            return x

    mask = torch.tensor([[1] * 6 + [0] * 2] * 4)
    masks = []
    for fill in (0.0, 100.0):
        torch.manual_seed(0)
        batches = [{"x": torch.where(mask.bool()[..., None], x, fill), "attention_mask": mask} for x in data()]
        masks.append(prune(Padded(), BESA(epochs=2), sparsity=0.5, batches=batches))
    assert all(torch.equal(masks[0][name].keep, masks[1][name].keep) for name in masks[0])


class TestBlocks:
    def names(self, model):
        return {b.name: [t.name for t in b.targets] for b in find_blocks(model, find_targets(model))}

    def test_repeated_modules_and_layers_outside(self):
        model = nn.ModuleDict({"stem": nn.Linear(16, 16), "body": transformer(2), "head": nn.Linear(16, 2)})
        found = self.names(model)
        assert list(found) == ["body.layers.0", "body.layers.1", "stem", "head"]
        assert found["stem"] == ["stem.weight"]
        assert len(found["body.layers.0"]) == 3

    def test_the_outermost_list_counts(self):
        def stage():
            return nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(2)))

        assert list(self.names(nn.ModuleList([stage(), stage()]))) == ["0", "1"]

    @pytest.mark.parametrize(
        "model",
        [
            nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)),
            nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.Flatten(), nn.Linear(4, 4))),
            nn.Linear(4, 4),
        ],
    )
    def test_a_model_without_them_is_one(self, model):
        assert list(self.names(model)) == [""]

    def test_they_come_in_the_order_of_execution(self):
        class Backwards(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.ModuleList(nn.Sequential(nn.Linear(16, 16)) for _ in range(3))

            def forward(self, x):
                for layer in reversed(self.layers):
                    x = layer(x)
                return x

        model = Backwards()
        view = ModelProblem(model, find_targets(model), data(1))
        blocks, outputs = in_order(view, find_blocks(model, view.targets), keep=True)
        assert [block.name for block in blocks] == ["layers.2", "layers.1", "layers.0"]
        torch.testing.assert_close(outputs["layers.0"][0], model(data(1)[0]))


def test_says_what_it_cannot_do():
    with pytest.raises(PruningError, match=r"learns how much of each row goes, and NM\(2, 4\) fixes that"):
        prune(transformer(), BESA(), NM(2, 4), batches=data(), layers=choice)
    with pytest.raises(PruningError, match="nothing to share out"):
        prune(transformer(), BESA(), sparsity=0.5, allocation=ERK(), batches=data(), layers=choice)
    with pytest.raises(CalibrationError, match="needs batches"):
        prune(transformer(), BESA(), sparsity=0.5, layers=choice)
    model = transformer()
    before = [value.clone() for value in model.parameters()]
    with pytest.raises(CalibrationError, match=r"batches\[0\]: expected what the model takes"):
        prune(model, BESA(), sparsity=0.5, batches=[torch.randn(2, 3, 5)], layers=choice)
    model.unused = nn.Linear(3, 3)
    with pytest.raises(CalibrationError, match=r"unused\.weight: expected batches that reach it"):
        prune(model, BESA(), sparsity=0.5, batches=data(1), layers=["unused", "layers.0.linear1", "layers.1.linear1"])
    assert all(torch.equal(value, old) for value, old in zip(model.parameters(), before))
    assert all(value.requires_grad for value in model.parameters())
    for wrong in ({"rates": 1}, {"epochs": -1}, {"learning_rate": 0.0}, {"balance": -1.0}):
        with pytest.raises(PruningError, match="BESA: expected"):
            BESA(**wrong)
