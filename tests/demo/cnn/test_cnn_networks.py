import pytest
import torch
from torch import nn

from sparsekit.demo.cnn.dense import contenders, dense_ways
from sparsekit.demo.cnn.network import BasicBlock, fresh
from sparsekit.demo.cnn.networks import NETWORKS, images, load_network, thin_out
from sparsekit.patterns import KernelSlice, Unstructured


def test_a_block_adds_what_it_skips():
    torch.manual_seed(0)
    block = BasicBlock(3, 5, stride=2).eval()
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        y = block.norm2(block.conv2(block.norm1(block.conv1(x)).clamp(min=0)))
        assert torch.allclose(block(x), (y + block.shortcut[1](block.shortcut[0](x))).clamp(min=0))
        same = BasicBlock(3, 3, stride=1).eval()
        nn.init.zeros_(same.norm2.weight)
        assert torch.equal(same(x), x.clamp(min=0))


def test_a_fresh_network_is_the_same_each_time_and_draws_no_random_numbers():
    torch.manual_seed(1)
    one = fresh((4, 8))
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    assert torch.equal(one[0].weight, fresh((4, 8))[0].weight)
    assert one(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.fixture(scope="module")
def mobilenet():
    pytest.importorskip("transformers")
    return load_network("MobileNetV2")


def test_random_weights_neither_lose_nor_blow_up_what_they_get(mobilenet):
    with torch.no_grad():
        logits = mobilenet(images())
    assert logits.shape == (1, 1000)
    assert 0.05 < logits.std() < 20.0
    torch.manual_seed(5)
    again = load_network("MobileNetV2").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in mobilenet.state_dict().items())


def test_all_but_the_first_and_the_depthwise_are_pruned(mobilenet):
    convolutions = {name: m for name, m in mobilenet.named_modules() if isinstance(m, nn.Conv2d)}
    first = next(iter(convolutions))
    depthwise = [name for name, m in convolutions.items() if m.groups > 1]
    assert len(depthwise) == 17
    model = load_network("MobileNetV2")
    masks = thin_out(model, Unstructured(), 0.9)
    assert set(masks) == {f"{name}.weight" for name in convolutions} - {f"{n}.weight" for n in (first, *depthwise)}
    for name, mask in masks.items():
        weight, before = model.get_parameter(name), mobilenet.get_parameter(name).abs()
        assert mask.sparsity == pytest.approx(0.9, abs=2e-3)
        assert torch.equal(weight != 0, mask.keep)
        assert before[mask.keep].min() >= before[~mask.keep].max()
    with torch.no_grad():
        assert 0.05 < model(images()).std() < 20.0


def test_the_networks_are_those_that_are_named():
    pytest.importorskip("transformers")
    names = {name: sum(isinstance(m, nn.Conv2d) for m in make().modules()) for name, make in NETWORKS.items()}
    assert names == {"ResNet-50": 53, "MobileNetV2": 52}


def test_whole_kernels_go_where_there_are_kernels():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, stride=16), nn.BatchNorm2d(4))
    masks = thin_out(model, KernelSlice(), 0.75)
    assert list(masks) == ["2.weight"]
    assert masks["2.weight"].keep.flatten(2).all(dim=2).sum() == masks["2.weight"].nnz // 9 == 4
    with torch.no_grad():
        reached = model[2](model[1](model[0](images(2))))
    assert torch.allclose(model[3].running_mean, reached.mean(dim=(0, 2, 3)), atol=1e-5)


def test_every_dense_way_computes_the_model(digits):
    model = fresh((4, 8)).eval()
    x = digits.images[:3]
    ways = dense_ways(model, x)
    layouts = ("", " NHWC")
    assert set(ways) == {f"{way}{layout}" for way in ("eager", "frozen", "frozen for oneDNN") for layout in layouts}
    with torch.no_grad():
        expected = model(x)
        for name, call in ways.items():
            assert torch.allclose(call(), expected, atol=1e-4), name
    assert set(contenders(ways)) <= set(ways)


def test_only_ways_near_the_fastest_stay_in_the_race(monkeypatch):
    times = {"a": 1.0, "b": 1.4, "c": 1.6}
    monkeypatch.setattr("sparsekit.demo.cnn.dense.fastest", lambda ways, budget: times)
    assert list(contenders(dict.fromkeys(times, lambda: torch.zeros(1)))) == ["a", "b"]
