"""One small model and batch per family that a shipped recipe speaks of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Made = tuple[nn.Module, Any]


def _net(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


def mlp() -> Made:
    hidden = [m for _ in range(4) for m in (nn.Linear(32, 32), nn.ReLU())]
    return _net(nn.Linear(20, 32), nn.ReLU(), *hidden, nn.Linear(32, 5)), (
        torch.randn(8, 20),
        torch.randint(0, 5, (8,)),
    )


def selu_mlp() -> Made:
    return _net(nn.Linear(20, 32), nn.SELU(), nn.Linear(32, 32), nn.SELU(), nn.Linear(32, 5)), (
        torch.randn(8, 20),
        torch.randint(0, 5, (8,)),
    )


class Sine(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(30.0 * self.linear(x))


def siren() -> Made:
    return _net(Sine(2, 32), Sine(32, 32), Sine(32, 32), nn.Linear(32, 1)), (torch.rand(16, 2), torch.rand(16, 1))


def cnn() -> Made:
    layers = [m for _ in range(4) for m in (nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())]
    body = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)]
    return _net(*body), (torch.randn(4, 3, 8, 8), torch.randint(0, 5, (4,)))


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        wider = stride != 1 or inputs != outputs
        self.short = (
            _net(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)) if wider else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(self.short(x) + y)


def resnet() -> Made:
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [Residual(16, 16), Residual(16, 32, 2), Residual(32, 32)]
    return _net(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)), (
        torch.randn(4, 3, 8, 8),
        torch.randint(0, 5, (4,)),
    )


class NormFree(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, 1, 1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


def norm_free_resnet() -> Made:
    body = [nn.Conv2d(3, 16, 3, 1, 1), *(NormFree(16) for _ in range(4)), nn.ReLU()]
    return _net(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)), (
        torch.randn(4, 3, 8, 8),
        torch.randint(0, 5, (4,)),
    )


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 12)
        self.rnn = kind(12, 16, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.embed(ids))[0][:, -1])


def lstm() -> Made:
    return Recurrent(nn.LSTM), (torch.randint(0, 30, (4, 7)), torch.randint(0, 5, (4,)))


def gru() -> Made:
    return Recurrent(nn.GRU), (torch.randint(0, 30, (4, 7)), torch.randint(0, 5, (4,)))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.causal = heads, causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = (
            t.view(batch, length, self.heads, width // self.heads).transpose(1, 2) for t in self.qkv(x).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    def __init__(self, width: int, causal: bool = False) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, 4, causal)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self, tied: bool = True, vocabulary: int = 40, width: int = 32, layers: int = 3) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(16, width)
        self.blocks = nn.ModuleList(Block(width, causal=True) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def gpt2() -> Made:
    return GPT(), (torch.randint(0, 40, (2, 9)), torch.randint(0, 40, (2, 9)))


def gpt_untied() -> Made:
    return GPT(tied=False), (torch.randint(0, 40, (2, 9)), torch.randint(0, 40, (2, 9)))


class LlamaBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(width, 2 * width, bias=False) for _ in range(2))
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm1(x)
        q, k, v = (m(h).unflatten(-1, (4, -1)).transpose(1, 2) for m in (self.q, self.k, self.v))
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, width)
        self.layers = nn.ModuleList(LlamaBlock(width) for _ in range(3))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, 40, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def llama() -> Made:
    return Llama(), (torch.randint(0, 40, (2, 9)), torch.randint(0, 40, (2, 9)))


class Encoder(nn.Module):
    """BERT's shape with torch's own post-norm layers."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.words, self.positions, self.norm = (
            nn.Embedding(40, width, padding_idx=0),
            nn.Embedding(16, width),
            nn.LayerNorm(width),
        )
        layer = nn.TransformerEncoderLayer(width, 4, 64, 0.0, "gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.words(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.layers(self.norm(x))[:, 0])


def bert() -> Made:
    return Encoder(), (torch.randint(1, 40, (2, 9)), torch.randint(0, 3, (2,)))


def t5() -> Made:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=40, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0, use_cache=False
    )
    ids = torch.randint(1, 40, (2, 9))
    return T5ForConditionalGeneration(config), {"input_ids": ids, "labels": torch.randint(1, 40, (2, 5))}


