"""What every criterion has to keep, with every pattern: the two tuples are the test's parameters."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sparsekit as sk
from sparsekit.patterns import (
    NM,
    PATTERNS,
    VNM,
    AllTaps,
    Block,
    Channel,
    Filter,
    Head,
    KernelPattern,
    KernelSlice,
    OnePerKernel,
    PerTap,
    StridedKernel,
    TransposableNM,
    Unstructured,
)
from sparsekit.pruning import (
    ALLOCATIONS,
    CRITERIA,
    SEARCHES,
    SOLVERS,
    CostWeighted,
    ModelView,
    RankingSolver,
    Uniform,
    prune,
)
from sparsekit.pruning.targets import find_targets
from sparsekit.pruning.walk import surveyed
from tests.counts import kept_count

EXAMPLES = {
    Unstructured: [Unstructured()],
    NM: [NM(2, 4), NM(1, 4), NM(3, 5)],
    Block: [Block(4, 4), Block(2, 8), Block(3, 5)],
    TransposableNM: [TransposableNM(2, 4), TransposableNM(2, 5, "greedy")],
    VNM: [VNM(4, 2, 8)],
    Filter: [Filter()],
    Channel: [Channel()],
    Head: [Head(4), Head(3, 1)],
    KernelSlice: [KernelSlice()],
    KernelPattern: [KernelPattern(4, 3)],
    OnePerKernel: [OnePerKernel()],
    StridedKernel: [StridedKernel(), StridedKernel(3, "layer")],
    PerTap: [PerTap(NM(2, 4)), PerTap(Block(4, 2))],
    AllTaps: [AllTaps(NM(1, 2)), AllTaps(Block(4, 2))],
}
MADE = [pattern for kind in PATTERNS for pattern in EXAMPLES[kind]]
METHODS = [*CRITERIA, *SOLVERS, *SEARCHES]

# Scores of these belong to places, not to weights; those of PCAS start from a random network.
BLIND = {"Random", "RandomBernoulli", "PCAS"}
# These learn anew by trying: what is gone already is a good choice to them, not the only one.
TRYING = {"PruningAgents", "BESA"}
# How much these remove is random too.
RANDOM_COUNTS = {"RandomBernoulli"}
# What these estimate, they estimate by random vectors that belong to places.
PROBED = {"OBD"}
# A weight or unit can be worse than none: scores have a sign, and what has gone scores 0, which is not the lowest.
SIGNED = {"GraSP", "Skeletonization"}


def counts_units(kind):
    """Whether the sparsity that was asked for is one of units; AMC's is one of cost."""
    return kind not in SEARCHES or kind.counts_units


def loss_fn(model, batch):
    return F.cross_entropy(model(batch).flatten(1), batch.flatten(1).sum(dim=1).gt(0).long())


class Moments(nn.Module):
    """Two logits that do not depend on the order of their inputs."""

    def forward(self, x):
        return torch.stack([x.flatten(1).mean(dim=1), x.flatten(1).square().mean(dim=1)], dim=1)


def statistics(layer, method, inputs):
    """What a method needs to know of a layer that BatchNorm and a loss follow."""
    norm = nn.BatchNorm2d if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d
    model = nn.Sequential(layer, norm(layer.weight.shape[0]), nn.ReLU(), Moments())
    view = ModelView(model, find_targets(model, ["0"]), [inputs], loss_fn)
    ((_, stats),) = surveyed(view, method.statistics())
    return stats


def setting(kind, kernels=False):
    torch.manual_seed(0)
    layer = nn.Conv2d(5, 6, 3) if kernels else nn.Linear(20, 12)
    inputs = torch.randn(4, 5, 6, 6) if kernels else torch.randn(32, 20)
    return layer, layer.weight.detach().clone(), statistics(layer, kind(), inputs)


@functools.cache
def some_scores(kind, pattern):
    """Scores of a weight that the pattern can be asked for."""
    _, weight, stats = setting(kind, kernels=pattern.refuses((12, 20)) is not None)
    return kind().score(weight, stats)


def refusal(kind, pattern, weight):
    """Why a solver does not take the pattern."""
    return kind().refuses(pattern, tuple(weight.shape)) if kind in SOLVERS else None


