"""Small convolutional networks, one per way in which channels belong together."""

import copy

import torch
from torch import nn
from torch.nn import functional as F


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.first, self.norm1 = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.second, self.norm2 = nn.Conv2d(12, 8, 1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.norm0(self.stem(x)))
        y = self.norm2(self.second(torch.relu(self.norm1(self.first(x)))))
        return self.head(torch.relu(x + y).mean(dim=(2, 3)))


class Dense(nn.Module):
    """Each layer reads all that came before."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + 4 * i) for i in range(3))
        self.layers = nn.ModuleList(nn.Conv2d(6 + 4 * i, 4, 3, padding=1, bias=False) for i in range(3))
        self.head = nn.Linear(18, 5)

    def forward(self, x):
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.layers):
            x = torch.cat([x, layer(torch.relu(norm(x)))], dim=1)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Mobile(nn.Module):
    """Expand, depthwise, gate (squeeze and excite), project, add."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.expand, self.norm1 = nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.depth, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.project, self.norm3 = nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        y = F.relu6(self.norm1(self.expand(x)))
        y = F.hardswish(self.norm2(self.depth(y)))
        y = y * torch.sigmoid(self.excite(F.silu(self.squeeze(y.mean(dim=(2, 3), keepdim=True)))))
        return self.head((x + self.norm3(self.project(y))).mean(dim=(2, 3)))


class Grouped(nn.Module):
    def __init__(self, groups=4):
        super().__init__()
        self.enter, self.norm1 = nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16)
        self.middle, self.norm2 = nn.Conv2d(16, 24, 3, padding=1, groups=groups), nn.BatchNorm2d(24)
        self.leave = nn.Conv2d(24, 6, 1)

    def forward(self, x):
        return self.leave(torch.relu(self.norm2(self.middle(torch.relu(self.norm1(self.enter(x)))))))


class Chain(nn.Sequential):
    """conv, norm, activation, conv with ``padding``, all flattened into a Linear."""

    def __init__(self, padding=0, mode="zeros", bias=True):
        side = 6 if padding else 4
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 10, 3, padding=padding, padding_mode=mode, bias=bias),
            nn.BatchNorm2d(10),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(10 * side * side, 5),
        )


class Attention(nn.Module):
    def __init__(self, width=24, heads=4):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.heads = heads

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def shaken(model):
    """``model`` in float64 with every parameter and statistic at random, shifts of both signs."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if value.is_floating_point():
                drawn = torch.randn_like(value)
                value.copy_(drawn.abs() + 0.5 if name.endswith(("var", "weight")) and value.dim() == 1 else drawn)
    return model.double()


def without(model, *rows, columns=()):
    """Masks without some filters, ``(name, indices)``, and without some input channels."""
    parameters = dict(model.named_parameters())
    masks = {}
    for dim, pairs in ((0, rows), (1, columns)):
        for name, indices in pairs:
            keep = masks.setdefault(f"{name}.weight", torch.ones_like(parameters[f"{name}.weight"], dtype=torch.bool))
            keep.index_fill_(dim, torch.tensor(indices), False)
    return masks


def masked(model, masks):
    """A copy in eval mode whose weights are multiplied by the masks."""
    twin = copy.deepcopy(model).eval()
    for name, parameter in twin.named_parameters():
        if name in masks:
            parameter.data *= getattr(masks[name], "keep", masks[name])
    return twin


def assert_equal(small, model, masks, *inputs):
    """The two compute the same, to 1e-10 of the largest output, on each of ``inputs``."""
    twin, small = masked(model, masks), copy.deepcopy(small).eval()
    with torch.no_grad():
        for x in inputs:
            one, other = (m(**x)[0] if isinstance(x, dict) else m(x) for m in (twin, small))
            torch.testing.assert_close(other, one, rtol=0, atol=1e-10 * float(one.abs().max()))


def weights(model):
    return sum(p.numel() for p in model.parameters())
