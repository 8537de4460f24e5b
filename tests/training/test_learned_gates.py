"""Gated methods, each against what its paper says."""

import math

import pytest
import torch

import sparsekit as sk
from sparsekit.errors import PruningError
from sparsekit.training.gates.unit_gates import over_weights
from tests.training.gated import attached, gates_now, network, step


def test_trained_gates_pay_l1_and_l2_and_stay_in_the_unit_interval():
    method = sk.TrainedGates(l1=0.7, l2=0.4)
    _, _, _, state = attached(method)
    gate = torch.linspace(0, 1, 48, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        method.cost(state, state.sites[0], state.sites[0].weight, {"g": gate}).backward()
    torch.testing.assert_close(gate.grad, 0.7 * (1 - 2 * gate.detach()) + 0.4)
    model, optimizer, run, state = attached(sk.TrainedGates(learning_rate=3.0), sparsity=0.5)
    step(model, optimizer)
    gates = torch.cat([gate["g"] for gate in gates_now(state).values()])
    assert gates.min() == 0.0
    assert gates.max() == 1.0
    assert run.step == 1


def test_gates_are_drawn_with_their_probability():
    method = sk.TrainedGates(start=0.3)
    _, _, _, state = attached(method)
    site, shown = state.sites[0], []
    with torch.no_grad():
        for _ in range(400):
            method.show(state)
            shown.append(site.read() != 0)
    share = torch.stack(shown).double().mean()  # of 19 200 draws
    assert abs(float(share) - 0.3) < 5 * math.sqrt(0.21 / 19200)


def test_rounded_gates_decide_without_a_sparsity():
    method = sk.TrainedGates()
    model, _, run, state = attached(method, pattern=sk.Filter())
    before = {site.name: site.tensors["latent"].clone() for site in state.sites}
    state.sites[0].tensors["gate.g"].copy_(torch.tensor([0.0, 0.2, 0.5, 0.51, 0.9, 1.0, 0.49, 0.6]))
    masks = run.finish()
    kept = torch.tensor([False, False, False, True, True, True, False, True])
    assert torch.equal(masks["0.weight"].keep, kept[:, None].expand(8, 6))
    torch.testing.assert_close(model[0].weight.detach(), before["0.weight"] * kept[:, None])


class TestHardConcrete:
    method = sk.L0HardConcrete()

    @pytest.mark.parametrize("log_alpha", [-3.0, -1.0, 0.0, 2.0])
    def test_the_chance_is_that_of_draws_and_both_ends_have_some(self, log_alpha):
        u = torch.rand(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        gates = self.method.gate(torch.tensor(log_alpha, dtype=torch.float64), u)
        chance = float(self.method.chance(torch.tensor(log_alpha, dtype=torch.float64)))
        assert abs(float((gates > 0).double().mean()) - chance) < 4e-3
        assert float((gates == 0).double().mean()) > 1e-3
        assert float((gates == 1).double().mean()) > 1e-3
        assert float(((gates > 0) & (gates < 1)).double().mean()) > 0.05

    def test_the_gate_without_noise_is_not_the_mean(self):
        log_alpha = torch.tensor(-2.0, dtype=torch.float64)
        u = torch.rand(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        assert abs(float(self.method.gate(log_alpha)) - 0.043) < 5e-4
        assert abs(float(self.method.gate(log_alpha, u).mean()) - 0.143) < 2e-3

    def test_the_cost_grows_with_log_alpha(self):
        _, _, _, state = attached(self.method)
        site = state.sites[0]
        costs = [
            float(self.method.cost(state, site, site.weight.detach(), {"log_alpha": torch.full((6,), value)}))
            for value in torch.linspace(-4, 4, 9).tolist()
        ]
        assert costs == sorted(costs)
        assert costs[0] < costs[-1]

    def test_it_closes_where_the_gate_does(self):
        edge = torch.tensor(self.method.cut, dtype=torch.float64)
        assert float(self.method.gate(edge - 1e-6)) == 0.0
        assert float(self.method.gate(edge + 1e-6)) > 0.0

    def test_log_alpha_stays_within_its_limits(self):
        method = sk.L0HardConcrete(learning_rate=100.0, strength=1.0)
        model, optimizer, _, state = attached(method, pattern=sk.Unstructured())
        step(model, optimizer)
        for gates in gates_now(state).values():
            assert gates["log_alpha"].abs().max() == pytest.approx(math.log(100))


def test_auto_prune_does_not_look_at_the_size_of_weights():
    method = sk.AutoPrune()
    moved = []
    for factor in (1.0, 2.0, -1.0):
        _, _, _, state = attached(method)
        site = state.sites[0]
        site.tensors["latent"].mul_(factor)
        site.set_gradient(torch.linspace(-1, 1, 48, dtype=torch.float64).reshape(8, 6))
        with torch.no_grad():
            method.before_step(state)
        moved.append(site.tensors["gate.v"].grad.clone())
    cost = 1 / (48 + 32)
    torch.testing.assert_close(moved[1], moved[0], rtol=0, atol=0)
    torch.testing.assert_close(moved[2] - cost, -(moved[0] - cost))


class TestContinuousSparsification:
    def test_the_sigmoid_becomes_a_step(self):
        method = sk.ContinuousSparsification(beta=1e4)
        _, _, _, state = attached(method)
        site = state.sites[0]
        s = torch.linspace(-1, 1, 48, dtype=torch.float64)
        starts = method.effective(state, site, torch.ones(8, 6, dtype=torch.float64), {"s": s})
        torch.testing.assert_close(starts.flatten(), 2 / (1 + torch.exp(-s)))
        method.anneal(state, 9)
        assert state.numbers["beta"] == pytest.approx(1e4)
        ends = method.effective(state, site, torch.ones(8, 6, dtype=torch.float64), {"s": s})
        torch.testing.assert_close(ends.flatten(), 2.0 * (s > 0).double())

    def test_a_lower_start_removes_more(self):
        found = []
        for s0 in (-0.1, 0.0, 0.05):
            method = sk.ContinuousSparsification(s0=s0, strength=0.0)
            model, optimizer, run, _ = attached(method, steps=30)
            for _ in range(30):
                step(model, optimizer)
            found.append(run.sparsity)
        assert found[0] > found[1] > found[2]

    def test_between_rounds_s_is_clamped_to_its_start(self):
        method = sk.ContinuousSparsification(s0=0.02, rounds=3, beta=50.0)
        model, optimizer, _, state = attached(method, steps=30)
        betas, clamped = [], 0
        for _ in range(30):
            before = gates_now(state)
            beta = state.numbers["beta"]
            step(model, optimizer)
            betas.append(beta)
            if state.numbers["beta"] < beta:
                clamped += 1
                for name, gates in gates_now(state).items():
                    assert gates["s"].max() <= 0.02
                    sure = before[name]["s"] < -0.02  # a step moves s by about 0.01
                    assert bool((gates["s"][sure] < 10 * before[name]["s"][sure]).all())
        assert clamped == 2
        torch.testing.assert_close(betas[:10], [50.0 ** (i / 9) for i in range(10)])
        assert betas[10] == betas[20] == 1.0

    def test_what_stays_keeps_the_factor_of_an_open_gate(self):
        model, _, run, state = attached(sk.ContinuousSparsification(s0=-0.2), sparsity=0.5)
        before = state.sites[0].tensors["latent"].clone()
        keep = run.finish()["0.weight"].keep
        torch.testing.assert_close(model[0].weight.detach(), before * keep * (1 + math.exp(0.2)))


class TestMovement:
    def test_scores_fall_by_gradient_times_weight(self):
        for pattern in (sk.Unstructured(), sk.Block(2, 2), sk.Filter()):
            method = sk.MovementPruning(adaptive=False, learning_rate=0.5)
            model, optimizer, _, state = attached(method, pattern=pattern, sparsity=0.5)
            reference = network()
            step(model, optimizer)
            start = network()
            step(reference, torch.optim.SGD(reference.parameters(), lr=0.1))
            for site in state.sites:
                name = site.name
                moved = -0.5 * reference.get_parameter(name).grad * start.get_parameter(name)
                torch.testing.assert_close(
                    site.tensors["gate.s"], pattern.pool(moved).flatten().detach(), rtol=1e-12, atol=1e-15
                )

    def test_the_share_that_goes_follows_the_cubic(self):
        method = sk.MovementPruning(begin=0.2, end=0.8)
        model, optimizer, run, _ = attached(method, steps=20, sparsity=0.75)
        for now in range(20):
            share = 0.75 * (1 - (1 - min(1.0, max(0.0, (now - 4) / 12))) ** 3)
            assert run.sparsity == pytest.approx(math.floor(share * 80 + 1e-7) / 80, abs=1e-12)
            shown = sum(int((model.get_parameter(name) == 0).sum()) for name in ("0.weight", "2.weight"))
            assert shown == math.floor(share * 80 + 1e-7)
            step(model, optimizer)
        assert run.sparsity == 0.75

    def test_it_differs_from_magnitude_where_large_weights_shrink(self):
        """One input that is noise has a large weight that falls, another has a small one that grows."""
        torch.manual_seed(0)
        layer = torch.nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[1.0, 0.1]]))
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.02)
        run = sk.attach(layer, optimizer, sk.MovementPruning(begin=1.0, end=1.0), sparsity=0.5, steps=20)
        inputs = torch.randn(64, 2)
        for _ in range(20):
            optimizer.zero_grad()
            (layer(inputs)[:, 0] - inputs[:, 1]).square().mean().backward()
            optimizer.step()
        latent = run._state.sites[0].tensors["latent"]
        assert latent[0, 0] > latent[0, 1]
        assert run.finish()["weight"].keep.tolist() == [[False, True]]

    def test_without_a_sparsity_a_threshold_decides(self):
        method = sk.MovementPruning(threshold=0.3, strength=0.0)
        _, _, run, state = attached(method)
        for site in state.sites:
            site.tensors["gate.s"].copy_(torch.linspace(-2, 2, site.keep.numel()))
        keep = run.finish()["0.weight"].keep.flatten()
        assert torch.equal(keep, torch.sigmoid(torch.linspace(-2, 2, 48, dtype=torch.float64)) > 0.3)