def own_pattern(kind):
    """The finest pattern that a method takes."""
    return Channel() if refusal(kind, Unstructured(), torch.zeros(4, 4)) else Unstructured()


def counts_by_row(kind):
    return kind in (*CRITERIA, *SOLVERS) and kind().by_row


def sparsity_for(pattern, wanted):
    return None if pattern.fixes_sparsity else wanted


@pytest.mark.parametrize("pattern", MADE, ids=str)
@pytest.mark.parametrize("kind", CRITERIA)
class TestEveryCriterionWithEveryPattern:
    def test_exact_count_and_legal(self, kind, pattern):
        scores = some_scores(kind, pattern)
        for wanted in (0.0, 0.3, 0.5, 0.9):
            sparsity = sparsity_for(pattern, wanted)
            keep = pattern.select(scores, sparsity, by_row=kind.by_row)
            assert pattern.admits(keep)
            assert int(keep.sum()) == kept_count(pattern, tuple(scores.shape), sparsity, kind.by_row)

    def test_select_is_idempotent(self, kind, pattern):
        scores = some_scores(kind, pattern).abs() + 1
        sparsity = sparsity_for(pattern, 0.5)
        keep = pattern.select(scores, sparsity, by_row=kind.by_row)
        assert torch.equal(pattern.select(scores * keep, sparsity, by_row=kind.by_row), keep)


@pytest.mark.parametrize("kind", CRITERIA)
class TestEveryCriterion:
    def test_deterministic(self, kind):
        scores = []
        for seed in (1, 2):
            _, weight, stats = setting(kind)
            torch.manual_seed(seed)
            scores.append(kind().score(weight, stats))
        assert torch.equal(*scores)

    def test_scores_have_the_weight_s_shape_and_are_finite_for_zeros(self, kind):
        layer, weight, _ = setting(kind)
        for given, inputs in ((weight, torch.zeros(4, 20)), (weight * 0, torch.randn(4, 20))):
            with torch.no_grad():
                layer.weight.copy_(given)
            scores = kind().score(given, statistics(layer, kind(), inputs))
            assert scores.shape == weight.shape
            assert scores.isfinite().all()

    def test_scores_of_a_grouped_convolution(self, kind):
        layer = nn.Conv2d(4, 6, 3, groups=2)
        stats = statistics(layer, kind(), torch.randn(2, 4, 5, 5))
        assert kind().score(layer.weight.detach(), stats).shape == layer.weight.shape

    def test_permutation_of_inputs_and_outputs(self, kind):
        if kind.__name__ in BLIND | PROBED:
            pytest.skip("random numbers belong to places, not to weights")
        torch.manual_seed(0)
        layer, inputs = nn.Linear(20, 12), torch.randn(32, 20)
        weight = layer.weight.detach()
        rows, columns = torch.randperm(12), torch.randperm(20)
        scores = kind().score(weight, statistics(layer, kind(), inputs))
        other = nn.Linear(20, 12)
        with torch.no_grad():
            other.weight.copy_(weight[rows][:, columns])
            other.bias.copy_(layer.bias[rows])
        moved = kind().score(other.weight.detach(), statistics(other, kind(), inputs[:, columns]))
        torch.testing.assert_close(moved, scores[rows][:, columns])

    def test_is_a_value(self, kind):
        assert kind() == kind()
        assert hash(kind()) == hash(kind())
        assert repr(kind()).startswith(kind.__name__)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Sequential(nn.BatchNorm2d(8), nn.Flatten()),
        nn.Linear(8 * 9, 10),
        nn.BatchNorm1d(10),
    )


