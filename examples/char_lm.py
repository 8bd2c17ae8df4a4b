"""A small pre-norm GPT that learns to write Python from the standard library's own source.

Normalised, residual, trained with AdamW: initialisation matters little here, and the honest answer says so.

Ask:  initadvisor advise examples/char_lm.py
Prove: python examples/char_lm.py     (asks, then trains in full both ways and shows both curves)
"""

from __future__ import annotations

import sysconfig
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CONTEXT, WIDTH, HEADS, LAYERS = 48, 64, 4, 4
MODULES = ("argparse.py", "ast.py", "dataclasses.py", "inspect.py", "pathlib.py", "textwrap.py", "typing.py")
CHARACTERS = "".join(map(chr, range(32, 127))) + "\n"
TEST_WINDOWS = 128


def standard_library() -> tuple[TensorDataset, tuple[torch.Tensor, torch.Tensor]]:
    """Windows of source text as character ids, each with the same window one character on; the last ones are test."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    text = "".join((folder / name).read_text() for name in MODULES if (folder / name).exists())
    number = {c: i for i, c in enumerate(CHARACTERS)}
    ids = torch.tensor([number[c] for c in text if c in number])
    windows = ids[: (len(ids) - 1) // CONTEXT * CONTEXT + 1]
    x, y = windows[:-1].view(-1, CONTEXT), windows[1:].view(-1, CONTEXT)
    return TensorDataset(x[:-TEST_WINDOWS], y[:-TEST_WINDOWS]), (x[-TEST_WINDOWS:], y[-TEST_WINDOWS:])


def next_character_loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Cross-entropy per character, in nats."""
    return nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Stream of shape (batch, context, width) in and out."""
        heads = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        mixed = nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class CharacterGPT(nn.Module):
    """Embeddings, pre-norm blocks, a final norm and a head that is not tied."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(len(CHARACTERS), WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, len(CHARACTERS))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits of shape (batch, context, characters) from ids of shape (batch, context)."""
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def target() -> dict[str, object]:
    """The training as its owner wrote it, as arguments of `initadvisor.advise`."""
    torch.manual_seed(0)
    train, _ = standard_library()
    return {
        "model": CharacterGPT(),
        "sample_batch": DataLoader(train, batch_size=16, shuffle=True, drop_last=True),
        "optimizer": partial(torch.optim.AdamW, weight_decay=0.01),
        "lr": (0.001, 0.003),
        "loss": next_character_loss,
        "clip_norm": 1.0,
        "steps": 300,
    }


if __name__ == "__main__":
    from compare import prove

    prove(target(), standard_library()[1], "char_lm.png")
