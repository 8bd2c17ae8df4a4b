"""What I train, for initadvisor: a language model. Put your own model and data where the comments say so.

initadvisor check FILE      what is wrong with the weights as they are
initadvisor advise FILE     what to use instead, tried in short trainings
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

TEXT = "how should I initialise this network? it depends on the network, and on what is done with it. " * 40
VOCABULARY = sorted(set(TEXT))
CONTEXT = 32


class Model(nn.Module):
    """A small transformer; yours goes in its place. From transformers: AutoModelForCausalLM.from_config(config)."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(len(VOCABULARY), 32)
        self.positions = nn.Embedding(CONTEXT, 32)
        # One by one: nn.TransformerEncoder would make its layers copies of one, weights and all.
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 4, 128, dropout=0.0, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.head = nn.Linear(32, len(VOCABULARY))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token numbers of shape (batch, length) to logits of shape (batch, length, vocabulary)."""
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], device=tokens.device)
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=True)
        logits: torch.Tensor = self.head(x)
        return logits


def next_token_loss(logits: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each next token."""
    return F.cross_entropy(logits.flatten(0, 1), following.flatten())


def build_data() -> Any:
    """Your batches: pairs of (tokens, the tokens that follow), each of shape (batch, length)."""
    # Yours: a DataLoader of such pairs, or of {"input_ids": …, "labels": …} for models of transformers.
    text = torch.tensor([VOCABULARY.index(c) for c in TEXT])
    rows = text.unfold(0, CONTEXT + 1, 5)
    return [(part[:, :-1], part[:, 1:]) for part in torch.split(rows, 16) if len(part) == 16]


def target() -> dict[str, Any]:
    """All of the training that matters for its start. A model that gives its own loss needs no line for it."""
    return {
        "model": Model(),
        "sample_batch": build_data(),
        "loss": next_token_loss,
        "optimizer": torch.optim.AdamW,
        # "lr": 3e-4,  # a number locks it; left out, it is searched together with the weights
        "clip_norm": 1.0,  # leave it out where your loop does not clip gradients
        "steps": 2000,  # optimizer steps of your full training
    }
