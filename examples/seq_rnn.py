"""An `nn.RNN` that reads a digit pixel by pixel: 64 steps of memory before it may answer.

Ask:  initadvisor advise examples/seq_rnn.py
Prove: python examples/seq_rnn.py     (asks, then trains in full both ways and shows both curves)
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

HIDDEN, TEST_SIZE = 64, 360


def digits() -> tuple[TensorDataset, tuple[torch.Tensor, torch.Tensor]]:
    """Standardised digits as sequences of 64 single pixels: 1437 to train on, 360 kept apart."""
    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32).unsqueeze(-1)
    x = (x - x.mean()) / x.std()
    y = torch.tensor(labels, dtype=torch.long)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    test, train = order[:TEST_SIZE], order[TEST_SIZE:]
    return TensorDataset(x[train], y[train]), (x[test], y[test])


class PixelReader(nn.Module):
    """A vanilla recurrent network that classifies from its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(1, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits of shape (batch, 10) from pixels of shape (batch, 64, 1)."""
        states, _ = self.rnn(pixels)
        return self.head(states[:, -1])


def target() -> dict[str, object]:
    """The training as its owner wrote it, as arguments of `initadvisor.advise`."""
    torch.manual_seed(0)
    train, _ = digits()
    return {
        "model": PixelReader(),
        "sample_batch": DataLoader(train, batch_size=64, shuffle=True, drop_last=True),
        "optimizer": torch.optim.Adam,
        "lr": (0.001, 0.003, 0.01),
        "clip_norm": 1.0,
        "steps": 400,
    }


if __name__ == "__main__":
    from compare import prove

    prove(target(), digits()[1], "seq_rnn.png")
