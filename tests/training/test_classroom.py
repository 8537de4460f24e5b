"""Where a student is watched: what is seen, when hooks go, and what comes back with a run."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import sparsekit as sk
from sparsekit.training.teaching.copying import frozen_copy
from tests.training.students import data, hooks_of, network, perturbed, sgd


def test_nothing_is_seen_in_evaluation_and_hooks_go_with_the_run():
    model = network()
    run = sk.attach(model, sgd(model), sk.Distillation(), sparsity=0.5, steps=9)
    assert hooks_of(model) == 2
    with torch.no_grad():
        model(data())
    model.eval()(data())
    assert run.penalty() == 0.0
    other = copy.deepcopy(model.train())
    other(data())
    assert run.penalty() == 0.0
    run.finish()
    assert hooks_of(model) == 0
    assert run.penalty() == 0.0


def test_several_batches_are_averaged_and_those_of_old_steps_forgotten():
    model = network()
    teacher = perturbed(model)
    for module in (model, teacher):
        module[3].p = 0.0
        module[1].eval()
    model[1].eval()
    optimizer = sgd(model)
    run = sk.attach(model, optimizer, sk.Distillation(teacher=teacher), sparsity=0.0, steps=9)
    values = []
    for seed in (1, 2):
        model(data(seed))
        values.append(run.penalty().item())
    model(data(1))
    model(data(2))
    assert run.penalty().item() == pytest.approx(sum(values) / 2, rel=1e-12)
    model(data(1)).sum().backward()
    optimizer.step()
    assert run.penalty() == 0.0


def test_a_copied_teacher_comes_back_with_the_run():
    model = network()
    optimizer = sgd(model)
    run = sk.attach(model, optimizer, sk.Distillation(), sparsity=0.5, steps=9)
    (model(data()).square().mean() + run.penalty()).backward()
    optimizer.step()
    saved = run.state_dict()
    torch.manual_seed(5)
    other = nn.Sequential(nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 8)).double()
    again = sk.attach(other, sgd(other), sk.Distillation(), sparsity=0.5, steps=9)
    again.load_state_dict(saved)
    other.load_state_dict(model.state_dict())
    losses = []
    for net, its_run in ((model, run), (other, again)):
        torch.manual_seed(3)
        net(data(4))
        losses.append(its_run.penalty().item())
    assert losses[0] == losses[1] > 0


def test_a_sharded_model_is_copied_whole():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        model, twin = network(), network().eval()
        mesh = init_device_mesh("cpu", (1,))
        for module in (model[4], model):
            fully_shard(module, mesh=mesh)
        teacher = frozen_copy(model)
        assert type(teacher) is nn.Sequential
        assert type(teacher[4]) is nn.Linear
        assert torch.equal(teacher(data()), twin(data()))
        assert hooks_of(teacher) == 0
        assert hooks_of(model) > 0
        assert not any(weight.requires_grad for weight in teacher.parameters())
        run = sk.attach(model, sgd(model), sk.Distillation(), sparsity=0.5, steps=9)
        model(data())
        assert run.penalty() > 0
        run.finish()
    finally:
        torch.distributed.destroy_process_group()


def test_the_teacher_answers_under_the_same_autocast():
    model = network().float()
    seen = []
    teacher = perturbed(model.double()).float()
    model.float()
    teacher[4].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    run = sk.attach(model, sgd(model), sk.Distillation(teacher=teacher), sparsity=0.5, steps=9)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(data().float()).dtype == torch.bfloat16
    assert seen == [torch.bfloat16]
    assert run.penalty().dtype == torch.float32


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_model_that_is_attached_before_its_first_call():
    model = network()
    teacher = perturbed(model)
    for module in (model, teacher):
        module[1].eval()
    compiled = torch.compile(model, backend="eager")
    model[3].p = 0.0
    method = sk.Distillation(of=("logits", "hidden"), teacher=teacher, hidden=["2"])
    run = sk.attach(compiled, sgd(model), method, sparsity=0.0, steps=9)
    compiled(data())
    found = run.penalty()
    model(data())
    assert torch.allclose(found, run.penalty())
    assert found > 0
    run.finish()
    assert hooks_of(model) == 0


def test_a_step_without_a_batch_warns_once():
    model = network()
    optimizer = sgd(model)
    run = sk.attach(model, optimizer, sk.Distillation(), sparsity=0.5, steps=9)
    model.eval()
    (model(data()).sum() + run.penalty()).backward()
    with pytest.warns(sk.SparsekitWarning, match="has seen no batch"):
        optimizer.step()
    run.penalty()
    optimizer.step()


def test_what_cannot_be_is_refused():
    model = network()
    for make, text in (
        (lambda: sk.Distillation(of="answers"), "of: expected 'logits', 'embedding', 'hidden'"),
        (lambda: sk.Distillation(method=sk.Magnitude()), "method: expected a TrainingMethod"),
        (lambda: sk.Distillation(method=sk.Distillation()), "another Distillation"),
        (lambda: sk.Distillation(temperature=0.0), "temperature"),
    ):
        with pytest.raises(sk.PruningError, match=text):
            make()
    with pytest.raises(sk.PruningError, match="hidden: expected names of modules, got 'no'"):
        sk.attach(model, sgd(model), sk.Distillation(sk.SRSTE(), of="hidden", hidden=["no"]), steps=9)
    assert (model[0].weight != 0).all()
    run = sk.attach(model, sgd(model), sk.Distillation(teacher=nn.Linear(12, 7).double()), sparsity=0.5, steps=9)
    model(data())
    with pytest.raises(sk.PruningError, match=r"shape \(16, 7\), got \(16, 8\)"):
        run.penalty()
    run.finish()
    run = sk.attach(model, sgd(model), sk.Distillation(of="hidden"), sparsity=0.5, steps=9)
    model(data())
    with pytest.raises(sk.PruningError, match="output_hidden_states=True"):
        run.penalty()
    assert "Linear" not in repr(run.method)
