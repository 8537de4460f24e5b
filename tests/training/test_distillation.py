"""Distillation: the loss by hand, and what is on the model during a run and after it."""

import copy
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import sparsekit as sk
from tests.training.students import data, hooks_of, network, perturbed, sgd


@dataclass
class Output:
    """What language models return."""

    logits: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class Encoder(nn.Module):
    """Two layers over token states ``(texts, tokens, 6)``."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.drop = nn.Dropout(0.0)

    def forward(self, states, attention_mask=None, output_hidden_states=False):
        one = self.first(states).tanh()
        two = self.drop(self.second(one))
        return Output(two, two, (states, one, two) if output_hidden_states else None)


def masked_mean(values, mask):
    return torch.stack([row[keep.bool()].mean(0) for row, keep in zip(values, mask)])


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_logits_are_compared_by_the_formula(temperature):
    model = network()
    teacher = perturbed(model)
    answer = teacher.eval()(data()).detach()
    method = sk.Distillation(teacher=teacher, temperature=temperature, weight=0.7)
    run = sk.attach(model, sgd(model), method, sparsity=0.5, steps=9)
    output = model(data())
    wanted = 0.0
    for mine, right in zip(output, answer):
        p, q = torch.exp(right / temperature), torch.exp(mine / temperature)
        p, q = p / p.sum(), q / q.sum()
        wanted = wanted + (p * (p.log() - q.log())).sum() * temperature**2 / 16
    assert torch.allclose(run.penalty(), 0.7 * wanted, rtol=1e-12, atol=0)
    assert run.penalty() == 0.0  # it has been asked for this batch


def test_a_student_like_its_teacher_has_no_loss_and_no_gradient():
    model = network()[4]
    optimizer = sgd(model)
    for of in ("logits", "embedding", ("logits", "embedding")):
        run = sk.attach(model, optimizer, sk.Distillation(of=of), sparsity=0.0, steps=9)
        model(torch.randn(4, 24, dtype=torch.float64))
        loss = run.penalty()
        assert loss.item() == pytest.approx(0.0, abs=1e-12)
        (slope,) = torch.autograd.grad(loss, [model.weight])
        assert slope.abs().max() < 1e-8
        run.finish()


def test_the_gradient_reaches_the_student_alone():
    model = network()
    teacher = perturbed(model).train()
    before = copy.deepcopy(teacher.state_dict())
    run = sk.attach(model, sgd(model), sk.Distillation(teacher=teacher), sparsity=0.5, steps=9)
    model(data())
    run.penalty().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model[4].parameters())
    assert all(weight.grad is None for weight in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(module.training for module in teacher.modules())


def test_token_states_are_compared_where_the_mask_says():
    """Squared error over the teacher's variance per layer, plus 1 - cosine of mean token states: all by loops."""
    torch.manual_seed(0)
    model = Encoder().double()
    teacher = perturbed(model)
    states = torch.randn(3, 5, 6, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    for hidden in (None, ("first", "second")):
        method = sk.Distillation(of=("hidden", "embedding"), teacher=teacher, hidden=hidden)
        run = sk.attach(model, sgd(model), method, sparsity=0.5, steps=9)
        mine = model(states, attention_mask=mask, output_hidden_states=hidden is None)
        right = teacher(states, attention_mask=mask, output_hidden_states=True)
        found = run.penalty()
        states_of = model(states, mask, True).hidden_states
        run.finish()
        wanted = 0.0
        for own, theirs in zip(states_of[1:], right.hidden_states[1:]):
            if hidden and theirs is right.hidden_states[1]:  # the module's output, before tanh
                pairs = [(a.atanh(), b.atanh()) for a, b in zip(own, theirs)]
            else:
                pairs = list(zip(own, theirs))
            pairs = [(a[j], b[j]) for (a, b), keep in zip(pairs, mask) for j in range(5) if keep[j]]
            flat = torch.cat([b for _, b in pairs])
            error = torch.cat([(a - b) ** 2 for a, b in pairs]).mean()
            wanted = wanted + error / (((flat - flat.mean()) ** 2).sum() / (len(flat) - 1))
        one, two = masked_mean(mine.last_hidden_state, mask), masked_mean(right.last_hidden_state, mask)
        cosine = (one * two).sum(1) / one.norm(dim=1) / two.norm(dim=1)
        assert torch.allclose(found, wanted + 1 - cosine.mean(), rtol=1e-10, atol=0)


def test_an_embedding_is_made_by_the_users_function():
    model = Encoder().double()
    teacher = perturbed(model)
    states = torch.randn(3, 5, 6, dtype=torch.float64)
    seen = []

    def embed(output, inputs):
        seen.append(sorted(inputs))
        return output.last_hidden_state[:, 0]

    run = sk.attach(model, sgd(model), sk.Distillation(of="embedding", teacher=teacher, embed=embed), None, 0.5, 9)
    mine, right = model(states).logits[:, 0], teacher(states).logits[:, 0]
    cosine = torch.stack([a @ b / (a @ a).sqrt() / (b @ b).sqrt() for a, b in zip(mine, right)])
    assert torch.allclose(run.penalty(), 1 - cosine.mean())
    assert seen == [["states"], ["states"]]


@pytest.mark.parametrize("wrap", [tuple, list, lambda pair: {"logits": pair[0]}, lambda pair: Output(logits=pair[0])])
def test_outputs_come_in_many_shapes(wrap):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(12, 8)

        def forward(self, inputs):
            return wrap((self.layer(inputs), inputs))

    model = Wrapped().double()
    teacher = perturbed(model)
    run = sk.attach(model, sgd(model), sk.Distillation(teacher=teacher), sparsity=0.5, steps=9)
    model(data())
    found = run.penalty()
    mine, right = (model.layer(data()) / 2).log_softmax(1), (teacher.layer(data()) / 2).log_softmax(1)
    assert torch.allclose(found, 4 * (right.exp() * (right - mine)).sum(1).mean())


INNER = [
    sk.GradualPruning(every=2),
    sk.SRSTE(),
    sk.SelectiveWeightDecay(),
    sk.LotteryTicket(rounds=2),
    sk.Supermask(),
]


@pytest.mark.parametrize("inner", INNER, ids=lambda inner: type(inner).__name__)
def test_any_method_can_be_inside_and_nothing_is_left_behind(inner):
    model = network()
    twin = copy.deepcopy(model)
    optimizer = sgd(model)
    method = sk.Distillation(inner, of=("logits", "hidden"), hidden=["0"])
    assert method.default_pattern == inner.default_pattern
    assert method.default_allocation == inner.default_allocation
    sparsity = None if inner.default_pattern.fixes_sparsity else 0.5
    run = sk.attach(model, optimizer, method, sparsity=sparsity, steps=20)
    plain = sk.attach(twin, sgd(twin), inner, sparsity=sparsity, steps=20)
    losses = []
    for index in range(20):
        optimizer.zero_grad()
        model(data(index))
        loss = run.penalty()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert hooks_of(model) == 0  # gone with the last step, before finish()
    masks = run.finish()
    assert {name: mask.nnz for name, mask in masks.items()}.keys() == plain.finish().keys()
    assert sum(mask.nnz for mask in masks.values()) == (12 * 24 + 24 * 8) // 2
    pickle.loads(pickle.dumps(model))
    copy.deepcopy(model)
    assert all(value > 0 for value in losses[1:])


def test_what_the_method_inside_says_of_itself():
    for method in INNER:
        made = sk.Distillation(method)
        for name in ("default_pattern", "default_allocation", "learns_sparsity", "redistributes"):
            assert getattr(made, name) == getattr(method, name)
            assert getattr(sk.Distillation, name) == getattr(sk.GradualPruning, name)
    model = network()
    with pytest.raises(sk.CalibrationError, match="batches: Wanda"):
        sk.attach(model, sgd(model), sk.Distillation(sk.GradualPruning(sk.Wanda())), sparsity=0.5, steps=9)


def test_the_penalty_inside_is_added():
    decay = sk.SelectiveWeightDecay(start=1e3)
    teacher = perturbed(network()[4])
    found = []
    for method in (decay, sk.Distillation(teacher=teacher), sk.Distillation(decay, teacher=teacher)):
        model = network()[4]
        run = sk.attach(model, sgd(model), method, sparsity=0.5, steps=9)
        before = run.penalty().item()
        model(torch.ones(4, 24, dtype=torch.float64))
        found.append(run.penalty().item())
    assert before == found[0] > 0
    assert found[1] > 0
    assert found[2] == pytest.approx(found[0] + found[1], rel=1e-12)
