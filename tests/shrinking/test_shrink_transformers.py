"""Networks of transformers, small and with random weights."""

import copy

import pytest
import torch
from small_networks import assert_equal, shaken, weights

import sparsekit as sk

transformers = pytest.importorskip("transformers")


def convolutions(name, module):
    return isinstance(module, torch.nn.Conv2d)


@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
def test_resnet(layer_type):
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 24], depths=[2, 2], layer_type=layer_type, num_labels=5
    )
    model = shaken(transformers.ResNetForImageClassification(config))
    example = {"pixel_values": torch.randn(2, 3, 32, 32).double()}
    groups = sk.pruning.coupled(model, example, sk.Filter(), convolutions)
    masks = sk.prune(copy.deepcopy(model), sk.FilterNorm(), sk.Filter(), 0.5, layers=convolutions, groups=groups)
    small = sk.shrink(model, masks, example)
    stream = small.resnet.encoder.stages[1].layers[1].layer[-1].convolution
    assert stream.out_channels == small.classifier[1].in_features == 12 + (layer_type == "basic")
    assert weights(small) < 0.45 * weights(model)
    assert_equal(small, model, masks, example, {"pixel_values": torch.randn(1, 3, 48, 40).double()})


def test_mobilenet():
    config = transformers.MobileNetV2Config(depth_multiplier=0.25, image_size=32, num_labels=5, expand_ratio=2.0)
    model = shaken(transformers.MobileNetV2ForImageClassification(config))
    for value in model.parameters():
        if value.dim() > 1:
            value.data /= value[0].numel() ** 0.5
    example = {"pixel_values": torch.randn(1, 3, 32, 32).double()}
    groups = sk.pruning.coupled(model, example, sk.Filter(), convolutions)
    masks = sk.prune(copy.deepcopy(model), sk.FilterNorm(), sk.Filter(), 0.5, layers=convolutions, groups=groups)
    small = sk.shrink(model, masks, example)
    depthwise = [m for m in small.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1]
    assert all(m.groups == m.in_channels == m.out_channels for m in depthwise)
    assert weights(small) < 0.6 * weights(model)
    assert_equal(small, model, masks, example, {"pixel_values": torch.randn(1, 3, 64, 64).double()})


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bert(attention):
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32
    )
    config._attn_implementation = attention
    model = shaken(transformers.BertModel(config, add_pooling_layer=False))
    example = {"input_ids": torch.arange(10).reshape(2, 5), "attention_mask": torch.ones(2, 5, dtype=torch.long)}
    example["attention_mask"][1, 3:] = 0
    pruned = copy.deepcopy(model)
    groups = sk.pruning.coupled(model, example, sk.Head(4))
    names = [name.removesuffix(".weight") for group in groups for name in group.names]
    masks = sk.prune(pruned, sk.Magnitude(), sk.Head(4), 0.5, layers=names, groups=groups)
    inner = [f"encoder.layer.{i}.intermediate.dense" for i in range(2)]
    masks |= sk.prune(pruned, sk.FilterNorm(), sk.Filter(), 0.25, layers=inner)
    small = sk.shrink(model, masks, example)
    for block in small.encoder.layer:
        heads = block.attention.self
        assert heads.query.out_features == heads.value.out_features == heads.all_head_size == 8
        assert (heads.num_attention_heads, heads.attention_head_size) == (2, 4)
        assert block.attention.output.dense.weight.shape == (16, 8)
        assert (block.intermediate.dense.out_features, block.output.dense.in_features) == (24, 24)
    longer = {"input_ids": torch.arange(7).reshape(1, 7), "attention_mask": torch.ones(1, 7, dtype=torch.long)}
    assert_equal(small, model, masks, example, longer)
