"""torch's own pruning is the oracle of torch_prune, bit by bit; numpy written by hand is that of the other two."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune as oracle

import sparsekit as sk
from sparsekit.errors import LayerError, MaskError, PruningError, SparsekitError
from sparsekit.pruning.frameworks import read_torch, shrinkbench_prune, tfmot_prune, torch_prune

SEED = 7


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3),
        nn.Flatten(),
        nn.Linear(45, 13),
        nn.ReLU(),
        nn.Linear(13, 4),
    )


def layers_of(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}


def by_torch(model, strategy, amount, dim=0, n=2):
    """What torch itself does to ``model``, from the same random numbers."""
    torch.manual_seed(SEED)
    layers = list(layers_of(model).values())
    if strategy == "global_unstructured":
        oracle.global_unstructured([(m, "weight") for m in layers], oracle.L1Unstructured, amount=amount)
    for module in layers if strategy != "global_unstructured" else []:
        extra = {"ln_structured": {"n": n, "dim": dim}, "random_structured": {"dim": dim}}.get(strategy, {})
        getattr(oracle, strategy)(module, "weight", amount=amount, **extra)
    return {f"{name}.weight": module.weight_mask.bool() for name, module in layers_of(model).items()}


def seeded():
    return torch.Generator().manual_seed(SEED)


STRATEGIES = ["random_unstructured", "l1_unstructured", "random_structured", "ln_structured", "global_unstructured"]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("amount", [0.0, 0.3, 0.5, 0.9, 2])
def test_masks_are_torch_s_bit_by_bit_also_when_repeated(strategy, amount):
    ours, theirs = network(), network()
    masks = None
    for _ in range(2 if amount != 0.9 else 1):
        masks = torch_prune(ours, strategy, amount, masks=masks, generator=seeded())
        expected = by_torch(theirs, strategy, amount)
        assert list(masks) == list(expected)
        assert all(torch.equal(mask.keep, expected[name]) for name, mask in masks.items())
        for name, module in layers_of(theirs).items():
            assert torch.equal(layers_of(ours)[name].weight, module.weight)


@pytest.mark.parametrize(("dim", "n"), [(1, 1), (-1, 2), (0, float("inf"))])
@pytest.mark.parametrize("strategy", ["ln_structured", "random_structured"])
def test_other_dimensions_and_norms_are_torch_s(strategy, dim, n):
    masks = torch_prune(network(), strategy, 0.4, dim=dim, n=n, generator=seeded())
    expected = by_torch(network(), strategy, 0.4, dim=dim, n=n)
    assert all(torch.equal(mask.keep, expected[name]) for name, mask in masks.items())


def test_strategies_may_follow_each_other():
    ours, theirs = network(), network()
    masks = torch_prune(ours, "l1_unstructured", 0.5)
    masks = torch_prune(ours, "ln_structured", 0.5, masks=masks)
    by_torch(theirs, "l1_unstructured", 0.5)
    expected = by_torch(theirs, "ln_structured", 0.5)
    assert all(torch.equal(mask.keep, expected[name]) for name, mask in masks.items())


def test_slices_are_filters_and_channels():
    assert {str(m.pattern) for m in torch_prune(network(), "ln_structured", 0.5).values()} == {"Filter()"}
    assert {str(m.pattern) for m in torch_prune(network(), "random_structured", 0.5, dim=1).values()} == {"Channel()"}


def test_counts_are_rounded_half_to_even_and_compound_where_sparsekit_s_are_floored():
    model = nn.Sequential(nn.Linear(7, 1, bias=False))
    first = torch_prune(copy.deepcopy(model), "l1_unstructured", 0.5)
    assert first["0.weight"].keep.numel() - first["0.weight"].nnz == 4  # round(3.5)
    assert sk.prune(copy.deepcopy(model), sk.Magnitude(), sparsity=0.5)["0.weight"].nnz == 4  # 7 - floor(3.5)
    second = torch_prune(model, "l1_unstructured", 0.5, masks=torch_prune(model, "l1_unstructured", 0.5))
    assert second["0.weight"].nnz == 1  # 3 left, round(1.5) go


def test_the_global_generator_gives_torch_s_draws_and_else_is_left_alone():
    expected = by_torch(network(), "random_unstructured", 0.5)
    ours = network()
    torch.manual_seed(SEED)
    masks = torch_prune(ours, "random_unstructured", 0.5, generator=torch.default_generator)
    assert all(torch.equal(mask.keep, expected[name]) for name, mask in masks.items())
    state = torch.get_rng_state()
    torch_prune(ours, "random_unstructured", 0.5)
    assert torch.equal(torch.get_rng_state(), state)


def test_masks_of_torch_are_read_and_its_hooks_removed():
    model, inputs = network(), torch.randn(2, 3, 5, 5)
    expected = by_torch(model, "l1_unstructured", 0.5)
    oracle.l1_unstructured(model[5], "bias", amount=3)
    with torch.no_grad():
        output = model.eval()(inputs)
    masks = read_torch(model)
    assert hasattr(model[0], "weight_orig")
    assert set(masks) == {*expected, "5.bias"}
    assert all(torch.equal(masks[name].keep, keep) for name, keep in expected.items())
    assert masks["5.bias"].nnz == 10
    assert read_torch(model, remove=True).keys() == masks.keys()
    assert model.state_dict().keys() == network().state_dict().keys()
    with torch.no_grad():
        assert torch.equal(model(inputs), output)
    for name in expected:
        assert torch.equal(model.get_parameter(name) != 0, masks[name].keep)
    with pytest.raises(LayerError, match="without its mask buffers"):
        read_torch(model)


def test_a_soft_mask_is_refused():
    model = nn.Sequential(nn.Linear(4, 4))
    oracle.custom_from_mask(model[0], "weight", torch.full((4, 4), 0.5))
    with pytest.raises(MaskError, match=r"0.weight: expected a mask of 0 and 1"):
        read_torch(model)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.999, 1.0])
def test_tfmot_keeps_the_rounded_count_and_all_ties(sparsity):
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Flatten(), nn.Linear(5, 5))
    with torch.no_grad():
        model[0].weight.copy_(torch.randint(-4, 5, model[0].weight.shape))
    before = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    masks = tfmot_prune(model, sparsity)
    for name, mask in masks.items():
        size = np.sort(np.abs(before[name]).ravel())[::-1]
        k = max(int(np.rint(np.float32(size.size) * (np.float32(1) - np.float32(sparsity)))), 1)
        assert np.array_equal(mask.keep.numpy(), np.abs(before[name]) >= size[k - 1])
    if sparsity == 0.9:
        assert masks["2.weight"].nnz == 3  # 25 * (1 - 0.9) is 2.5000005 in float32


@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
@pytest.mark.parametrize("shape", [(8, 12), (7, 10), (5, 4)])
def test_tfmot_pools_blocks_of_the_keras_kernel_with_same_padding(shape, pooling):
    block, sparsity = (3, 2), 0.5
    model = nn.Sequential(nn.Linear(shape[1], shape[0]))
    kernel = np.abs(model[0].weight.detach().numpy().copy().T)  # (in, out)
    grid = [-(-side // b) for side, b in zip(kernel.shape, block)]
    before = [(count * b - side) // 2 for side, b, count in zip(kernel.shape, block, grid)]
    pooled = np.zeros(grid, dtype=np.float32)
    for i in range(grid[0]):
        for j in range(grid[1]):
            top, left = i * block[0] - before[0], j * block[1] - before[1]
            window = kernel[max(top, 0) : top + block[0], max(left, 0) : left + block[1]]
            pooled[i, j] = window.mean() if pooling == "AVG" else window.max()
    k = max(int(np.rint(pooled.size * (1 - sparsity))), 1)
    units = pooled >= np.sort(pooled.ravel())[::-1][k - 1]
    expected = np.kron(units, np.ones(block))[: kernel.shape[0], : kernel.shape[1]].astype(bool).T
    mask = tfmot_prune(model, sparsity, block_size=block, block_pooling_type=pooling)["0.weight"]
    assert np.array_equal(mask.keep.numpy(), expected)


def test_tfmot_counts_zeros_along_input_channels_and_sets_the_mask_once():
    model = nn.Sequential(nn.Conv2d(8, 3, 2), nn.Flatten(), nn.Linear(10, 6))
    conv = model[0].weight.detach().clone()
    masks = tfmot_prune(model, sparsity_m_by_n=(3, 4))
    for out in range(3):
        for tap in [(0, 0), (0, 1), (1, 0), (1, 1)]:
            for start in (0, 4):
                group = conv[(out, slice(start, start + 4), *tap)].abs()
                assert masks["0.weight"].keep[(out, slice(start, start + 4), *tap)].tolist() == (
                    (group == group.max()).tolist()
                )
    assert masks["2.weight"].keep[:, :4].sum(dim=1).tolist() == [1] * 6
    assert masks["2.weight"].keep[:, 8:].sum(dim=1).tolist() == [1] * 6  # filled up with two zeros
    with torch.no_grad():
        model[2].weight.copy_(torch.randn(6, 10))
    again = tfmot_prune(model, sparsity_m_by_n=(3, 4), masks=masks)
    assert torch.equal(again["2.weight"].keep, masks["2.weight"].keep)
    assert not model[2].weight[~again["2.weight"].keep].any()
    even = nn.Sequential(nn.Linear(8, 4))
    assert tfmot_prune(even, sparsity_m_by_n=(3, 4))["0.weight"].pattern == sk.NM(1, 4)


def loss_fn(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def data():
    torch.manual_seed(3)
    return torch.randn(6, 3, 5, 5), torch.tensor([0, 1, 2, 3, 0, 1])


def importances(model, score):
    """Written out parameter by parameter."""
    images, labels = data()
    parameters = {name: p for name, p in model.named_parameters() if name.split(".")[0] in "035"}
    if score == "MagWeight":
        return {name: p.detach().abs().numpy() for name, p in parameters.items()}
    if score == "MagGrad":
        F.cross_entropy(model.train()(images), labels).backward()
        return {name: (p * p.grad).abs().detach().numpy() for name, p in parameters.items()}
    found = {}
    with torch.no_grad():
        for index, module in enumerate(model.eval()):
            if index in (0, 3, 5):
                mean = images.numpy().mean(axis=0)
                places = int(np.prod(mean.shape[1:]))
                size = np.abs(mean.reshape(mean.shape[0], -1)).sum(axis=1) / places
                weight = module.weight.numpy()
                found[f"{index}.weight"] = np.abs(weight * size.reshape(1, -1, *[1] * (weight.ndim - 2)))
                found[f"{index}.bias"] = np.abs(module.bias.numpy() * size.mean())
            images = module(images)
    return found


@pytest.mark.parametrize("score", ["MagWeight", "MagGrad", "MagAct"])
@pytest.mark.parametrize("scope", ["Global", "Layer"])
def test_shrinkbench_thresholds_by_its_quantile(scope, score):
    model, compression = network(), 4
    total = sum(p.numel() for p in model.parameters())
    scores = importances(network(), score)
    prunable = sum(value.size for value in scores.values())
    fraction = (total / compression - (total - prunable)) / prunable
    before = copy.deepcopy(model.state_dict())
    arguments = {"MagGrad": {"batch": data(), "loss_fn": loss_fn}, "MagAct": {"batch": (data()[0],)}}.get(score, {})
    masks = shrinkbench_prune(model, f"{scope}{score}", compression, **arguments)
    assert set(masks) == set(scores)
    for name, mask in masks.items():
        pool = np.concatenate([v.ravel() for v in scores.values()]) if scope == "Global" else scores[name]
        difference = mask.keep.numpy() != (scores[name] >= np.quantile(pool, 1 - fraction))
        assert difference.sum() <= (0 if score == "MagWeight" else 1)  # sums in another order
        assert torch.equal(model.get_parameter(name), before[name] * mask.keep)
    if scope == "Global":
        kept = total - prunable + sum(mask.nnz for mask in masks.values())
        assert abs(total / kept - compression) < 0.01 * compression
    for name in ("7.weight", "1.running_mean", "1.num_batches_tracked"):
        assert torch.equal(model.state_dict()[name], before[name])


def test_shrinkbench_keeps_ties_and_draws_at_random():
    model = nn.Sequential(nn.Linear(30, 30, bias=False), nn.Linear(30, 2))
    nn.init.constant_(model[0].weight, 0.5)
    assert shrinkbench_prune(model, "LayerMagWeight", 4)["0.weight"].nnz == 900
    total, masks = 962, shrinkbench_prune(model, "Random", 4, seed=1)
    expected = (total / 4 - 62) / 900
    assert list(masks) == ["0.weight"]
    assert abs(masks["0.weight"].nnz / 900 - expected) < 4 * (expected * (1 - expected) / 900) ** 0.5
    assert torch.equal(shrinkbench_prune(model, "Random", 4, seed=1)["0.weight"].keep, masks["0.weight"].keep)
    assert set(shrinkbench_prune(network(), "Random", 1.5, classifier="0")) >= {"7.weight", "3.weight"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: torch_prune(m, "l2", 0.5), "strategy: expected one of random_unstructured"),
        (lambda m: torch_prune(m, "l1_unstructured", 1.5), "amount: expected a fraction"),
        (lambda m: torch_prune(m, "l1_unstructured", 10**6), "at most the 162 units that are left"),
        (lambda m: torch_prune(m, "ln_structured", 0.5, dim=4), "dim: expected a dimension"),
        (lambda m: torch_prune(m, "l1_unstructured", 0.5, masks={}), "masks: expected one for 0.weight"),
        (tfmot_prune, "sparsity: expected a fraction"),
        (lambda m: tfmot_prune(m, 0.5, block_size=(2, 2)), "0.weight: expected a Linear for blocks"),
        (lambda m: tfmot_prune(m, 0.5, block_pooling_type="SUM"), "expected AVG or MAX"),
        (lambda m: tfmot_prune(m, sparsity_m_by_n=(4, 4)), "expected 0 < zeros < group"),
        (lambda m: shrinkbench_prune(m, "LayerRandom", 2), "strategy: expected one of Random, GlobalMagWeight"),
        (lambda m: shrinkbench_prune(m, "Random", 0.5), "compression: expected at least 1"),
        (lambda m: shrinkbench_prune(m, "Random", 1000), "parameters stay, got 1000"),
        (lambda m: shrinkbench_prune(m, "GlobalMagGrad", 2), "batch: GlobalMagGrad needs a batch"),
        (lambda m: shrinkbench_prune(m, "LayerMagGrad", 2, batch=data()), "loss_fn: LayerMagGrad needs"),
        (
            lambda m: shrinkbench_prune(m, "LayerMagAct", 2, batch=(torch.zeros(2, 7),)),
            "batch: expected what the model",
        ),
        (lambda m: shrinkbench_prune(m, "Random", 2, classifier="x"), "classifier: expected the name"),
    ],
)
def test_bad_input_is_one_sentence_and_the_model_as_it_was(call, message):
    model = network()
    with pytest.raises(SparsekitError, match=message):
        call(model)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), network().state_dict().values()))


def test_grouped_convolutions_have_no_activation_rule():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(PruningError, match="no rule for a convolution with 2 groups"):
        shrinkbench_prune(model, "LayerMagAct", 2, batch=(torch.zeros(1, 4, 3, 3),))
