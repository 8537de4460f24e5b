import copy
import itertools

import pytest
import torch
from torch import nn

import sparsekit as sk
from sparsekit.patterns import NM, Block, Unstructured
from sparsekit.pruning import LayerProblem, LeastSquares, Magnitude, ModelView, SparseGPT, Wanda, reconstruct
from sparsekit.pruning.calibration import calibrate
from sparsekit.pruning.solvers.normal_equations import needs_of, normal_equations
from sparsekit.pruning.statistics import CrossGram, Gram, ResidualGap
from sparsekit.pruning.targets import find_targets
from tests.calibrated import best_on, correlated, layer_problem, output_error


def setting(seed=0, rows=12, columns=20, tokens=64):
    torch.manual_seed(seed)
    weight = torch.randn(rows, columns, dtype=torch.float64)
    inputs = correlated(tokens, columns, seed)
    return weight, inputs, inputs + 0.3 * correlated(tokens, columns, seed + 50)


def mean_square(inputs):
    return float(inputs.square().mean(dim=0).mean())


@pytest.mark.parametrize("pattern", [Unstructured(), NM(2, 4), Block(4, 4)], ids=str)
@pytest.mark.parametrize("targets", ["layer", "dense"])
@pytest.mark.parametrize("damping", [0.0, 0.05])
def test_equals_lstsq_on_the_support(pattern, targets, damping):
    weight, inputs, dense = setting()
    solver = LeastSquares(damping=damping, targets=targets, steps=200)
    found = solver.solve(layer_problem(weight, inputs, pattern, 0.5, dense))
    outputs = (dense if targets == "dense" else inputs) @ weight.T
    expected = best_on(found.keep, inputs, outputs, damping * mean_square(inputs), weight)
    torch.testing.assert_close(found.weight, expected, rtol=1e-6, atol=1e-8)
    assert torch.equal(found.keep, pattern.select(weight.abs(), 0.5))


def test_any_criterion_chooses():
    weight, inputs, _ = setting()
    problem = layer_problem(weight, inputs)
    keep = LeastSquares(Wanda()).solve(problem).keep
    assert torch.equal(keep, Unstructured().select(Wanda().score(weight, problem.stats), 0.5, by_row=True))
    assert (keep.sum(dim=1) == 10).all()


def test_no_step_of_conjugate_gradients_raises_the_error():
    weight, inputs, dense = setting()
    equations = normal_equations(layer_problem(weight, inputs, dense=dense), 0.01, "dense")
    keep = Unstructured().select(weight.abs(), 0.6)[None]
    errors = [equations.error(equations.refined(equations.dense, keep, steps)) for steps in range(25)]
    assert all(after <= before + 1e-12 * abs(before) for before, after in itertools.pairwise(errors))
    assert errors[8] < errors[0]
    best = best_on(keep[0], inputs, dense @ weight.T, 0.01 * mean_square(inputs), weight)
    assert errors[-1] == pytest.approx(equations.error(best[None]))


@pytest.mark.parametrize("seed", range(3))
def test_sparsegpt_with_dense_targets_equals_an_explicit_computation(seed):
    """From the best weight without a mask, column by column as ever."""
    weight, inputs, dense = setting(seed)
    found = SparseGPT(targets="dense").solve(layer_problem(weight, inputs, dense=dense))
    damping = 0.01 * mean_square(inputs)
    everything = torch.ones_like(weight, dtype=torch.bool)
    current = best_on(everything, inputs, dense @ weight.T, damping, weight)
    hessian = inputs.T @ inputs / len(inputs) + damping * torch.eye(20, dtype=torch.float64)
    pivots = torch.stack([torch.linalg.inv(hessian[i:, i:])[0, 0] for i in range(20)])
    assert torch.equal(found.keep, Unstructured().select(current.square() / pivots, 0.5))
    for i in range(20):
        inverse = torch.linalg.inv(hessian[i:, i:])
        gone = torch.where(found.keep[:, i], 0.0, current[:, i])
        current[:, i:] -= torch.outer(gone / inverse[0, 0], inverse[0])
        current[~found.keep[:, i], i] = 0
    torch.testing.assert_close(found.weight, current)


@pytest.mark.parametrize("targets", ["layer", "dense"])
def test_steps_bring_sparsegpt_to_least_squares_on_its_support(targets):
    weight, inputs, dense = setting()
    problem = layer_problem(weight, inputs, dense=dense)
    plain = SparseGPT(targets=targets).solve(problem)
    found = SparseGPT(targets=targets, steps=200).solve(problem)
    assert torch.equal(found.keep, plain.keep)
    outputs = (dense if targets == "dense" else inputs) @ weight.T
    expected = best_on(found.keep, inputs, outputs, 0.01 * mean_square(inputs), weight)
    torch.testing.assert_close(found.weight, expected, rtol=1e-6, atol=1e-8)
    assert output_error(found.weight, inputs, outputs) < output_error(plain.weight, inputs, outputs)


