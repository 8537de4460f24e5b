"""Rounds of the user's own training, and what is left of them after an interruption."""

import copy
import pickle

import pytest
import torch
from torch import nn

import sparsekit as sk
from sparsekit.training import Round

STEPS = 6
METHODS = [
    sk.IterativePruning(),
    sk.LearningRateRewinding(rewind=0.5),
    sk.LotteryTicket(),
    sk.LotteryTicket(rewind=0.3),
    sk.LotteryTicket(reinitialise=True),
]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 8))


class Training:
    """The user's function: draws its data from the global generator, and can be told to fail in a round."""

    def __init__(self, fails_in=None, point=2):
        self.fails_in = fails_in
        self.point = point
        self.rounds = []
        self.ends = []
        self.optimizers = []

    def __call__(self, model, round):
        self.rounds.append((round.number, round.first_step, round.sparsity))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        self.optimizers.append(optimizer)
        round.hold(optimizer)
        for step in range(round.first_step, STEPS):
            if step == self.point:
                round.checkpoint(step)
            if round.number == self.fails_in and step == STEPS - 1:
                raise KeyboardInterrupt
            optimizer.zero_grad()
            batch = torch.randn(16, 20)
            (model(batch[:, :12]) - batch[:, 12:]).square().mean().backward()
            optimizer.step()
        self.ends.append({name: value.clone() for name, value in model.state_dict().items()})


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("fails_in", [0, 2])
def test_an_interruption_changes_nothing(method, fails_in, tmp_path):
    model, twin = network(), network()
    settings = {"sparsity": 0.8, "rounds": 3}
    torch.manual_seed(7)
    whole = Training()
    wanted = sk.iterate(model, whole, method, **settings)
    torch.manual_seed(7)
    with pytest.raises(KeyboardInterrupt):
        sk.iterate(twin, Training(fails_in), method, folder=tmp_path, **settings)
    torch.manual_seed(1234)
    again = Training()
    another = network() if fails_in else twin
    found = sk.iterate(another, again, method, folder=tmp_path, **settings)
    assert again.rounds == whole.rounds[fails_in:]
    for name, value in model.state_dict().items():
        assert torch.equal(value, another.state_dict()[name]), name
    for name, mask in wanted.items():
        assert torch.equal(mask.keep, found[name].keep)
    for optimizer in (*whole.optimizers, *again.optimizers):
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_step_post_hooks
    pickle.loads(pickle.dumps(another))
    assert not any(path.name.endswith("unfinished") for path in tmp_path.iterdir())


def test_a_finished_folder_trains_nothing(tmp_path):
    model = network()
    wanted = sk.iterate(model, Training(), sk.LotteryTicket(), sparsity=0.5, rounds=2, folder=tmp_path)
    other, idle = network(), Training()
    found = sk.iterate(other, idle, sk.LotteryTicket(), sparsity=0.5, rounds=2, folder=tmp_path)
    assert idle.rounds == []
    assert all(torch.equal(wanted[name].keep, found[name].keep) for name in wanted)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    kept = torch.load(tmp_path / "round_2.pt", weights_only=True)
    assert torch.equal(kept["model"]["0.weight"], model[0].weight)
    assert torch.equal(kept["masks"]["0.weight"], wanted["0.weight"].keep)


@pytest.mark.parametrize(
    ("method", "point", "starts"),
    [
        (sk.IterativePruning(), 2, [0, 0, 0]),
        (sk.LearningRateRewinding(rewind=0.5), None, [0, 3, 3]),
        (sk.LearningRateRewinding(rewind=0.5), 2, [0, 2, 2]),
        (sk.LotteryTicket(), None, [0, 0, 0]),
        (sk.LotteryTicket(), 2, [0, 2, 2]),
    ],
)
def test_rounds_begin_where_the_method_says(method, point, starts):
    training = Training(point=point)
    masks = sk.iterate(network(), training, method, sparsity=0.75, rounds=2, allocation=sk.Uniform())
    assert [first for _, first, _ in training.rounds] == starts
    assert [number for number, _, _ in training.rounds] == [0, 1, 2]
    assert [sparsity for _, _, sparsity in training.rounds] == pytest.approx([0.0, 0.5, 0.75])
    for name, mask in masks.items():
        assert mask.sparsity == 0.75
        assert not training.ends[-1][name][~mask.keep].any()


