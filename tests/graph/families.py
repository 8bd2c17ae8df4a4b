"""Small members of well-known families, built from their own sources or written out plainly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

IDS = torch.arange(16).view(2, 8) % 13 + 3
IMAGE = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)

Built = tuple[nn.Module, Any]


def mlp() -> Built:
    net = nn.Sequential(
        nn.Linear(8, 16),
        nn.LayerNorm(16),
        nn.Tanh(),
        nn.Dropout(0.1),
        nn.Linear(16, 16),
        nn.LeakyReLU(0.2),
        nn.Linear(16, 3),
    )
    return net, (torch.ones(4, 8), torch.zeros(4).long())


class Siren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 8), nn.Linear(8, 8), nn.Linear(8, 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            x = torch.sin(30 * layer(x))
        return self.layers[-1](x)


def siren() -> Built:
    return Siren(), (torch.ones(4, 2), torch.zeros(4, 1))


def plain_cnn() -> Built:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    return net, (IMAGE, torch.zeros(2).long())


class DenseBlock(nn.Module):
    """Every layer reads all features before it (Huang et al. 2017): concatenations, no sums."""

    def __init__(self, width: int, growth: int, layers: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(width + i * growth) for i in range(layers))
        self.convs = nn.ModuleList(
            nn.Conv2d(width + i * growth, growth, 3, padding=1, bias=False) for i in range(layers)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return x


def densenet() -> Built:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), DenseBlock(8, 4, 2), nn.Conv2d(16, 8, 1, bias=False), nn.AvgPool2d(2),
        DenseBlock(8, 4, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip
    return net, (IMAGE, torch.zeros(2).long())


class UNet(nn.Module):
    """Ronneberger et al. 2015: skips are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, 1)
        self.middle, self.up = nn.Conv2d(16, 16, 3, padding=1), nn.ConvTranspose2d(16, 8, 4, 2, 1)
        self.merge, self.out = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = F.relu(self.enter(x))
        b = F.relu(self.middle(F.relu(self.down(a))))
        return self.out(F.relu(self.merge(torch.cat([a, F.relu(self.up(b))], 1))))


def unet() -> Built:
    return UNet(), (IMAGE, None)


class MixerBlock(nn.Module):
    """Tolstikhin et al. 2021: one MLP over places, one over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.tokens = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.channels = nn.Sequential(nn.Linear(8, 24), nn.GELU(), nn.Linear(24, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 8, 8, 8), MixerBlock()
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.block(self.stem(x).flatten(2).transpose(1, 2))).mean(1))


def mixer() -> Built:
    return Mixer(), (IMAGE, None)


class LanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(20, 8), nn.LSTM(8, 8, 2, batch_first=True), nn.Linear(8, 20)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.embed(ids))[0])


def lstm_lm() -> Built:
    return LanguageModel(), (IDS, IDS)


class DiTBlock(nn.Module):
    """Peebles & Xie 2023: six vectors of the condition scale, shift and gate the two branches."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        s1, b1, g1, s2, b2, g2 = self.modulation(F.silu(c))[:, None].chunk(6, -1)
        width = x.shape[-1:]
        x = x + g1 * self.attend(F.layer_norm(x, width) * (1 + s1) + b1)
        h = F.layer_norm(x, width) * (1 + s2) + b2
        return x + g2 * self.fc2(F.gelu(self.fc1(h), approximate="tanh"))


class DiT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.position = nn.Conv2d(3, 8, 8, 8), nn.Parameter(torch.zeros(1, 16, 8))
        self.time, self.label = nn.Sequential(nn.Linear(16, 8), nn.SiLU(), nn.Linear(8, 8)), nn.Embedding(10, 8)
        self.block, self.final_modulation, self.final = DiTBlock(8, 2), nn.Linear(8, 16), nn.Linear(8, 12)

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        angles = t[:, None].to(x.dtype) * torch.exp(-torch.arange(8, device=t.device) / 8)
        c = self.time(torch.cat([angles.cos(), angles.sin()], -1)) + self.label(y)
        x = self.block(x, c)
        scale, shift = self.final_modulation(F.silu(c))[:, None].chunk(2, -1)
        return self.final(F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift)


def dit() -> Built:
    return DiT(), (IMAGE, torch.tensor([3, 700]), torch.tensor([1, 4]), None)


