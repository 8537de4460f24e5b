import collections

import pytest
import torch
from torch import nn

from sparsekit.errors import LayerError, MaskError
from sparsekit.mask import Mask
from sparsekit.patterns import NM, Block, Filter, KernelPattern, OnePerKernel, StridedKernel, Unstructured
from sparsekit.pruning import Magnitude, apply_masks, prunable, prune, reinitialise, shuffle_masks


def masks_of(pattern, sparsity=None, layer=None):
    torch.manual_seed(0)
    return prune(nn.Sequential(layer or nn.Linear(22, 12)), Magnitude(), pattern, sparsity)


class TestShuffle:
    @pytest.mark.parametrize("pattern", [Unstructured(), Block(4, 4), Block(5, 3), Filter()], ids=str)
    def test_the_same_number_of_units(self, pattern):
        before = masks_of(pattern, 0.6)
        after = shuffle_masks(before, 1)
        (old,), (new,) = before.values(), after.values()
        assert new.pattern == pattern
        assert new.nnz == old.nnz
        assert not torch.equal(new.keep, old.keep)
        if isinstance(pattern, Block):
            high, wide = 12 - 12 % pattern.rows, 22 - 22 % pattern.columns
            assert new.keep[high:].all()
            assert new.keep[:, wide:].all()

    def test_what_a_block_does_not_cover_stays_as_it_was(self):
        keep = torch.zeros(5, 5, dtype=torch.bool)
        keep[:2, :2] = keep[4, 1] = True
        new = shuffle_masks({"w": Mask(keep, Block(2, 2))}, 3)["w"].keep
        assert new[4].tolist() == [False, True, False, False, False]
        assert new[:4, :4].sum() == 4
        assert not new[:, 4].any()

    def test_groups_of_nm_keep_their_counts(self):
        before = masks_of(NM(2, 4))["0.weight"]
        keep = before.keep.clone()
        keep[3, :4] = False  # fewer than n is legal
        new = shuffle_masks({"w": Mask(keep, NM(2, 4))}, 0)["w"].keep
        groups = [k[:, :20].reshape(-1, 4).sum(dim=1) for k in (keep, new)]
        assert torch.equal(*groups)
        assert torch.equal(new[:, 20:], keep[:, 20:])
        assert not torch.equal(new, keep)

    @pytest.mark.parametrize("pattern", [OnePerKernel(), KernelPattern(), StridedKernel(2)], ids=str)
    def test_patterns_of_kernels_stay_legal(self, pattern):
        before = masks_of(pattern, layer=nn.Conv2d(4, 6, 3))
        after = shuffle_masks(before, 1)
        assert after["0.weight"].nnz == before["0.weight"].nnz
        assert not torch.equal(after["0.weight"].keep, before["0.weight"].keep)

    def test_every_place_has_the_same_chance(self):
        before = masks_of(Block(3, 11), 0.5)
        kept = [shuffle_masks(before, seed)["0.weight"].keep[::3, ::11].flatten() for seed in range(800)]
        counts = collections.Counter(tuple(choice.tolist()) for choice in kept)
        assert len(counts) == 70  # 4 of 8
        assert max(counts.values()) < 30

    def test_seed_and_name_alone_decide(self):
        before = masks_of(Unstructured(), 0.5)
        state = torch.get_rng_state()
        one = shuffle_masks(before, 1)["0.weight"].keep
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(one, shuffle_masks(before, 1)["0.weight"].keep)
        assert not torch.equal(one, shuffle_masks(before, 2)["0.weight"].keep)
        assert not torch.equal(one, shuffle_masks({"other": before["0.weight"]}, 1)["other"].keep)


def test_apply_masks():
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    parameters = dict(model.named_parameters())
    keep = torch.rand(2, 4) > 0.5
    assert apply_masks(model, {"1.weight": Mask(keep)}) is None
    for name, value in model.named_parameters():
        assert value is parameters[name]
        assert torch.equal(value, torch.where(keep, before[name], 0.0) if name == "1.weight" else before[name])


@pytest.mark.parametrize("function", [apply_masks, reinitialise])
def test_masks_that_do_not_belong_change_nothing(function):
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    before = [value.detach().clone() for value in model.parameters()]
    first = Mask(torch.zeros(4, 8, dtype=torch.bool))
    with pytest.raises(LayerError, match=r"got '1\.weigth', which is not there; did you mean '1\.weight'"):
        function(model, {"0.weight": first, "1.weigth": first})
    with pytest.raises(MaskError, match=r"1.weight: expected a mask of shape \(2, 4\), got \(4, 8\)"):
        function(model, {"0.weight": first, "1.weight": first})
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), before))


class TestReinitialise:
    def test_survivors_get_what_the_layer_draws_by_itself(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5))
        masks = prune(model, Magnitude(), sparsity=0.5)
        before, parameters = [p.detach().clone() for p in model.parameters()], list(model.parameters())
        torch.manual_seed(4)
        state = torch.get_rng_state()
        reinitialise(model, masks, seed=7)
        assert torch.equal(torch.get_rng_state(), state)
        for name, index in (("0.weight", 0), ("2.weight", 2)):
            weight, keep = model[index].weight, masks[name].keep
            assert not weight[~keep].any()
            assert not torch.isclose(weight[keep], before[0 if index == 0 else 2][keep]).any()
            bound = weight[0].numel() ** -0.5  # of the uniform distribution that torch initialises by
            assert 0.9 * bound < weight.abs().max() <= bound
        assert all(now is old for now, old in zip(model.parameters(), parameters))
        first = [p.detach().clone() for p in model.parameters()]
        reinitialise(model, masks, seed=7)
        assert all(torch.equal(*pair) for pair in zip(model.parameters(), first))
        reinitialise(model, masks, seed=8)
        assert not any(torch.equal(*pair) for pair in zip(model.parameters(), first))

    def test_a_layer_that_cannot(self):
        class Own(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.ones(2, 2))

        model = nn.Sequential(Own())
        with pytest.raises(LayerError, match=r"0\.weight: expected a layer with reset_parameters, got a Own"):
            reinitialise(model, {"0.weight": Mask(torch.ones(2, 2, dtype=torch.bool))})


def test_prunable_says_what_would_be_pruned():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(1200, 5), nn.Embedding(3, 3))
    assert prunable(model) == [("0.weight", (4, 3, 3, 3)), ("2.weight", (5, 1200))]
    assert str(prunable(model)) == "0.weight 4 x 3 x 3 x 3\n2.weight 5 x 1200\n6,108 weights"
    assert [name for name, _ in prunable(model, ["2"])] == ["2.weight"]
    assert list(prune(model, Magnitude(), sparsity=0.5)) == [name for name, _ in prunable(model)]
