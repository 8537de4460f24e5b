"""WoodFisher, OBERT and CAP against explicit matrices."""

import warnings
from itertools import chain

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparsekit.errors import CalibrationError, PruningError, SparsekitWarning
from sparsekit.patterns import NM, Block, Unstructured
from sparsekit.pruning import CAP, OBERT, Gram, LayerProblem, LayerStatistics, SampleGradients, WoodFisher, prune
from sparsekit.pruning.solvers.layout import by_rows, by_units, units_of
from tests.pruning.surgery import fisher, problem, runs, surgery

CPU = torch.device("cpu")


class TestWoodFisher:
    @pytest.mark.parametrize(("n", "size"), [(40, 7), (5, 7), (5, 24), (3, 100)])
    def test_scores_and_weights_are_those_of_the_recursion(self, n, size):
        given = problem(n=n)
        g, w = given.stats[SampleGradients].samples.flatten(1), given.weight.flatten()
        damping = 0.05 * float(g.square().mean())
        scores, new = torch.empty_like(w), w.clone()
        keep = Unstructured().select(WoodFisher(0.05, size).score(given), 0.5).flatten()
        for block in runs(24, size):
            inverse = torch.eye(len(block), dtype=w.dtype) / damping
            for row in g[:, block]:
                through = inverse @ row
                inverse -= torch.outer(through, through) / (n + row @ through)
            scores[block] = w[block].square() / (2 * inverse.diagonal())
            for i, place in enumerate(block):
                if not keep[place]:
                    new[block] -= w[place] / inverse[i, i] * inverse[i]
        torch.testing.assert_close(WoodFisher(0.05, size).score(given).flatten(), scores)
        found = WoodFisher(0.05, size).solve(given)
        assert torch.equal(found.keep.flatten(), keep)
        torch.testing.assert_close(found.weight.flatten(), new * keep)

    def test_much_damping_ends_in_magnitude(self):
        given = problem()
        for method in (WoodFisher(1e9), OBERT(1e9), CAP(damping=1e9)):
            found = method.solve(given)
            assert torch.equal(found.keep, Unstructured().select(given.weight.abs(), 0.5))
            torch.testing.assert_close(found.weight, given.weight * found.keep, rtol=0, atol=1e-6)


