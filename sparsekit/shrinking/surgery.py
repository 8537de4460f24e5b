"""Take channels out of the layers of a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from sparsekit.shrinking.channels import Outputs
from sparsekit.shrinking.choice import bordered, filters
from sparsekit.shrinking.graph import Side

Cuts = Mapping[Side, list[bool]]
"""By side of a layer, which channels go."""


@torch.no_grad()
def fold(module: nn.Module, going: Tensor, values: Tensor) -> None:
    """Let a layer say by its bias what the inputs that go have made it say; one without a bias gets one.

    Beside a border of zeros a constant is none, and its weights are added to those of a constant that stays.

    Args:
        module: a Linear or a convolution.
        going: bool ``(inputs,)``.
        values: ``(inputs,)``, the constant of each; NaN where the weights that read it are zero.
    """
    assert isinstance(module, (nn.Linear, _ConvNd))
    lost = torch.where(going, values.double(), 0.0).nan_to_num(0.0)
    if isinstance(module, _ConvTransposeNd) or not bool(lost.any()):
        return  # a transposed convolution loses zeros only
    if bordered(module):
        if module.groups == 1:
            _lean(module.weight, lost, torch.where(going, 0.0, values.double()).nan_to_num(0.0))
        return
    kernels = filters(module).sum(dim=3, dtype=torch.float64)
    change = (kernels @ lost.view(kernels.shape[0], -1, 1)).flatten()
    if not bool(change.any()):
        return
    if module.bias is None:
        module.bias = nn.Parameter(change.to(module.weight.dtype), module.weight.requires_grad)
    else:
        module.bias.copy_(module.bias.double() + change)


def _lean(weight: Tensor, lost: Tensor, left: Tensor) -> None:
    """Add to the weights of the largest constant that stays what those of the others make."""
    rest = int(left.abs().argmax())
    matrices = weight.double().flatten(2)
    change = torch.einsum("oit,i->ot", matrices, lost)
    if bool(change.any()):
        weight[:, rest] = (matrices[:, rest] + change / left[rest]).view_as(weight[:, rest]).to(weight.dtype)


@torch.no_grad()
def cut(model: nn.Module, cuts: Cuts, outputs: Mapping[str, Outputs]) -> None:
    """Remove channels from the layers of ``model`` in place, and count its heads anew."""
    asked = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    modules = dict(model.named_modules())
    for (name, way), going in cuts.items():
        module = modules[name]
        if isinstance(module, _ConvNd) and module.groups > 1:
            if way == "out":
                _cut_grouped(
                    module, torch.tensor(cuts.get((name, "in"), [False] * module.in_channels)), torch.tensor(going)
                )
        elif any(going):
            _remove(module, way, [index for index, goes in enumerate(going) if goes])
            if way == "out" and name in outputs:
                _count_heads(modules[name.rpartition(".")[0]], outputs[name].runs, going)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(asked.get(name, parameter.requires_grad))


def _remove(module: nn.Module, way: str, indices: list[int]) -> None:
    """Let torch-pruning take channels out of one layer."""
    from torch_pruning.ops import module2type
    from torch_pruning.pruner.function import PrunerBox

    pruner = PrunerBox[module2type(module)]
    (pruner.prune_in_channels if way == "in" else pruner.prune_out_channels)(module, indices)


def _cut_grouped(module: _ConvNd, inputs: Tensor, outputs: Tensor) -> None:
    """Take whole groups out, and from each group that stays as many inputs and as many outputs."""
    groups = module.groups
    stay_in, stay_out = (~going.view(groups, -1) for going in (inputs, outputs))
    kept = [group for group in range(groups) if bool(stay_in[group].any()) and bool(stay_out[group].any())]
    weight = module.weight.view(groups, -1, *module.weight.shape[1:])
    parts = [weight[group][stay_out[group]][:, stay_in[group]] for group in kept]
    module.weight = nn.Parameter(torch.cat(parts))
    if module.bias is not None:
        module.bias = nn.Parameter(module.bias[~outputs.to(module.bias.device)])
    module.groups = len(kept)
    module.in_channels, module.out_channels = int((~inputs).sum()), int((~outputs).sum())


def _count_heads(parent: nn.Module, runs: list[int], going: list[bool]) -> None:
    """Correct the numbers of heads that the module around a projection has written down."""
    heads = len(set(runs))
    if heads == len(runs):
        return
    left = len({run for run, goes in zip(runs, going) if not goes})
    for name, value in vars(parent).items():
        if "head" not in name or type(value) is not int:
            continue
        if value == heads and not ("dim" in name or "size" in name):
            setattr(parent, name, left)
        elif value == len(runs):
            setattr(parent, name, len(going) - sum(going))