class ViT(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 17, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def vit() -> Made:
    return ViT(), (torch.randn(2, 3, 16, 16), torch.randint(0, 5, (2,)))


class DiTBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, elementwise_affine=False) for _ in range(2))
        self.attn = Attention(width, 4, causal=False)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        s1, b1, g1, s2, b2, g2 = self.modulation(F.silu(c))[:, None].chunk(6, -1)
        x = x + g1 * self.attn(self.norm1(x) * (1 + s1) + b1)
        return x + g2 * self.fc2(F.gelu(self.fc1(self.norm2(x) * (1 + s2) + b2)))


class DiT(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patch, self.labels, self.time = nn.Linear(12, width), nn.Embedding(10, width), nn.Linear(1, width)
        self.blocks = nn.ModuleList(DiTBlock(width) for _ in range(2))
        self.norm, self.final = nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, 12)

    def forward(self, x: torch.Tensor, t: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        x, c = self.patch(x), self.labels(label) + F.silu(self.time(t))
        for block in self.blocks:
            x = block(x, c)
        return self.final(self.norm(x))


def dit() -> Made:
    return DiT(), (torch.randn(2, 9, 12), torch.rand(2, 1), torch.randint(0, 10, (2,)), torch.randn(2, 9, 12))


class UBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, inputs), nn.Conv2d(inputs, outputs, 3, 1, 1)
        self.norm2, self.conv2 = nn.GroupNorm(4, outputs), nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.short = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.short(x) + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down = nn.Conv2d(3, 16, 3, 1, 1), UBlock(16, 16)
        self.pool, self.middle = nn.Conv2d(16, 32, 3, 2, 1), UBlock(32, 32)
        self.rise, self.up = nn.ConvTranspose2d(32, 16, 4, 2, 1), UBlock(32, 16)
        self.norm, self.out = nn.GroupNorm(4, 16), nn.Conv2d(16, 3, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        high = self.down(self.enter(x))
        low = self.rise(self.middle(self.pool(high)))
        return self.out(F.silu(self.norm(self.up(torch.cat([high, low], 1)))))


def unet_diffusion() -> Made:
    return UNet(), (torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8))


def dcgan() -> Made:
    up = [nn.ConvTranspose2d(16, 32, 4, 1, 0, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    more = [nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return _net(*up, *more, nn.ConvTranspose2d(16, 3, 4, 2, 1, bias=False), nn.Tanh()), torch.randn(4, 16, 1, 1)


def gnn() -> Made:
    from torch_geometric.data import Data
    from torch_geometric.nn import GCNConv

    class GCN(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = GCNConv(12, 16), GCNConv(16, 4)

        def forward(self, data: Data) -> torch.Tensor:
            return self.second(F.relu(self.first(data.x, data.edge_index)), data.edge_index)

    edges = torch.randint(0, 20, (2, 60))
    return GCN(), Data(x=torch.randn(20, 12), edge_index=edges, y=torch.randint(0, 4, (20,)))


def mamba() -> Made:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=40, hidden_size=32, state_size=8, num_hidden_layers=2, use_cache=False)
    ids = torch.randint(0, 40, (2, 9))
    return MambaForCausalLM(config), {"input_ids": ids, "labels": ids}


class LoRA(nn.Module):
    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A, self.lora_B = (
            nn.Linear(base.in_features, rank, bias=False),
            nn.Linear(rank, base.out_features, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + 0.5 * self.lora_B(self.lora_A(x))


def lora() -> Made:
    head = nn.Linear(32, 5).requires_grad_(False)
    return _net(LoRA(nn.Linear(20, 32)), nn.ReLU(), LoRA(nn.Linear(32, 32)), nn.ReLU(), head), (
        torch.randn(8, 20),
        torch.randint(0, 5, (8,)),
    )


def transfer_head() -> Made:
    model, batch = resnet()
    for name, p in model.named_parameters():
        p.requires_grad_(name.startswith("8"))
    return model, batch


FAMILIES: dict[str, Callable[[], Made]] = {
    f.__name__: f
    for f in (
        mlp, selu_mlp, siren, cnn, resnet, norm_free_resnet, lstm, gru, gpt2, llama, bert, t5, vit, dit, unet_diffusion,
        dcgan, gnn, mamba, lora, transfer_head,
    )
}  # fmt: skip