class TestOBERT:
    @pytest.mark.parametrize("size", [4, 8, 24, 2])
    @pytest.mark.parametrize("sides", [(1, 4), (2, 2), (4, 1)])
    def test_scores_of_groups_of_four(self, sides, size):
        """Against explicit inverses; a unit larger than a block is a block."""
        pattern = Block(*sides)
        given = problem((4, 8), pattern=pattern)
        w, scores = given.weight.flatten(), pattern.pool(OBERT(0.05, size).score(given))
        high, wide = scores.shape
        tiles = [
            [(r * sides[0] + i) * 8 + c * sides[1] + j for i in range(sides[0]) for j in range(sides[1])]
            for r in range(high)
            for c in range(wide)
        ]
        blocks = [list(chain(*tiles[i : i + max(1, size // 4)])) for i in range(0, len(tiles), max(1, size // 4))]
        inverse = torch.linalg.inv(fisher(given, 0.05, blocks))
        for tile, score in zip(tiles, scores.flatten()):
            expected = w[tile] @ torch.linalg.inv(inverse[tile][:, tile]) @ w[tile] / 2
            torch.testing.assert_close(score, expected)

    def test_single_weights_and_the_padding_of_the_last_block(self):
        given = problem((3, 7))
        inverse = torch.linalg.inv(fisher(given, 0.05, runs(21, 8)))
        expected = given.weight.flatten().square() / (2 * inverse.diagonal())
        torch.testing.assert_close(OBERT(0.05, 8).score(given).flatten(), expected)

    @pytest.mark.parametrize("pattern", [Unstructured(), NM(2, 4), Block(2, 2)], ids=str)
    def test_weights_make_up_for_all_that_went_jointly(self, pattern):
        given = problem((4, 8), pattern=pattern)
        found = OBERT(0.05, 8).solve(given)
        layout = by_units(pattern, (4, 8), 8, CPU)
        inverse = torch.linalg.inv(fisher(given, 0.05, layout.index.tolist()))
        w, gone = given.weight.flatten(), (~found.keep.flatten()).nonzero().squeeze(1)
        delta = inverse[:, gone] @ torch.linalg.solve(inverse[gone][:, gone], w[gone])
        torch.testing.assert_close(found.weight.flatten(), w - delta)
        assert pattern.admits(found.keep)
        assert len(gone) == 16


class TestCAP:
    @pytest.mark.parametrize("size", [6, 8, 24, 100])
    def test_scores_are_the_losses_of_a_naive_search(self, size):
        given = problem((4, 7))
        matrix, w = fisher(given, 0.05, runs(28, size)), given.weight.flatten()
        scores = CAP(damping=0.05, block_size=size).score(given).flatten()
        for block in runs(28, size):
            for place, loss, _ in surgery(matrix, w, block):
                assert float(scores[place]) == pytest.approx(loss, rel=1e-9)

    @pytest.mark.parametrize("gone", [0, 1, 5, 12, 23, 24])
    def test_weights_are_those_of_the_search_after_as_many_steps(self, gone):
        given = problem((4, 6), sparsity=gone / 24)
        found = CAP(damping=0.05, block_size=24).solve(given)
        matrix = fisher(given, 0.05, [range(24)])
        steps = surgery(matrix, given.weight.flatten(), range(24))
        expected = steps[gone - 1][2] if gone else given.weight.flatten()
        torch.testing.assert_close(found.weight.flatten(), expected, rtol=1e-9, atol=1e-9)
        delta = found.weight.flatten() - given.weight.flatten()
        loss = steps[gone - 1][1] if gone else 0.0
        assert float(delta @ matrix @ delta / 2) == pytest.approx(loss, abs=1e-12)

    @pytest.mark.parametrize("pattern", [NM(2, 4), NM(1, 3), NM(3, 5)], ids=str)
    def test_n_of_m_is_searched_within_its_limits(self, pattern):
        given = problem((3, 13), pattern=pattern)
        wide = 13 - 13 % pattern.m
        groups = [[r * 13 + c for c in range(s, s + pattern.m)] for r in range(3) for s in range(0, wide, pattern.m)]
        blocks = [list(chain(*groups[i : i + 2])) for i in range(0, len(groups), 2)]
        found = CAP(damping=0.05, block_size=2 * pattern.m).solve(given)
        matrix, expected = fisher(given, 0.05, blocks), given.weight.flatten().clone()

        def legal(gone):
            return all(len(set(group) & set(gone)) <= pattern.m - pattern.n for group in groups)

        for block in blocks:
            expected[block] = surgery(matrix, given.weight.flatten(), block, legal)[-1][2][block]
        torch.testing.assert_close(found.weight.flatten(), expected)
        assert pattern.admits(found.keep)

    def test_groups_go_one_by_one(self):
        pattern, given = Block(2, 2), problem((4, 8), pattern=Block(2, 2))
        scores = pattern.pool(CAP(damping=0.05, block_size=32).score(given)).flatten()
        matrix, w = fisher(given, 0.05, [range(32)]), given.weight.flatten().clone()
        units, left, loss = units_of(pattern, (4, 8), CPU), list(range(8)), 0.0
        while left:
            alive = units[left].flatten()
            inverse = torch.zeros(32, 32, dtype=torch.float64)
            inverse[alive[:, None], alive] = torch.linalg.inv(matrix[alive][:, alive])
            tiles = {u: torch.linalg.inv(inverse[units[u]][:, units[u]]) for u in left}
            costs = {u: float(w[units[u]] @ tiles[u] @ w[units[u]] / 2) for u in left}
            u = min(costs, key=costs.get)
            loss += costs[u]
            w -= inverse[:, units[u]] @ tiles[u] @ w[units[u]]
            left.remove(u)
            assert float(scores[u]) == pytest.approx(loss, rel=1e-8)

    def test_second_moments_of_inputs(self):
        """Rows do not meet, and the groups of a convolution have matrices of their own."""
        torch.manual_seed(0)
        inputs = torch.randn(2, 50, 5, dtype=torch.float64) @ torch.randn(2, 5, 5, dtype=torch.float64)
        gram = Gram(2, 5, inputs[:0, 0])
        gram.add(inputs)
        weight = torch.randn(4, 5, dtype=torch.float64)
        given = LayerProblem("conv.weight", weight, LayerStatistics("", {Gram: gram}), Unstructured(), 0.5)
        hessian = torch.block_diag(*[(inputs[row // 2].T @ inputs[row // 2]) / 50 for row in range(4)])
        mean = hessian.diagonal().mean()
        same = torch.block_diag(*[torch.ones(len(block), len(block)) for block in runs(20, 8)])
        matrix = (hessian + 0.01 * mean * torch.eye(20, dtype=torch.float64)) * same
        scores = CAP("inputs", 0.01, 8).score(given).flatten()
        for block in runs(20, 8):
            for place, loss, _ in surgery(matrix, weight.flatten(), block):
                assert float(scores[place]) == pytest.approx(loss, rel=1e-9)


class TestLayout:
    @pytest.mark.parametrize("shape", [(4, 7), (6, 3, 3, 3), (5, 1)])
    @pytest.mark.parametrize("pattern", [Unstructured(), NM(2, 4), Block(2, 3), Block(8, 1)], ids=str)
    def test_units_are_what_the_pattern_chooses(self, pattern, shape):
        high, wide = pattern.grid(shape)
        units = units_of(pattern, shape, CPU)
        assert len(units) == high * wide
        for number, places in enumerate(units):
            choice = torch.ones(high * wide, dtype=torch.bool)
            choice[number] = False
            keep = pattern.spread(choice.reshape(high, wide), shape)
            assert places[places >= 0].tolist() == (~keep.flatten()).nonzero().flatten().tolist()

    def test_rows_that_units_tie_together(self):
        layout = by_rows(Block(2, 2), (5, 5), CPU)
        assert layout.index.tolist() == [
            [0, 1, 5, 6, 2, 3, 7, 8, 4, 9],
            [10, 11, 15, 16, 12, 13, 17, 18, 14, 19],
        ]
        assert (layout.units, layout.width) == (2, 4)
        assert by_rows(Unstructured(), (2, 3), CPU).index.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert by_rows(NM(1, 2), (2, 3), CPU, whole=True).index.tolist() == [[0, 1, 3, 4, 2, 5]]


METHODS = [WoodFisher, OBERT, CAP]


@pytest.mark.parametrize("kind", METHODS)
def test_singular_blocks_are_damped_and_said(kind):
    given = problem(n=2)
    method = kind(damping=0.0)
    with pytest.warns(SparsekitWarning, match=r"fc\.weight: .* of 0; singular blocks continue with up to 1e-06"):
        found = method.solve(given)
    assert found.weight.isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kind().solve(given)


@pytest.mark.parametrize("kind", METHODS)
def test_gradients_that_are_all_zero_name_the_layer(kind):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].bias.fill_(-1e3)
    batches = [torch.randn(8, 4)]
    with pytest.raises(CalibrationError, match=r"0\.weight: expected gradients of the loss, got 8 that are all zero"):
        prune(
            model,
            kind(),
            sparsity=0.5,
            batches=batches,
            loss_fn=lambda m, x: F.softmax(m(x), 1)[:, 0].mean(),
        )


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("options", [{"damping": -1.0}, {"block_size": 0}, {"steps": 0}])
def test_impossible_options(kind, options):
    with pytest.raises(PruningError, match="expected damping >= 0, block_size >= 1 and steps >= 1"):
        kind(**options)


def test_an_unknown_hessian():
    with pytest.raises(PruningError, match="CAP: expected hessian to be one of gradients, inputs, got 'fisher'"):
        CAP("fisher")