class VAE(nn.Module):
    """Kingma & Welling 2014: two heads whose sample the decoder reads."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.mean, self.spread = nn.Linear(12, 16), nn.Linear(16, 4), nn.Linear(16, 4)
        self.decode, self.out = nn.Linear(4, 16), nn.Linear(16, 12)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        h = F.relu(self.encode(x))
        mean, spread = self.mean(h), self.spread(h)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * spread)
        return torch.sigmoid(self.out(F.relu(self.decode(z)))), mean, spread


def vae() -> Built:
    return VAE(), (torch.ones(3, 12), None)


def dcgan_generator() -> Built:
    net = nn.Sequential(
        nn.ConvTranspose2d(6, 16, 4, 1, 0, bias=False), nn.BatchNorm2d(16), nn.ReLU(True),
        nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(True),
        nn.ConvTranspose2d(8, 3, 4, 2, 1, bias=False), nn.Tanh(),
    )  # fmt: skip
    return net, (torch.ones(2, 6, 1, 1), None)


def dcgan_discriminator() -> Built:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True),
        nn.Conv2d(8, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.LeakyReLU(0.2, True),
        nn.Conv2d(16, 1, 8, 1, 0, bias=False), nn.Sigmoid(),
    )  # fmt: skip
    return net, (IMAGE, None)


def _transformers(model: str, config: str, **settings: Any) -> nn.Module:
    import transformers

    return getattr(transformers, model)(getattr(transformers, config)(**settings))


_TEXT = {"vocab_size": 24, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, **_TEXT}


def resnet_basic() -> Built:
    net = _transformers(
        "ResNetForImageClassification", "ResNetConfig", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1],
        layer_type="basic", num_labels=5,
    )  # fmt: skip
    return net, {"pixel_values": IMAGE}


def resnet_bottleneck() -> Built:
    net = _transformers(
        "ResNetForImageClassification", "ResNetConfig", embedding_size=8, hidden_sizes=[16, 32], depths=[1, 2],
        layer_type="bottleneck", num_labels=5,
    )  # fmt: skip
    return net, {"pixel_values": IMAGE}


def mobilenet() -> Built:
    net = _transformers(
        "MobileNetV2ForImageClassification", "MobileNetV2Config", image_size=32, depth_multiplier=0.25, num_labels=5
    )
    return net, {"pixel_values": IMAGE}


def convnext() -> Built:
    net = _transformers(
        "ConvNextForImageClassification",
        "ConvNextConfig",
        hidden_sizes=[8, 16],
        depths=[1, 1],
        num_stages=2,
        num_labels=5,
    )
    return net, {"pixel_values": IMAGE}


def vit() -> Built:
    net = _transformers(
        "ViTForImageClassification", "ViTConfig", hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=4, image_size=32, patch_size=8, num_labels=5,
    )  # fmt: skip
    return net, {"pixel_values": IMAGE}


def swin() -> Built:
    net = _transformers(
        "SwinForImageClassification", "SwinConfig", image_size=32, patch_size=2, embed_dim=8, depths=[1, 1],
        num_heads=[2, 2], window_size=4, num_labels=5,
    )  # fmt: skip
    return net, {"pixel_values": IMAGE}


def gpt2() -> Built:
    return _transformers("GPT2LMHeadModel", "GPT2Config", n_layer=1, n_embd=16, n_head=4, **_TEXT), {"input_ids": IDS}


def gpt_neox() -> Built:
    return _transformers("GPTNeoXForCausalLM", "GPTNeoXConfig", **_SMALL), {"input_ids": IDS}


def llama() -> Built:
    return _transformers("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=2, **_SMALL), {"input_ids": IDS}


def mixtral() -> Built:
    net = _transformers("MixtralForCausalLM", "MixtralConfig", num_key_value_heads=2, num_local_experts=4, **_SMALL)
    return net, {"input_ids": IDS}


def gemma2() -> Built:
    net = _transformers("Gemma2ForCausalLM", "Gemma2Config", num_key_value_heads=2, head_dim=4, **_SMALL)
    return net, {"input_ids": IDS}


def bert() -> Built:
    return _transformers("BertForMaskedLM", "BertConfig", **_SMALL), {"input_ids": IDS}


def t5() -> Built:
    net = _transformers(
        "T5ForConditionalGeneration", "T5Config", d_model=16, d_ff=32, d_kv=4, num_layers=1, num_heads=4, vocab_size=24
    )
    return net, {"input_ids": IDS, "decoder_input_ids": IDS}


def whisper() -> Built:
    net = _transformers(
        "WhisperModel", "WhisperConfig", d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_source_positions=20,
        max_target_positions=12, decoder_start_token_id=3, num_mel_bins=10, **_TEXT,
    )  # fmt: skip
    return net, {"input_features": torch.linspace(-1, 1, 800).view(2, 10, 40), "decoder_input_ids": IDS}


def mamba() -> Built:
    net = _transformers(
        "MambaForCausalLM", "MambaConfig", hidden_size=16, num_hidden_layers=1, state_size=4, time_step_rank=2, **_TEXT
    )
    return net, {"input_ids": IDS}


def phi3() -> Built:
    return _transformers("Phi3ForCausalLM", "Phi3Config", num_key_value_heads=2, **_SMALL), {"input_ids": IDS}


def deepseek_v3() -> Built:
    net = _transformers(
        "DeepseekV3ForCausalLM", "DeepseekV3Config", hidden_size=16, intermediate_size=32, moe_intermediate_size=8,
        num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4, n_routed_experts=8, q_lora_rank=8,
        kv_lora_rank=8, qk_rope_head_dim=4, v_head_dim=4, qk_nope_head_dim=4, first_k_dense_replace=0, n_group=2,
        topk_group=1, num_experts_per_tok=2, **_TEXT,
    )  # fmt: skip
    return net, {"input_ids": IDS}


_EDGES = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]])


class _Graph(nn.Module):
    """Two convolutions and a linear head on nodes."""

    def __init__(self, first: nn.Module, second: nn.Module, width: int) -> None:
        super().__init__()
        self.first, self.second, self.head = first, second, nn.Linear(width, 3)

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        x = F.elu(self.first(x, edge_index))
        return self.head(F.elu(self.second(x, edge_index)))


def gcn() -> Built:
    from torch_geometric.nn import GCNConv

    return _Graph(GCNConv(6, 8), GCNConv(8, 8), 8), (torch.ones(5, 6), _EDGES, None)


def gat() -> Built:
    from torch_geometric.nn import GATConv

    return _Graph(GATConv(6, 4, heads=2), GATConv(8, 4, heads=2), 8), (torch.ones(5, 6), _EDGES, None)


FAMILIES: dict[str, Callable[[], Built]] = {
    f.__name__: f
    for f in (
        mlp, siren, plain_cnn, resnet_basic, resnet_bottleneck, densenet, mobilenet, convnext, unet, vit, swin, mixer,
        gpt2, gpt_neox, llama, mixtral, gemma2, phi3, deepseek_v3, bert, t5, whisper, mamba, lstm_lm, gcn, gat, dit,
        vae, dcgan_generator, dcgan_discriminator,
    )
}  # fmt: skip