class TestPressure:
    """Where it is known how much goes, costs rise and fall so that gates decide before the end."""

    def test_costs_rise_while_too_few_are_closed_and_fall_while_too_many(self):
        method = sk.TrainedGates()
        _, _, _, state = attached(method, sparsity=0.5, steps=100)
        method.anneal(state, 50)
        assert state.numbers["pressure"] == pytest.approx(math.exp(0.07))
        for site in state.sites:
            site.tensors["gate.g"].zero_()
        method.anneal(state, 51)
        assert state.numbers["pressure"] == pytest.approx(1.0)

    def test_without_a_sparsity_costs_are_as_given(self):
        method = sk.TrainedGates()
        model, optimizer, _, state = attached(method)
        step(model, optimizer)
        assert state.numbers["pressure"] == 1.0

    def test_a_given_sparsity_is_nearly_reached_before_the_end(self):
        method = sk.AutoPrune()
        model, optimizer, run, state = attached(method, sparsity=0.5, steps=200)
        for _ in range(199):
            step(model, optimizer)
        closed = sum(int((gates["v"] <= 0).sum()) for gates in gates_now(state).values())
        assert 0.4 < closed / 80 < 0.6
        step(model, optimizer)
        assert run.sparsity == 0.5


def test_units_without_a_gate_stay():
    """A block pattern that does not divide leaves rows and columns over; they have no gate and no cost."""
    method = sk.AutoPrune()
    _, _, run, state = attached(method, pattern=sk.Block(3, 4))
    site = state.sites[0]
    site.tensors["gate.v"].fill_(-1.0)
    spread = over_weights(site, site.tensors["gate.v"])
    assert bool((spread[6:] == 1).all())
    assert bool((spread[:, 4:] == 1).all())
    keep = run.finish()["0.weight"].keep
    assert keep.sum() == 48 - 24


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sk.TrainedGates(l1=-1.0), "l1, l2"),
        (lambda: sk.TrainedGates(start=1.5), "start"),
        (lambda: sk.L0HardConcrete(gamma=0.1), "gamma"),
        (lambda: sk.L0HardConcrete(drop_rate=0.0), "drop_rate"),
        (lambda: sk.AutoPrune("relu"), "surrogate"),
        (lambda: sk.AutoPrune(start=0.0), "start"),
        (lambda: sk.ContinuousSparsification(beta=0.5), "beta"),
        (lambda: sk.ContinuousSparsification(rounds=0), "rounds"),
        (lambda: sk.MovementPruning(begin=0.9, end=0.1), "end"),
        (lambda: sk.MovementPruning(threshold=1.0), "threshold"),
        (lambda: attached(sk.ContinuousSparsification(rounds=11)), "rounds"),
    ],
)
def test_bad_settings_say_what_was_expected(make, words):
    with pytest.raises(PruningError, match=words):
        make()