@pytest.mark.parametrize("method", [sk.LearningRateRewinding(), sk.LotteryTicket(), sk.LotteryTicket(rewind=0.1)])
def test_what_a_round_starts_from(method):
    model = network()
    first = copy.deepcopy(model.state_dict())
    begins, marked = [], {}

    def train(model, round):
        begins.append(copy.deepcopy(model.state_dict()))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        round.hold(optimizer)
        for step in range(4):
            if step == 1 and round.number == 0 and method.rewind > 0:
                round.checkpoint(step)
                marked.update(copy.deepcopy(model.state_dict()))
            optimizer.zero_grad()
            batch = torch.randn(16, 20)
            (model(batch[:, :12]) - batch[:, 12:]).square().mean().backward()
            optimizer.step()
        ends.append(copy.deepcopy(model.state_dict()))

    ends = []
    sk.iterate(model, train, method, sparsity=0.75, rounds=2)
    for number in (1, 2):
        if isinstance(method, sk.LearningRateRewinding):
            wanted = ends[number - 1]
        else:
            wanted = marked if method.rewind else first
        for name, value in begins[number].items():
            keep = value != 0 if name in ("0.weight", "4.weight") else torch.ones_like(value, dtype=torch.bool)
            assert torch.equal(value, wanted[name].masked_fill(~keep, 0)), name


def test_zeros_stay_zero_with_the_momentum_of_an_earlier_round():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def train(model, round):
        round.hold(optimizer)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(16, 12)).square().mean().backward()
            optimizer.step()
            weight = model[0].weight
            assert (weight == 0).sum() == (0 if round.number == 0 else 144)

    sk.iterate(model, train, sk.IterativePruning(), sparsity=0.5, rounds=1)


def test_another_call_is_refused(tmp_path):
    call = {"sparsity": 0.5, "rounds": 1, "folder": tmp_path}
    sk.iterate(network(), Training(), sk.LotteryTicket(), **call)
    wide = nn.Sequential(nn.Linear(12, 20), nn.BatchNorm1d(20), nn.Linear(20, 8))
    for model, method, changes, word in (
        (network(), sk.IterativePruning(), {}, "method"),
        (network(), sk.LotteryTicket(), {"sparsity": 0.6}, "sparsity"),
        (network(), sk.LotteryTicket(), {"rounds": 2}, "method"),
        (network(), sk.LotteryTicket(), {"sparsity": None, "pattern": sk.NM(2, 4)}, "pattern"),
        (network(), sk.LotteryTicket(), {"layers": ["0"]}, "layers"),
        (wide, sk.LotteryTicket(), {"layers": ["0"]}, "layers"),
    ):
        with pytest.raises(sk.CheckpointError, match=f"start.pt: expected {word}"):
            sk.iterate(model, Training(), method, **{**call, **changes})
    wide = nn.Sequential(nn.Linear(12, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.ReLU(), nn.Linear(20, 8))
    with pytest.raises(sk.CheckpointError, match=r"expected model \['0.weight \(20, 12\)"):
        sk.iterate(wide, Training(), sk.LotteryTicket(), **call)
    (tmp_path / "start.pt").write_bytes(b"not a file of torch")
    with pytest.raises(sk.CheckpointError, match="expected a checkpoint of iterate"):
        sk.iterate(network(), Training(), sk.LotteryTicket(), **call)


def test_a_function_that_does_not_hold_is_told():
    def train(model, round):
        assert isinstance(round, Round)

    with pytest.raises(sk.PruningError, match=r"round.hold\(optimizer\), got none in round 0"):
        sk.iterate(network(), train, sk.LotteryTicket(), sparsity=0.5, rounds=1)
    with pytest.raises(sk.PruningError, match=r"round.checkpoint\(step\)"):
        sk.iterate(network(), Training(point=None), sk.LotteryTicket(rewind=0.1), sparsity=0.5, rounds=1)
    with pytest.raises(sk.PruningError, match="prunes in rounds"):
        sk.iterate(network(), train, sk.GradualPruning(), sparsity=0.5)
    with pytest.raises(sk.PruningError, match="expected a function"):
        sk.iterate(network(), None, sk.LotteryTicket(), sparsity=0.5)


def test_rounds_follow_from_the_sparsity():
    training = Training()
    masks = sk.iterate(network(), training, sk.LotteryTicket(), sparsity=0.5)
    assert len(training.rounds) == 5
    assert sum(mask.nnz for mask in masks.values()) == (12 * 24 + 24 * 8) // 2
    training = Training()
    masks = sk.iterate(network(), training, sk.LotteryTicket(), pattern=sk.NM(2, 4))
    assert len(training.rounds) == 2
