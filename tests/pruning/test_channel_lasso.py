import warnings

import numpy as np
import pytest
import torch
from torch import nn

import sparsekit as sk
from sparsekit.patterns import Block, Channel, Unstructured
from sparsekit.pruning import ChannelLasso
from sparsekit.pruning.solvers.channel_lasso import Lasso, channels
from tests.calibrated import best_on, correlated, layer_problem, output_error


def setting(seed=0, rows=10, columns=12, tokens=80):
    torch.manual_seed(seed)
    weight, inputs = torch.randn(rows, columns, dtype=torch.float64), correlated(tokens, columns, seed)
    return weight, inputs, inputs + 0.2 * correlated(tokens, columns, seed + 50)


def features(weight, inputs, taps=1):
    """What each channel adds to all outputs: one column per channel."""
    parts = [inputs[:, i : i + taps] @ weight[:, i : i + taps].T for i in range(0, weight.shape[1], taps)]
    return torch.stack([part.flatten() for part in parts], dim=1)


def explicit(weight, inputs, outputs, taps=1):
    """The same LASSO, from the features themselves."""
    size = len(inputs)
    matrix, target = features(weight, inputs, taps), outputs.flatten()
    return Lasso(matrix.T @ matrix / size, matrix.T @ target / size), matrix.numpy(), target.numpy()


@pytest.mark.parametrize("penalty", [0.01, 0.1, 0.5])
def test_equals_the_lasso_of_scikit_learn(penalty):
    linear_model = pytest.importorskip("sklearn.linear_model")
    weight, inputs, dense = setting()
    lasso, matrix, target = explicit(weight, inputs, dense @ weight.T)
    strength = penalty * float(np.abs(lasso.slopes).max())
    other = linear_model.Lasso(alpha=strength / 10, fit_intercept=False, tol=1e-12, max_iter=100000)  # 10 outputs
    found = lasso.solve(strength)
    np.testing.assert_allclose(found, other.fit(matrix, target).coef_, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("pattern", [Channel(), Block(10, 1)], ids=str)
def test_equals_scikit_learn_and_lstsq(pattern, sparsity):
    linear_model = pytest.importorskip("sklearn.linear_model")
    weight, inputs, dense = setting()
    outputs = dense @ weight.T
    found = ChannelLasso(damping=0.0).solve(layer_problem(weight, inputs, pattern, sparsity, dense))
    kept = found.keep[0].nonzero().flatten().tolist()
    lasso, matrix, target = explicit(weight, inputs, outputs)
    for fraction in np.linspace(1.0, 0.0, 400):  # the first penalty from above that leaves enough
        alpha = max(fraction, 1e-9) * float(np.abs(lasso.slopes).max()) / 10
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other = linear_model.Lasso(alpha=alpha, fit_intercept=False, tol=1e-10, max_iter=100000)
            path = np.flatnonzero(other.fit(matrix, target).coef_).tolist()
        if len(path) >= len(kept):
            break
    assert kept == path
    torch.testing.assert_close(found.weight, best_on(found.keep, inputs, outputs), rtol=1e-6, atol=1e-8)
    assert output_error(found.weight, inputs, outputs) <= output_error(weight * found.keep, inputs, outputs)


def test_channels_of_a_convolution():
    torch.manual_seed(0)
    weight, inputs = torch.randn(5, 6, 2, 2, dtype=torch.float64), correlated(90, 24)
    found = ChannelLasso(damping=0.0).solve(layer_problem(weight, inputs, Channel(), 0.5))
    assert Channel().admits(found.keep)
    assert int(found.keep.sum()) == 5 * 3 * 4
    flat, keep = weight.flatten(1), found.keep.flatten(1)
    torch.testing.assert_close(found.weight.flatten(1), best_on(keep, inputs, inputs @ flat.T), rtol=1e-6, atol=1e-8)
    lasso, _, _ = explicit(flat, inputs, inputs @ flat.T, taps=4)
    sizes = lasso.search(3, 1e-3)
    assert np.flatnonzero(sizes).tolist() == keep[0, ::4].nonzero().flatten().tolist()


def test_a_larger_penalty_leaves_no_more_channels():
    weight, inputs, dense = setting()
    lasso, _, _ = explicit(weight, inputs, dense @ weight.T)
    top = float(np.abs(lasso.slopes).max())
    counts = [np.count_nonzero(lasso.solve(top * fraction)) for fraction in np.linspace(0.0, 1.01, 30)]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (12, 0)


def test_channels_that_leave_at_once_are_those_of_the_largest_penalty_that_keeps_enough():
    lasso = Lasso(torch.eye(4), torch.tensor([3.0, 2.0, 2.0, 1.9]))
    assert np.flatnonzero(lasso.search(2, 1e-3)).tolist() == [0, 1, 2]


def test_a_channel_that_is_there_twice_goes():
    """Equal inputs with equal weights: one can carry both, and magnitude could not see it."""
    weight, inputs, _ = setting()
    weight[:, 7], inputs[:, 7] = 3 * weight[:, 2], inputs[:, 2]
    found = ChannelLasso().solve(layer_problem(weight, inputs, Channel(), 1 / 12))
    assert (~found.keep[0]).nonzero().flatten().tolist() == [2]
    outputs = inputs @ weight.T
    assert output_error(found.weight, inputs, outputs) < 1e-3 * float(outputs.square().sum())


def test_targets_are_the_dense_model_s_outputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 6)).double()
    dense, x = nn.Sequential(*model), torch.randn(100, 8, dtype=torch.float64)
    outputs = dense(x).detach() - model[2].bias.detach()
    masks = sk.prune(model, ChannelLasso(damping=0.0), Channel(), 0.5, batches=[x])
    assert [mask.nnz for mask in masks.values()] == [48, 36]
    inputs = torch.tanh(model[0](x)).detach()
    expected = best_on(masks["2.weight"].keep, inputs, outputs)
    torch.testing.assert_close(model[2].weight.data, expected, rtol=1e-6, atol=1e-8)


def test_dead_channels_go_first():
    weight, inputs, _ = setting()
    inputs[:, [1, 4]] = 0
    keep = ChannelLasso().solve(layer_problem(weight, inputs, Channel(), 2 / 12)).keep
    assert (~keep[0]).nonzero().flatten().tolist() == [1, 4]


def test_columns_that_no_unit_covers_stay():
    assert channels(Block(4, 2), (4, 5)).tolist() == [0, 0, 1, 1, -1]
    assert channels(Unstructured(), (4, 5)) is None
    assert channels(Block(4, 2), (5, 4)) is None


@pytest.mark.parametrize("options", [{"penalty": 0.0}, {"damping": -1.0}, {"targets": "x"}])
def test_impossible_options(options):
    with pytest.raises(sk.PruningError, match="ChannelLasso: expected"):
        ChannelLasso(**options)
