import pytest
import torch

from sparsekit.errors import PruningError
from sparsekit.patterns import NM, Block, Unstructured
from sparsekit.pruning import ALPS, SparseGPT
from sparsekit.pruning.solvers.alps import Splitting
from sparsekit.pruning.solvers.normal_equations import normal_equations
from tests.calibrated import best_on, correlated, layer_problem, output_error


def problem(seed=0, pattern=None, sparsity=0.7, dtype=torch.float64):
    torch.manual_seed(seed)
    weight, inputs = torch.randn(32, 64, dtype=dtype), correlated(256, 64, seed, dtype)
    return weight, inputs, layer_problem(weight, inputs, pattern, sparsity)


def test_each_step_solves_its_normal_equation():
    _, _, given = problem()
    equations = normal_equations(given, 0.01, "layer")
    state = Splitting(equations, given, *torch.linalg.eigh(equations.hessian), rho=0.7)
    for _ in range(5):
        kept, price = state.kept, state.price
        state.advance()
        left = state.free @ (equations.hessian + 0.7 * torch.eye(64, dtype=torch.float64))
        torch.testing.assert_close(left, equations.goal - price + 0.7 * kept)
        torch.testing.assert_close(state.price, price + 0.7 * (state.free - state.kept))
        wanted = state.free + price / 0.7
        assert torch.equal(state.kept, wanted * Unstructured().select(wanted[0].square(), 0.7))


@pytest.mark.parametrize("pattern", [Unstructured(), NM(2, 4), Block(4, 4)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_ends_near_least_squares_and_before_sparsegpt(pattern, seed):
    weight, inputs, given = problem(seed, pattern, 0.5 if pattern == NM(2, 4) else 0.7)
    found, outputs = ALPS().solve(given), inputs @ weight.T
    assert pattern.admits(found.keep)
    assert int(found.keep.sum()) == int(pattern.select(weight.abs(), given.sparsity).sum())
    assert not found.weight[~found.keep].any()
    error = output_error(found.weight, inputs, outputs)
    assert error < output_error(SparseGPT(steps=100).solve(given).weight, inputs, outputs)
    damping = 0.01 * float(inputs.square().mean(dim=0).mean())
    exact = ALPS(steps=200).solve(given)
    torch.testing.assert_close(
        exact.weight, best_on(found.keep, inputs, outputs, damping, weight), rtol=1e-6, atol=1e-8
    )
    assert error >= output_error(best_on(found.keep, inputs, outputs), inputs, outputs)


def test_dense_targets():
    weight, inputs, _ = problem()
    dense = inputs + 0.3 * correlated(256, 64, 9)
    given, outputs = layer_problem(weight, inputs, None, 0.7, dense), dense @ weight.T
    errors = [output_error(ALPS(targets=t).solve(given).weight, inputs, outputs) for t in ("dense", "layer")]
    assert errors[0] < errors[1]


def test_a_penalty_that_is_too_strong_starts_again():
    weight, inputs, given = problem()
    outputs = inputs @ weight.T
    errors = [output_error(ALPS(rho=rho).solve(given).weight, inputs, outputs) for rho in (0.1, 50.0)]
    assert errors[1] < 1.5 * errors[0]


def test_float32_and_dead_inputs():
    weight, inputs, _ = problem(dtype=torch.float32)
    inputs[:, [2, 5]] = 0
    found = ALPS().solve(layer_problem(weight, inputs, None, 0.7))
    assert found.weight.isfinite().all()
    assert not found.keep[:, [2, 5]].any()
    assert not ALPS().solve(layer_problem(weight, inputs * 0, None, 0.7)).weight.any()


@pytest.mark.parametrize("options", [{"rho": 0.0}, {"iterations": 0}, {"steps": -1}, {"damping": -1.0}])
def test_impossible_options(options):
    with pytest.raises(PruningError, match="ALPS: expected"):
        ALPS(**options)