@pytest.mark.parametrize("seed", range(5))
def test_sparsegpt_before_wanda_before_magnitude(seed):
    torch.manual_seed(seed)
    weight, inputs = torch.randn(32, 64, dtype=torch.float64), correlated(256, 64, seed)
    problem, outputs = layer_problem(weight, inputs), inputs @ weight.T
    masked = [
        weight * Unstructured().select(method.score(weight, problem.stats), 0.5, by_row=method.by_row)
        for method in (Wanda(), Magnitude())
    ]
    errors = [output_error(w, inputs, outputs) for w in (SparseGPT().solve(problem).weight, *masked)]
    assert errors == sorted(errors)


class Padded(nn.Module):
    """Two layers over tokens, the second after something that is not linear."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 8).double(), nn.Linear(8, 5).double()

    def forward(self, x, attention_mask):
        return self.second(torch.tanh(self.first(x)))


def padded_batches():
    torch.manual_seed(1)
    masks = [torch.ones(3, 7).long(), torch.ones(2, 5).long()]
    masks[0][1, 4:] = 0
    masks[1][0, 2:] = 0
    return [{"x": torch.randn(*mask.shape, 6, dtype=torch.float64), "attention_mask": mask} for mask in masks]


def test_cross_gram_equals_a_direct_computation():
    model, batches = Padded(), padded_batches()
    dense, pruned = copy.deepcopy(model), copy.deepcopy(model)
    pruned.first.weight.data[:, ::2] = 0
    found = {}

    def visit(target, stats):
        found[target.name] = stats
        if target.name == "first.weight":
            with torch.no_grad():
                target.weight.copy_(pruned.first.weight)

    calibrate(ModelView(model, find_targets(model), batches), (Gram, CrossGram), visit)
    rows = {kind: [] for kind in ("x", "pruned", "dense")}
    for batch in batches:
        real = batch["attention_mask"].bool()
        rows["x"].append(batch["x"][real])
        rows["pruned"].append(torch.tanh(pruned.first(batch["x"]))[real])
        rows["dense"].append(torch.tanh(dense.first(batch["x"]))[real])
    x, after, before = (torch.cat(rows[kind]) for kind in ("x", "pruned", "dense"))
    torch.testing.assert_close(found["first.weight"][CrossGram].sum[0], x.T @ x)
    torch.testing.assert_close(found["second.weight"][CrossGram].sum[0], after.T @ before)
    torch.testing.assert_close(found["second.weight"][Gram].sum[0], after.T @ after)
    assert found["second.weight"][CrossGram].rows == len(x)


def test_cross_gram_of_a_layer_that_runs_twice_pairs_its_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4).double()
            self.last = nn.Linear(4, 4).double()

        def forward(self, x):
            return self.last(self.layer(torch.relu(self.layer(x))))

    torch.manual_seed(0)
    model, x = Twice(), torch.randn(9, 4, dtype=torch.float64)
    dense, found = copy.deepcopy(model), {}

    def visit(target, stats):
        found[target.name] = stats
        with torch.no_grad():
            target.weight.mul_(0.5)

    calibrate(ModelView(model, find_targets(model), [x]), (CrossGram,), visit)
    second = torch.relu(dense.layer(x))
    torch.testing.assert_close(found["layer.weight"][CrossGram].sum[0], x.T @ x + second.T @ second)
    partner, own = dense.layer(second), model.layer(torch.relu(model.layer(x)))
    torch.testing.assert_close(found["last.weight"][CrossGram].sum[0], own.T @ partner)


class Residual(nn.Module):
    """A branch that is added to its input, behind a layer."""

    def __init__(self, inplace=False):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.up, self.down = (nn.Linear(5, 6).double(), nn.Linear(6, 9).double(), nn.Linear(9, 6).double())
        self.dropout, self.norm, self.inplace = nn.Dropout(0.5), nn.LayerNorm(6).double(), inplace

    def forward(self, x):
        stream = self.stem(x)
        branch = self.dropout(self.down(torch.tanh(self.up(stream))))
        if self.inplace:
            branch += stream
            return self.norm(branch)
        return self.norm(stream + branch)


@pytest.mark.parametrize("inplace", [False, True])
@torch.no_grad()
def test_residual_targets_make_up_for_the_stream(inplace):
    """What the last layer fits is the dense sum less the pruned stream; the others have nothing that is added."""
    model, x = Residual(inplace), torch.randn(80, 5, dtype=torch.float64)
    dense, found = copy.deepcopy(model), {}
    needs = needs_of("residual")

    def visit(target, stats):
        found[target.name] = stats
        if target.name == "stem.weight":
            target.weight[:, ::2] = 0

    calibrate(ModelView(model, find_targets(model), [x[:50], x[50:]]), needs, visit)
    inputs, theirs = torch.tanh(model.up(model.stem(x))), torch.tanh(dense.up(dense.stem(x)))
    gap = dense.stem(x) - model.stem(x)
    torch.testing.assert_close(found["down.weight"][ResidualGap].sum[0], inputs.T @ gap)
    assert not any(found[f"{name}.weight"][ResidualGap].sum.numel() for name in ("stem", "up"))
    weight = dense.down.weight
    for solver in (LeastSquares, SparseGPT):
        problem = LayerProblem("down.weight", weight, found["down.weight"], Unstructured(), 0.4)
        solved = solver(targets="residual", damping=0.01, steps=100).solve(problem)
        outputs = theirs @ weight.T + gap
        expected = best_on(solved.keep, inputs, outputs, 0.01 * mean_square(inputs), weight)
        torch.testing.assert_close(solved.weight, expected, rtol=1e-6, atol=1e-8)
    start = best_on(torch.ones_like(weight, dtype=torch.bool), inputs, outputs, 0.01 * mean_square(inputs), weight)
    hessian = inputs.T @ inputs / 80 + 0.01 * mean_square(inputs) * torch.eye(9, dtype=torch.float64)
    pivots = torch.stack([torch.linalg.inv(hessian[i:, i:])[0, 0] for i in range(9)])
    assert torch.equal(solved.keep, Unstructured().select(start.square() / pivots, 0.4))


@torch.no_grad()
def test_residual_targets_of_a_whole_model():
    dense, x = Residual(), torch.randn(80, 5, dtype=torch.float64)
    errors = {}
    for targets in ("layer", "residual"):
        model = copy.deepcopy(dense)
        sk.prune(model, SparseGPT(targets=targets, steps=50), sparsity=0.5, batches=[x])
        errors[targets] = float((model(x) - dense(x)).square().sum())
    assert errors["residual"] < errors["layer"]


@torch.no_grad()
def test_reconstruct_brings_a_pruned_model_back():
    dense, batches = Padded(), padded_batches()
    model = copy.deepcopy(dense)
    masks = sk.prune(model, Magnitude(), sparsity=0.5)
    pruned = copy.deepcopy(model)
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    reconstruct(model, masks, batches, dense=dense)
    from_zeros = copy.deepcopy(pruned)
    reconstruct(from_zeros, None, batches, dense=dense)
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())
    for name, mask in masks.items():
        assert not model.get_parameter(name)[~mask.keep].any()
        assert torch.equal(model.get_parameter(name), from_zeros.get_parameter(name))

    def missing(other):
        return sum(float((other(**b) - dense(**b))[b["attention_mask"].bool()].square().sum()) for b in batches)

    assert missing(model) < 0.6 * missing(pruned)
    x = torch.cat([torch.tanh(model.first(b["x"]))[b["attention_mask"].bool()] for b in batches])
    y = torch.cat([(dense(**b) - dense.second.bias)[b["attention_mask"].bool()] for b in batches])
    expected = best_on(masks["second.weight"].keep, x, y, 1e-3 * mean_square(x), dense.second.weight)
    torch.testing.assert_close(model.second.weight.data, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda m, b: reconstruct(m, None, [], dense=m), sk.CalibrationError, "got none"),
        (lambda m, b: reconstruct(m, None, b, dense=nn.Linear(2, 2)), sk.LayerError, r"dense: expected .*first"),
        (lambda m, b: sk.prune(m, LeastSquares(masks={}), sparsity=0.5, batches=b), sk.PruningError, "first.weight"),
        (lambda m, b: LeastSquares(steps=0), sk.PruningError, "steps >= 1"),
        (lambda m, b: LeastSquares(damping=-1), sk.PruningError, "damping >= 0"),
        (lambda m, b: SparseGPT(targets="output"), sk.PruningError, "'output'"),
    ],
)
def test_bad_input(act, error, words):
    with pytest.raises(error, match=words):
        act(Padded(), padded_batches())


def test_given_masks_are_kept():
    model, batches = Padded(), padded_batches()
    masks = sk.prune(copy.deepcopy(model), sk.Random(), sparsity=0.5)
    found = sk.prune(model, LeastSquares(masks=masks), sparsity=0.5, batches=batches)
    assert all(torch.equal(found[name].keep, masks[name].keep) for name in masks)


def test_dead_inputs_get_zero_weights():
    weight, inputs, _ = setting()
    inputs[:, 3] = 0
    found = LeastSquares().solve(LayerProblem("w", weight, layer_problem(weight, inputs).stats, Unstructured(), 0.1))
    assert found.weight.isfinite().all()
    assert found.weight[:, 3].abs().max() < 1e-12
