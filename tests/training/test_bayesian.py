"""Distributions of weights: divergences and moments against quadrature and draws, gradients against torch's own."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Normal, kl_divergence

import sparsekit as sk
from sparsekit.errors import PruningError
from sparsekit.training.bayesian import divergences, truncated
from sparsekit.training.bayesian.scales import Horseshoe
from tests.training.gated import attached, explicit, gates_now, gradients_in_step, step


def double(value):
    return torch.tensor([value], dtype=torch.float64)


def integral(function, start, stop):
    """Over pieces, so that no peak is missed."""
    edges = np.linspace(start, stop, 41)
    return sum(integrate.quad(function, a, b, epsabs=1e-13)[0] for a, b in pairwise(edges))


class TestDivergences:
    @pytest.mark.parametrize("log_alpha", [-7.0, -4.0, -2.0, -1.0, 0.0, 1.0, 3.0, 6.0])
    def test_the_one_from_log_uniform_is_within_its_error_of_quadrature(self, log_alpha):
        """``E log|1 + sqrt(alpha) e| - log(alpha) / 2``, and the constant that makes it 0 for a large alpha."""
        root = math.exp(0.5 * log_alpha)

        def expected(deviation):
            def inside(e):
                return stats.norm.pdf(e) * math.log(abs(1 + deviation * e) + 1e-300)

            pole = min(12.0, 1 / deviation)
            return sum(integrate.quad(inside, a, b, limit=200)[0] for a, b in ((-12, -pole), (-pole, 12)) if a < b)

        constant = 0.5 * (-np.euler_gamma - math.log(2))  # E log|e|
        by_quadrature = expected(root) - 0.5 * log_alpha - constant
        assert abs(float(divergences.from_log_uniform(double(log_alpha))) - by_quadrature) < 0.0115

    def test_the_one_from_log_uniform_falls_to_zero(self):
        values = divergences.from_log_uniform(torch.linspace(-8, 8, 33, dtype=torch.float64))
        assert bool((values.diff() < 0).all())
        assert float(values[-1]) < 2e-4

    @pytest.mark.parametrize(("mean", "log_variance"), [(0.3, -2.0), (-1.5, 0.0), (0.0, 1.0)])
    def test_the_one_from_the_normal_is_that_of_torch(self, mean, log_variance):
        ours = divergences.from_standard_normal(double(mean), double(log_variance))
        learned = Normal(double(mean), torch.exp(0.5 * double(log_variance)))
        theirs = kl_divergence(learned, Normal(double(0.0), double(1.0)))
        torch.testing.assert_close(ours, theirs)

    @pytest.mark.parametrize(("mean", "log_variance"), [(0.4, -2.0), (-1.0, 0.5), (1.0, -4.0)])
    def test_those_of_log_normals_are_quadratures(self, mean, log_variance):
        deviation = math.exp(0.5 * log_variance)
        learned = stats.lognorm(s=deviation, scale=math.exp(mean))

        def divergence_from(prior):
            def inside(t):  # over t = log x
                x = math.exp(t)
                return stats.norm.pdf(t, mean, deviation) * (learned.logpdf(x) - prior.logpdf(x))

            return integral(inside, mean - 12 * deviation, mean + 12 * deviation)

        gamma = float(divergences.log_normal_from_gamma(double(mean), double(log_variance), 0.04))
        inverse = float(divergences.log_normal_from_inverse_gamma(double(mean), double(log_variance)))
        assert gamma == pytest.approx(divergence_from(stats.gamma(0.5, scale=0.04)), rel=1e-7)
        assert inverse == pytest.approx(divergence_from(stats.invgamma(0.5)), rel=1e-7)

    def test_the_factors_of_the_horseshoe_are_a_half_cauchy_variable(self):
        """The product of a gamma and an inverse gamma variable of shape 1/2 is the square of a half-Cauchy one."""
        drawn = stats.gamma(0.5, scale=0.3**2).rvs(20_000, random_state=0) * stats.invgamma(0.5).rvs(
            20_000, random_state=1
        )
        assert stats.kstest(np.sqrt(drawn), stats.halfcauchy(scale=0.3).cdf).pvalue > 0.01


MOMENTS = [(-20.0, -2.0), (-3.0, -5.0), (-0.5, 0.0), (0.0, -5.0), (0.0, 2.0), (0.5, -2.0), (3.0, 0.0), (5.0, 5.0)]


class TestTruncatedLogNormal:
    @pytest.mark.parametrize(("mu", "log_sigma"), MOMENTS)
    def test_divergence_and_moments_are_quadratures(self, mu, log_sigma):
        sigma = math.exp(log_sigma)
        start, stop = max(-20.0, min(mu, 0.0) - 14 * sigma), min(0.0, max(mu, -20.0) + 14 * sigma)
        peak = min(0.0, max(-20.0, mu))

        def shape(t):
            return math.exp(-0.5 * ((t - mu) / sigma) ** 2 + 0.5 * ((peak - mu) / sigma) ** 2)

        mass = integral(shape, start, stop)
        first = integral(lambda t: shape(t) * math.exp(t), start, stop) / mass
        second = integral(lambda t: shape(t) * math.exp(2 * t), start, stop) / mass
        entropy = -integral(
            lambda t: shape(t) / mass * (math.log(shape(t) / mass) if shape(t) > 0 else 0.0), start, stop
        )
        args = double(mu), double(log_sigma)
        assert float(truncated.divergence(*args)) == pytest.approx(math.log(20) - entropy, rel=1e-7, abs=1e-9)
        assert float(truncated.log_moment(*args, 1).exp()) == pytest.approx(first, rel=1e-7)
        assert float(truncated.log_moment(*args, 2).exp()) == pytest.approx(second, rel=1e-7)
        ratio = first / math.sqrt(second - first**2)
        assert float(truncated.log_signal_to_noise(*args).exp()) == pytest.approx(ratio, rel=1e-4)

    @pytest.mark.parametrize(("mu", "log_sigma"), MOMENTS)
    def test_draws_are_quantiles_with_their_slopes(self, mu, log_sigma):
        levels = torch.tensor([1e-6, 0.1, 0.5, 0.9, 1 - 1e-6], dtype=torch.float64)
        sigma = math.exp(log_sigma)
        theirs = stats.truncnorm.ppf(levels.numpy(), (-20 - mu) / sigma, -mu / sigma, loc=mu, scale=sigma)
        found = truncated.sample(double(mu), double(log_sigma), levels)
        np.testing.assert_allclose(found.log().numpy(), theirs, rtol=1e-8, atol=1e-9)
        arguments = tuple(double(value).requires_grad_() for value in (mu, log_sigma))
        assert torch.autograd.gradcheck(
            lambda m, s: truncated.sample(m, s, levels[1:4]).log() / max(sigma, 1e-2), arguments, eps=1e-5, atol=1e-4
        )

    def test_everything_is_finite_at_the_corners(self):
        for mu in (-20.0, 0.0, 1e-3, 1.0, 5.0):
            for log_sigma in (-20.0, -10.0, -7.0, 5.0):
                args = tuple(double(value).requires_grad_() for value in (mu, log_sigma))
                made = [
                    truncated.divergence(*args),
                    truncated.log_moment(*args, 1),
                    truncated.log_signal_to_noise(*args),
                    truncated.sample(*args, double(0.3)),
                ]
                for value in made:
                    slopes = torch.autograd.grad(value.sum(), args, allow_unused=True)
                    assert bool(torch.isfinite(value).all())
                    assert all(bool(torch.isfinite(slope).all()) for slope in slopes if slope is not None)


def reshown(method, state):
    with torch.no_grad():
        method.show(state)
    return state.sites[0].read()


class TestDraws:
    def test_activations_have_the_mean_and_variance_of_variational_dropout(self):
        method = sk.VariationalDropout(log_variance=-1.0)
        _, _, _, state = attached(method)
        theta = state.sites[0].tensors["latent"]
        x = torch.linspace(-1, 2, 6, dtype=torch.float64)
        outputs = torch.stack([reshown(method, state) @ x for _ in range(4000)])
        deviation = math.sqrt(math.exp(-1.0) * float((x**2).sum()))
        assert float((outputs.mean(dim=0) - theta @ x).abs().max()) < 5 * deviation / math.sqrt(4000)
        torch.testing.assert_close(outputs.var(dim=0), torch.full((8,), deviation**2).double(), rtol=0.12, atol=0)

    @pytest.mark.parametrize("prior", ["normal-jeffreys", "horseshoe"])
    def test_weights_have_the_posterior_variance_of_bayesian_compression(self, prior):
        method = sk.BayesianCompression(prior, log_variance=-3.0)
        _, _, _, state = attached(method, layers=["0"])
        site = state.sites[0]
        site.tensors["gate.weight_log_variance"].fill_(-6.0)
        mean_w, var_w, of_scale = site.tensors["latent"], math.exp(-6.0), math.exp(-3.0)
        if prior == "horseshoe":
            log_mean = 0.5 * sum(site.tensors["gate." + key] for key in ("a", "b", "layer_a", "layer_b"))
            mean_z = torch.exp(log_mean + 0.5 * of_scale)  # four factors, a quarter of each variance
            var_z = (math.exp(of_scale) - 1) * mean_z**2
        else:
            mean_z, var_z = site.tensors["gate.scale"], of_scale
        wanted = mean_z**2 * var_w + var_z * mean_w**2 + var_z * var_w
        drawn = torch.stack([reshown(method, state) for _ in range(4000)])
        torch.testing.assert_close(drawn.var(dim=0), wanted, rtol=0.4, atol=0)
        torch.testing.assert_close(drawn.var(dim=0).mean(), wanted.mean(), rtol=0.1, atol=0)
        torch.testing.assert_close(drawn.mean(dim=0), mean_z * mean_w, rtol=0, atol=0.06)

    def test_the_end_is_the_mean(self):
        model, _, run, state = attached(sk.StructuredBayesian(log_sigma=0.0), sparsity=0.25)
        latent = state.sites[0].tensors["latent"].clone()
        masks = run.finish()
        keep = masks["0.weight"].keep
        u = torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        mean = float(truncated.sample(double(0.0), double(0.0), u).mean())
        torch.testing.assert_close(model[0].weight.detach(), latent * keep * mean, rtol=3e-3, atol=1e-9)
        gone = [int((~mask.keep).any(dim=1).sum()) for mask in masks.values()]
        assert gone == [0, 3]  # a quarter of twelve filters; among equals those with the higher index


def by_hand(method, site):
    """Formula and cost of a method at a filter pattern, written down a second time, but for divergences."""
    noise = {key[6:]: value.clone() for key, value in site.tensors.items() if key.startswith("noise.")}

    def rows(values):
        return values[:, None]

    if isinstance(method, sk.VariationalDropout):
        return (
            lambda w, g: w + noise["weight"] * torch.sqrt(torch.exp(g["log_variance"])),
            lambda w, g: divergences.from_log_uniform(g["log_variance"] - 2 * torch.log(w.abs())).sum() / 40,
        )
    if isinstance(method, sk.StructuredBayesian):
        return (
            lambda w, g: w * rows(truncated.sample(g["mu"], g["log_sigma"], noise["u"])),
            lambda w, g: truncated.divergence(g["mu"], g["log_sigma"]).sum() / 20,
        )

    def formula(w, g):
        z = g["scale"] + torch.sqrt(torch.exp(g["scale_log_variance"])) * noise["scale"][:-1]
        return (w + torch.sqrt(torch.exp(g["weight_log_variance"])) * noise["weight"]) * rows(z)

    def cost(w, g):
        own = divergences.from_log_uniform(g["scale_log_variance"] - 2 * torch.log(g["scale"].abs())).sum()
        return (own + divergences.from_standard_normal(w, g["weight_log_variance"]).sum()) / 40

    return formula, cost


@pytest.mark.parametrize(
    "method",
    [
        sk.VariationalDropout(data_size=20, warm_up=1.0, log_variance=-3.0),
        sk.StructuredBayesian(data_size=20, log_sigma=-1.0),
        sk.BayesianCompression(data_size=20, warm_up=1.0, log_variance=-3.0),
    ],
    ids=str,
)
def test_gradients_are_those_of_an_explicit_parametrisation(method):
    """At the middle of a warm-up over the whole run: half of the divergence, per example."""
    model, _, _, state = attached(method, pattern=sk.Filter(), steps=10)
    state.step = 5
    made = {site.name: by_hand(method, site) for site in state.sites}
    formulas, costs = ({name: pair[i] for name, pair in made.items()} for i in (0, 1))
    wanted = explicit(formulas, costs, gates_now(state))
    found = gradients_in_step(method, model, state)
    for name in wanted:
        torch.testing.assert_close(found[name][0], wanted[name][0], rtol=1e-10, atol=1e-13)
        for key in wanted[name][1]:
            torch.testing.assert_close(found[name][1][key], wanted[name][1][key], rtol=1e-10, atol=1e-13)


class TestDecisions:
    def test_variational_dropout_removes_what_is_above_the_threshold(self):
        _, _, run, state = attached(sk.VariationalDropout())
        site = state.sites[0]
        log_alpha = torch.linspace(-1, 7, 48, dtype=torch.float64).reshape(8, 6)
        site.tensors["gate.log_variance"].copy_(log_alpha + 2 * site.tensors["latent"].abs().log())
        assert torch.equal(run.finish()["0.weight"].keep, log_alpha < 3)

    def test_a_sparsity_removes_the_highest_log_alpha(self):
        _, _, run, state = attached(sk.VariationalDropout(), sparsity=0.5, allocation=sk.Uniform())
        site = state.sites[0]
        order = torch.randperm(48, generator=torch.Generator().manual_seed(2)).reshape(8, 6)
        site.tensors["gate.log_variance"].copy_(order.double() + 2 * site.tensors["latent"].abs().log())
        assert torch.equal(run.finish()["0.weight"].keep, order < 24)

    def test_weights_of_zero_have_finite_scores(self):
        method = sk.VariationalDropout()
        model, optimizer, run, state = attached(method, sparsity=0.5)
        state.sites[0].tensors["latent"].zero_()
        step(model, optimizer)
        assert all(bool(torch.isfinite(scores).all()) for scores in method.scores(state).values())
        assert bool(torch.isfinite(model[0].weight).all())
        assert run.sparsity == 0.5

    def test_noise_larger_than_the_signal_removes_a_unit(self):
        _, _, run, state = attached(sk.StructuredBayesian())
        state.sites[0].tensors["gate.mu"][:3] = -15.0
        state.sites[0].tensors["gate.log_sigma"][:3] = 1.0
        assert run.finish()["0.weight"].keep.any(dim=1).tolist() == [False] * 3 + [True] * 5

    def test_scales_that_are_noise_remove_a_channel(self):
        _, _, run, state = attached(sk.BayesianCompression())
        state.sites[0].tensors["gate.scale"][2] = 1e-3
        assert run.finish()["0.weight"].keep.any(dim=0).tolist() == [True, True, False, True, True, True]

    def test_a_horseshoe_removes_small_scales(self):
        _, _, run, state = attached(sk.BayesianCompression("horseshoe"))
        start = Horseshoe().mean({k[5:]: v for k, v in state.sites[0].tensors.items() if k.startswith("gate.")})
        torch.testing.assert_close(start, torch.ones_like(start), rtol=0.05, atol=0)
        state.sites[0].tensors["gate.b"][4] -= 10.0
        assert run.finish()["0.weight"].keep.any(dim=0).tolist() == [True, True, True, True, False, True]

    def test_the_weight_of_the_divergence_grows_from_zero(self):
        method = sk.VariationalDropout(data_size=10, warm_up=0.5)
        _, _, _, state = attached(method, steps=8)
        site, found = state.sites[0], []
        for now in (0, 2, 4, 7):
            state.step = now
            found.append(float(method.cost(state, site, site.tensors["latent"], gates_now(state)[site.name])))
        assert found[0] == 0.0
        assert found[1] == pytest.approx(found[2] / 2)
        assert found[2] == pytest.approx(found[3])


def test_bad_settings_say_what_was_expected():
    for kind, bad in (
        (sk.VariationalDropout, {"data_size": 0}),
        (sk.StructuredBayesian, {"warm_up": 2.0}),
        (sk.BayesianCompression, {"prior": "cauchy"}),
        (sk.BayesianCompression, {"learning_rate": 0.0}),
    ):
        with pytest.raises(PruningError, match=next(iter(bad))):
            kind(**bad)