@pytest.mark.parametrize("pattern", MADE, ids=str)
@pytest.mark.parametrize("kind", METHODS)
def test_every_method_prunes_a_network(kind, pattern):
    model = network()
    parameters = dict(model.named_parameters())
    before = {name: value.detach().clone() for name, value in parameters.items()}
    sparsity = sparsity_for(pattern, 0.5)
    batches = (torch.randn(4, 3, 5, 5) for _ in range(2))
    able = [name for name in "024" if not pattern.refuses(tuple(parameters[f"{name}.weight"].shape))]
    if any(refusal(kind, pattern, parameters[f"{name}.weight"]) for name in able):
        with pytest.raises(sk.PruningError, match=r"other units|do not choose"):
            prune(model, kind(), pattern, sparsity, batches=batches, loss_fn=loss_fn, layers=able)
        return
    if kind in SEARCHES and pattern.fixes_sparsity and able:
        with pytest.raises(ValueError, match="fixes that"):
            prune(model, kind(), pattern, sparsity, batches=batches, loss_fn=loss_fn, layers=able)
        return
    masks = prune(model, kind(), pattern, sparsity, batches=batches, loss_fn=loss_fn, layers=able)
    assert list(masks) == [f"{name}.weight" for name in able]
    for name, value in model.named_parameters():
        assert value is parameters[name]
        if name not in masks:
            assert torch.equal(value, before[name])
            continue
        mask = masks[name]
        assert mask.pattern == pattern
        assert not value[~mask.keep].any()
        if kind in CRITERIA:
            assert torch.equal(value[mask.keep], before[name][mask.keep])
        if (kind.__name__ in RANDOM_COUNTS and not pattern.fixes_sparsity) or not counts_units(kind):
            continue
        assert mask.nnz == kept_count(pattern, tuple(value.shape), sparsity, counts_by_row(kind))


@pytest.mark.parametrize("kind", METHODS)
def test_sparsity_0_changes_nothing(kind):
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masks = prune(model, kind(), own_pattern(kind), 0.0, batches=[torch.randn(4, 3, 5, 5)], loss_fn=loss_fn)
    assert all(mask.keep.all() for mask in masks.values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", METHODS)
def test_pruning_twice_keeps_the_mask(kind):
    """Zeros are the lowest scores of every method but the random and the signed ones."""
    if kind.__name__ in BLIND | SIGNED | TRYING:
        pytest.skip("random scores do not see the weights, signed ones may be below 0, and trying finds other choices")
    model, batches = network(), [torch.randn(16, 3, 5, 5)]
    first = prune(model, kind(), own_pattern(kind), 0.5, batches=batches, loss_fn=loss_fn, layers=["4"])
    second = prune(model, kind(), own_pattern(kind), 0.5, batches=batches, loss_fn=loss_fn, layers=["4"])
    assert torch.equal(first["4.weight"].keep | second["4.weight"].keep, first["4.weight"].keep)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("kind", METHODS)
def test_every_allocation_with_every_method(kind, allocation):
    model, batches, pattern = network(), [torch.randn(4, 3, 5, 5)], own_pattern(kind)
    unranked = kind in SOLVERS and not issubclass(kind, RankingSolver)
    refused = allocation().without_scores() is None and (unranked or (kind in CRITERIA and kind.by_row))
    if refused:
        with pytest.raises(ValueError, match="ranks scores across layers"):
            prune(model, kind(), pattern, 0.5, allocation=allocation(), batches=batches, loss_fn=loss_fn)
        return
    if kind in SEARCHES and allocation is not Uniform:
        with pytest.raises(ValueError, match="nothing to share out"):
            prune(model, kind(), pattern, 0.5, allocation=allocation(), batches=batches, loss_fn=loss_fn)
        return
    masks = prune(model, kind(), pattern, 0.5, allocation=allocation(), batches=batches, loss_fn=loss_fn)
    if not counts_units(kind) or pattern != Unstructured():
        return
    # What the budget counts: weights, or operations, which come 25, 9 and 1 per weight of the three layers.
    each = (25, 9, 1) if allocation is CostWeighted else (1, 1, 1)
    off = sum(worth * (mask.nnz - mask.keep.numel() / 2) for worth, mask in zip(each, masks.values()))
    slack = sum(worth * (mask.shape[0] if counts_by_row(kind) else 1) for worth, mask in zip(each, masks.values()))
    assert kind.__name__ in RANDOM_COUNTS or abs(off) <= slack
    if allocation is not Uniform:
        with pytest.raises(ValueError, match="nothing to share out"):
            prune(model, kind(), NM(2, 4), allocation=allocation(), batches=batches, loss_fn=loss_fn)
