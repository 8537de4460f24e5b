"""A compiled model in one safetensors file: no pickle, packed weights at their packed size, every bit kept.

The tensors are those of the model's state dict. The metadata entry ``sparsekit`` is JSON: ``format_version``;
``layers``, for each packed layer what its ``describe`` says: which layer it is (a linear one where nothing is said),
its format, integers, kernels by input size, sizes, dtype and whether it has a bias; or the layer that it is
``same_as``, and what it has ``absorbed``; ``aliases``, for each key whose tensor is stored under another key, that key;
``channels_last``, the keys of the dense weights that are to lie in this order in memory.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sparsekit.batches import expect_module
from sparsekit.errors import CheckpointError, FormatError, InputError, LayerError
from sparsekit.formats import format_named
from sparsekit.nn import PackedLayer, SparseLinear, layer_named, module_at, replace_module
from sparsekit.nn.activation import activation_of
from sparsekit.nn.packed import PREFIX

FORMAT_VERSION = 1
_EXTRA = "_extra_state"
Header = dict[str, Any]


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write ``model`` to ``path``; a file that is there is replaced in one step, or stays as it was.

    Raises:
        LayerError: ``model`` is not a module.
        CheckpointError: the state holds something other than tensors with data, or the file cannot be written.
    """
    target = Path(path)
    expect_module(model)
    layers = _packed_layers(model)
    state = _state_of(model, layers)
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.is_meta:
            got = "a tensor on the meta device" if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(f"{target}: {key}: expected a tensor with data, got {got}")
    tensors, aliases = _without_aliases(state)
    last = [key for key, tensor in state.items() if _is_channels_last(tensor)]
    header = {"format_version": FORMAT_VERSION, "layers": _describe(layers), "aliases": aliases, "channels_last": last}
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.unfinished")
    try:
        save_file(tensors, unfinished, metadata={"format": "pt", "sparsekit": json.dumps(header)})
        os.replace(unfinished, target)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{target}: cannot be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], into: nn.Module) -> nn.Module:
    """Return a copy of ``into`` with the layers and weights of the file.

    Args:
        path: what :func:`save` wrote.
        into: a model of the same architecture, dense or compiled, with data; it stays as it is.

    Returns:
        A new model on the devices of ``into``: the layers that the file lists are packed, all others dense. Weights
        that were saved in channels_last order lie in it again.

    Raises:
        LayerError: ``into`` is not a module.
        CheckpointError: the file cannot be read, is damaged, or does not belong to ``into``; names file and key.
    """
    source = str(path)
    expect_module(into, "into")
    described, tensors = _read(source)
    for key, value in into.state_dict().items():
        if isinstance(value, Tensor) and value.is_meta:
            raise CheckpointError(f"{source}: {key}: expected a model with data, got one on the meta device")
    model = _with_layers(source, copy.deepcopy(into), described, tensors)
    layers = _packed_layers(model)
    _check_keys(source, _state_of(model, layers), tensors)
    extra = {_key(name, _EXTRA): layer.get_extra_state() for name, layer in layers.items()}
    try:
        model.load_state_dict({**tensors, **extra}, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{source}: {error}") from error
    for key, tensor in _state_of(model, layers, keep_vars=True).items():
        if _is_channels_last(tensors[key]):
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return model


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def _key(layer: str, part: str) -> str:
    return f"{layer}.{part}" if layer else part


def _packed_layers(model: nn.Module) -> dict[str, PackedLayer]:
    """Every packed layer under every name it has."""
    named = model.named_modules(remove_duplicate=False)
    return {name: module for name, module in named if isinstance(module, PackedLayer)}


def _state_of(model: nn.Module, layers: Mapping[str, PackedLayer], keep_vars: bool = False) -> dict[str, Any]:
    """The state dict without what the header holds."""
    described = {_key(name, _EXTRA) for name in layers}
    return {key: value for key, value in model.state_dict(keep_vars=keep_vars).items() if key not in described}


def _without_aliases(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Split ``state`` into tensors that share no memory, on the CPU, and the keys that repeat one of them."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    storages: set[int] = set()
    for key, tensor in state.items():
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and place in first:
            aliases[key] = first[place]
            continue
        first[place] = key
        storage = tensor.untyped_storage()
        alone = storage.data_ptr() not in storages and tensor.is_contiguous()
        storages.add(storage.data_ptr())
        plain = tensor.detach() if alone else tensor.detach().clone(memory_format=torch.contiguous_format)
        tensors[key] = plain.cpu()
    return tensors, aliases


def _describe(layers: Mapping[str, PackedLayer]) -> dict[str, Header]:
    described: dict[str, Header] = {}
    first: dict[PackedLayer, str] = {}
    for name, layer in layers.items():
        if layer in first:
            described[name] = {"same_as": first[layer]}
            continue
        first[layer] = name
        described[name] = layer.describe()
    return described


def _read(source: str) -> tuple[dict[str, Header], dict[str, Tensor]]:
    """Return what the header says of each layer, and all tensors, those stored under another key included."""
    try:
        with safe_open(source, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{source}: cannot be read as safetensors: {error}") from error
    if "sparsekit" not in metadata:
        raise CheckpointError(f"{source}: expected metadata with the key 'sparsekit', got {sorted(metadata)}")
    try:
        header = json.loads(metadata["sparsekit"])
        version, layers, aliases = header["format_version"], dict(header["layers"]), dict(header["aliases"])
        channels_last = tuple(map(str, header.get("channels_last", ())))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{source}: its header is damaged: {error!r}") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{source}: expected format version {FORMAT_VERSION}, got {version!r}")
    for key, stored in aliases.items():
        if stored not in tensors:
            raise CheckpointError(f"{source}: {key}: expected it stored as {stored!r}, found no such tensor")
        tensors[key] = tensors[stored]
    for key in channels_last:
        if key not in tensors or tensors[key].dim() != 4:
            raise CheckpointError(f"{source}: {key}: expected a tensor of 4 dimensions to be channels_last, found none")
        tensors[key] = tensors[key].contiguous(memory_format=torch.channels_last)
    return layers, tensors


def _with_layers(
    source: str, model: nn.Module, described: Mapping[str, Header], tensors: Mapping[str, Tensor]
) -> nn.Module:
    """Put a packed layer where the header lists one, and a dense one where only ``model`` has it packed."""
    for name, layer in _packed_layers(model).items():
        if name not in described:
            model = replace_module(model, name, layer.to_dense())
    for name, entry in described.items():
        try:
            old = module_at(model, name)
            new = module_at(model, entry["same_as"]) if "same_as" in entry else _layer(name, entry, tensors, old)
        except (LayerError, FormatError, InputError) as error:
            raise CheckpointError(f"{source}: layer {name}: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{source}: layer {name}: its header is damaged: {error!r}") from error
        model = replace_module(model, name, new)
        for gone in new.absorbed if isinstance(new, PackedLayer) else ():
            model = _without(source, model, gone)
    return model


def _without(source: str, model: nn.Module, name: str) -> nn.Module:
    """Take out a layer whose work another one does."""
    try:
        old = module_at(model, name)
    except LayerError as error:
        raise CheckpointError(f"{source}: {error}") from error
    if not isinstance(old, nn.BatchNorm2d | nn.Identity) and activation_of(old) is None:
        raise CheckpointError(
            f"{source}: layer {name}: expected a BatchNorm2d, an activation or an Identity, got {type(old).__name__}"
        )
    return model if isinstance(old, nn.Identity) else replace_module(model, name, nn.Identity().train(old.training))


def _layer(name: str, entry: Header, tensors: Mapping[str, Tensor], old: nn.Module) -> PackedLayer:
    """Build one packed layer in the place of ``old``."""
    cls = layer_named(entry.get("layer", SparseLinear.kind))
    if not isinstance(old, cls | cls.dense_class):
        raise LayerError(f"expected a {cls.dense_class.__name__} to replace, got {type(old).__name__}")
    family = format_named(entry["format"])
    parts = {part: _tensor(tensors, _key(name, PREFIX + part)) for part in family.tensor_names()}
    packed = family.from_parts(parts, {key: int(value) for key, value in entry["integers"].items()})
    packed.validate()
    bias = _tensor(tensors, _key(name, "bias")) if entry["bias"] else None
    if str(packed.dtype) != f"torch.{entry['dtype']}":
        raise LayerError(f"expected {entry['dtype']} values as the header says, got {packed.dtype}")
    new = cls.rebuild(packed, None if bias is None else bias.clone(), entry, old)
    new.layer_name, new.absorbed = name, tuple(str(gone) for gone in entry.get("absorbed", ()))
    if new.bias is not None and old.bias is not None:
        new.bias.requires_grad_(old.bias.requires_grad)
    stored = old.packed.values if isinstance(old, PackedLayer) else old.weight
    return new.to(stored.device).train(old.training)


def _tensor(tensors: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in tensors:
        raise LayerError(f"expected a tensor {key}, found none")
    return tensors[key]


def _check_keys(source: str, expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> None:
    """Raise :class:`CheckpointError` unless both have the same keys, shapes and dtypes."""
    missing, unexpected = sorted(expected.keys() - got.keys()), sorted(got.keys() - expected.keys())
    if missing or unexpected:
        parts = [f"{word} {_some(keys)}" for word, keys in (("no", missing), ("unknown", unexpected)) if keys]
        raise CheckpointError(f"{source}: expected the tensors of the model, found {' and '.join(parts)}")
    for key, tensor in expected.items():
        want, have = (tuple(tensor.shape), tensor.dtype), (tuple(got[key].shape), got[key].dtype)
        if want != have:
            raise CheckpointError(f"{source}: {key}: expected {want[0]} in {want[1]}, got {have[0]} in {have[1]}")


def _some(keys: list[str]) -> str:
    rest = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return ", ".join(keys[:5]) + rest
