"""The next character of the standard library's source, from the last 24: a small task of nothing but Linear layers."""

import sysconfig
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

CONTEXT = 24
WIDTH = 256
SYMBOLS = "\n" + "".join(map(chr, range(32, 127)))
"""What a character can be; others are left out."""
CHARACTERS = 1_500_000
HELD_OUT = 8_192


class Reader(nn.Sequential):
    """Three Linear layers over the embeddings of the last characters, 200,000 weights."""

    def __init__(self) -> None:
        super().__init__(
            nn.Embedding(len(SYMBOLS), 16),
            nn.Flatten(),
            *(nn.Linear(16 * CONTEXT, WIDTH), nn.LayerNorm(WIDTH), nn.GELU()),
            *(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.GELU()),
            nn.Linear(WIDTH, len(SYMBOLS)),
        )


class Chars:
    """Source code and the network above; the figure is bits per held-out character."""

    rate, batch, steps, momentum, decay = 0.3, 256, 1200, 0.9, 0.0
    better = -1

    def __init__(self) -> None:
        index = {symbol: number for number, symbol in enumerate(SYMBOLS)}
        root = Path(sysconfig.get_path("stdlib"))
        text = "".join(path.read_text(encoding="utf-8", errors="ignore") for path in sorted(root.glob("*.py")))
        self.text = torch.tensor([index[c] for c in text if c in index][:CHARACTERS])
        self.end = len(self.text) * 9 // 10
        places = torch.linspace(self.end + CONTEXT, len(self.text) - 1, HELD_OUT).long()
        self.held_out = self._at(places)

    def _at(self, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What stands before ``places``, and at them."""
        return self.text[places[:, None] + torch.arange(-CONTEXT, 0)], self.text[places]

    def fresh(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return Reader()

    def draw(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        return self._at(torch.randint(CONTEXT, self.end, (self.batch,), generator=generator))

    @torch.no_grad()
    def figure(self, model: nn.Module) -> float:
        inputs, labels = self.held_out
        return float(F.cross_entropy(model.eval()(inputs), labels) / torch.log(torch.tensor(2.0)))
