"""Freshly built models: every architecture of transformers with a common head, of diffusers, and plain torch."""

from __future__ import annotations

import importlib
import inspect
import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

BATCH, LENGTH, VOCABULARY, WIDTH, LAYERS, HEADS, SIDE, CLASSES = 4, 24, 500, 128, 4, 4, 64, 10

LARGEST = 40_000_000
"""Parameters above which a model is left out: it did not take the small sizes."""

Made = tuple[nn.Module, Any]


@dataclass(frozen=True)
class Entry:
    """A name such as ``causal_lm/gpt2`` and what builds the model and its batch."""

    name: str
    make: Callable[[], Made]


_SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "d_model": WIDTH, "n_embd": WIDTH, "dim": WIDTH,
    "embed_dim": WIDTH, "emb_dim": WIDTH, "num_hidden_layers": LAYERS, "n_layer": LAYERS, "n_layers": LAYERS,
    "num_layers": LAYERS, "encoder_layers": LAYERS, "decoder_layers": LAYERS, "num_decoder_layers": LAYERS,
    "num_attention_heads": HEADS, "n_head": HEADS, "n_heads": HEADS, "num_heads": HEADS, "num_key_value_heads": HEADS,
    "encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS, "head_dim": WIDTH // HEADS,
    "d_kv": WIDTH // HEADS, "intermediate_size": 2 * WIDTH, "ffn_dim": 2 * WIDTH, "d_ff": 2 * WIDTH,
    "encoder_ffn_dim": 2 * WIDTH, "decoder_ffn_dim": 2 * WIDTH, "n_inner": 2 * WIDTH, "hidden_dim": 2 * WIDTH,
    "max_position_embeddings": 64, "n_positions": 64, "n_ctx": 64, "moe_intermediate_size": WIDTH,
    "num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "embedding_size": WIDTH, "image_size": SIDE,
    "patch_size": 8, "state_size": 16, "max_sequence_length": 64, "use_cache": False,
}  # fmt: skip


def _config(cls: type, head: str) -> Any:
    """A configuration with small sizes where it has them under their usual names."""
    default = cls()
    known = getattr(default, "to_dict", dict)()
    # Stages of image models are lists, which single numbers do not fit.
    left_out = _STAGED if head == "image_classifier" else ()
    wanted = {
        k: v
        for k, v in _SMALL.items()
        if k not in left_out and (isinstance(known.get(k), int) or known.get(k, 0) is None)
    }
    for attempt in (wanted, {k: v for k, v in wanted.items() if "expert" not in k and "moe" not in k}):
        try:
            return cls(**attempt, num_labels=CLASSES)
        except Exception:  # noqa: BLE001 - some configurations check one size against another
            continue
    return cls(num_labels=CLASSES)


_STAGED = ("embed_dim", "hidden_dim", "num_heads", "n_layers", "num_layers", "dim")


def _ids(seed: int = 0) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (BATCH, LENGTH), generator=torch.Generator().manual_seed(seed))


def _image(channels: int = 3, side: int = SIDE) -> torch.Tensor:
    return torch.randn(BATCH, channels, side, side, generator=torch.Generator().manual_seed(1))


def _classes(count: int = 10) -> torch.Tensor:
    return torch.randint(count, (BATCH,), generator=torch.Generator().manual_seed(2))


_HEADS: dict[str, tuple[str, Callable[[], dict[str, torch.Tensor]]]] = {
    "causal_lm": ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", lambda: {"input_ids": _ids(), "labels": _ids(4)}),
    "masked_lm": ("MODEL_FOR_MASKED_LM_MAPPING_NAMES", lambda: {"input_ids": _ids(), "labels": _ids(4)}),
    "seq2seq_lm": (
        "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
        lambda: {"input_ids": _ids(), "labels": _ids(4)},
    ),
    "text_classifier": (
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
        lambda: {"input_ids": _ids(), "labels": _classes()},
    ),
    "image_classifier": (
        "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
        lambda: {"pixel_values": _image(), "labels": _classes()},
    ),
}

_KINDS = {
    "image_classifier": "vit deit beit swinv2 convnext convnextv2 resnet regnet mobilenet_v1 mobilenet_v2 "
    "mobilevit poolformer pvt pvt_v2 cvt efficientnet bit data2vec-vision dinov2 segformer focalnet vit_msn "
    "swiftformer siglip clip hiera",
    "causal_lm": "gpt2 gpt_neo gpt_neox opt bloom llama mistral gemma2 gemma3_text qwen2 qwen3_moe mixtral falcon phi "
    "stablelm mpt olmo2 cohere mamba rwkv xlnet starcoder2 granitemoe cpmant biogpt ctrl deepseek_v2 recurrent_gemma "
    "openai-gpt xglm doge",
    "masked_lm": "bert roberta albert electra deberta deberta-v2 distilbert fnet funnel mobilebert mpnet nystromformer "
    "convbert squeezebert modernbert xlm flaubert megatron-bert",
    "seq2seq_lm": "t5 mt5 bart pegasus marian m2m_100 blenderbot longt5 switch_transformers umt5 prophetnet fsmt",
    "text_classifier": "bert distilbert llama t5 gpt2 deberta-v2 canine",
}
"""Architectures by head: the widely used ones, and one of each unusual construction."""


def _transformers() -> Iterator[Entry]:
    import transformers
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto

    def maker(head: str, kind: str, names: Any, inputs: Callable[[], dict[str, torch.Tensor]]) -> Callable[[], Made]:
        def make() -> Made:
            config = _config(CONFIG_MAPPING[kind], head)
            name = names[0] if isinstance(names, (tuple, list)) else names
            cls = getattr(transformers, name)
            config.decoder_start_token_id = 0
            with torch.device("meta"):
                size = sum(p.numel() for p in cls(config).parameters())
            if size > LARGEST:
                raise ValueError(f"{size / 1e6:.0f} million parameters even when shrunk")
            torch.manual_seed(0)
            return cls(config).train(), inputs()

        return make

    for head, (table, inputs) in _HEADS.items():
        known = dict(getattr(modeling_auto, table).items())
        for kind in _KINDS[head].split():
            if kind in known:
                yield Entry(f"{head}/{kind}", maker(head, kind, known[kind], inputs))


_DIFFUSERS: dict[str, tuple[dict[str, Any], Callable[[], dict[str, torch.Tensor]]]] = {
    "UNet2DModel": (
        {"sample_size": 16, "block_out_channels": (32, 64, 64, 64), "norm_num_groups": 8},
        lambda: {"sample": _image(3, 16), "timestep": torch.tensor([5] * BATCH)},
    ),
    "UNet2DConditionModel": (
        {"sample_size": 16, "block_out_channels": (32, 64, 64, 64), "norm_num_groups": 8, "cross_attention_dim": 32,
         "attention_head_dim": 8},
        lambda: {"sample": _image(4, 16), "timestep": torch.tensor([5] * BATCH),
                 "encoder_hidden_states": torch.randn(BATCH, 8, 32)},
    ),
    "DiTTransformer2DModel": (
        {"num_attention_heads": 4, "attention_head_dim": 32, "num_layers": 4, "sample_size": 16, "in_channels": 4},
        lambda: {"hidden_states": _image(4, 16), "timestep": torch.tensor([5] * BATCH), "class_labels": _classes()},
    ),
    "Transformer2DModel": (
        {"num_attention_heads": 4, "attention_head_dim": 32, "num_layers": 4, "in_channels": 32, "norm_num_groups": 8},
        lambda: {"hidden_states": _image(32, 8)},
    ),
    "PixArtTransformer2DModel": (
        {"num_attention_heads": 4, "attention_head_dim": 32, "num_layers": 4, "sample_size": 16, "caption_channels": 32,
         "cross_attention_dim": 128},
        lambda: {"hidden_states": _image(4, 16), "timestep": torch.tensor([5] * BATCH),
                 "encoder_hidden_states": torch.randn(BATCH, 8, 32),
                 "added_cond_kwargs": {"resolution": None, "aspect_ratio": None}},
    ),
    "SD3Transformer2DModel": (
        {"num_attention_heads": 4, "attention_head_dim": 32, "num_layers": 4, "sample_size": 16, "in_channels": 4,
         "joint_attention_dim": 32, "caption_projection_dim": 128, "pooled_projection_dim": 32, "out_channels": 4},
        lambda: {"hidden_states": _image(4, 16), "timestep": torch.tensor([5] * BATCH),
                 "encoder_hidden_states": torch.randn(BATCH, 8, 32), "pooled_projections": torch.randn(BATCH, 32)},
    ),
    "FluxTransformer2DModel": (
        {"num_attention_heads": 4, "attention_head_dim": 32, "num_layers": 2, "num_single_layers": 2, "in_channels": 16,
         "joint_attention_dim": 32, "pooled_projection_dim": 32, "axes_dims_rope": (8, 12, 12)},
        lambda: {"hidden_states": torch.randn(BATCH, 16, 16), "timestep": torch.rand(BATCH),
                 "encoder_hidden_states": torch.randn(BATCH, 8, 32), "pooled_projections": torch.randn(BATCH, 32),
                 "img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(8, 3)},
    ),
    "AutoencoderKL": (
        {"block_out_channels": (32, 64), "norm_num_groups": 8, "layers_per_block": 1,
         "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2},
        lambda: {"sample": _image(3, 32)},
    ),
    "VQModel": (
        {"block_out_channels": (32, 64), "norm_num_groups": 8, "down_block_types": ("DownEncoderBlock2D",) * 2,
         "up_block_types": ("UpDecoderBlock2D",) * 2},
        lambda: {"sample": _image(3, 32)},
    ),
    "AutoencoderTiny": ({}, lambda: {"sample": _image(3, 32)}),
    "PriorTransformer": (
        {"num_attention_heads": 4, "attention_head_dim": 32, "num_layers": 4, "embedding_dim": 64, "num_embeddings": 8,
         "additional_embeddings": 4},
        lambda: {"hidden_states": torch.randn(BATCH, 64), "timestep": torch.tensor([5] * BATCH),
                 "proj_embedding": torch.randn(BATCH, 64), "encoder_hidden_states": torch.randn(BATCH, 8, 64)},
    ),
    "ControlNetModel": (
        {"block_out_channels": (32, 64, 64, 64), "norm_num_groups": 8, "cross_attention_dim": 32,
         "attention_head_dim": 8},
        lambda: {"sample": _image(4, 16), "timestep": torch.tensor([5] * BATCH),
                 "encoder_hidden_states": torch.randn(BATCH, 8, 32), "controlnet_cond": _image(3, 128)},
    ),
}  # fmt: skip


def _diffusers() -> Iterator[Entry]:
    import diffusers

    def maker(name: str, settings: dict[str, Any], inputs: Callable[[], Any]) -> Callable[[], Made]:
        def make() -> Made:
            torch.manual_seed(0)
            return getattr(diffusers, name)(**settings).train(), inputs()

        return make

    for name, (settings, inputs) in _DIFFUSERS.items():
        if hasattr(diffusers, name):
            yield Entry(f"diffusers/{name}", maker(name, settings, inputs))


class _Recurrent(nn.Module):
    def __init__(self, cls: type[nn.RNNBase]) -> None:
        super().__init__()
        self.body = cls(8, 64, num_layers=2, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)[0][:, -1])


def _plain() -> Iterator[Entry]:
    def entry(name: str, build: Callable[[], nn.Module], inputs: Callable[[], torch.Tensor], count: int = 10) -> Entry:
        def make() -> Made:
            torch.manual_seed(0)
            x = inputs()
            return build(), (x, torch.randint(count, (len(x),), generator=torch.Generator().manual_seed(3)))

        return Entry(f"torch/{name}", make)

    def mlp(activation: type[nn.Module], layers: int) -> Callable[[], nn.Module]:
        return lambda: nn.Sequential(
            *[m for i in range(layers) for m in (nn.Linear(64, 64), activation())], nn.Linear(64, 10)
        )

    def norm_mlp() -> nn.Module:
        return nn.Sequential(
            *[m for _ in range(6) for m in (nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU())], nn.Linear(64, 10)
        )

    def cnn() -> nn.Module:
        widths = (3, 32, 64, 64)
        convs = [
            m
            for a, b in itertools.pairwise(widths)
            for m in (nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
        ]
        return nn.Sequential(*convs, nn.Flatten(), nn.Linear(64 * 16, 10))

    def flat() -> torch.Tensor:
        return torch.randn(64, 64)

    yield entry("mlp_relu_2", mlp(nn.ReLU, 2), flat)
    yield entry("mlp_relu_20", mlp(nn.ReLU, 20), flat)
    yield entry("mlp_tanh_6", mlp(nn.Tanh, 6), flat)
    yield entry("mlp_sigmoid_8", mlp(nn.Sigmoid, 8), flat)
    yield entry("mlp_layernorm_6", norm_mlp, flat)
    yield entry("cnn_batchnorm", cnn, lambda: torch.randn(16, 3, 32, 32))
    for cls in (nn.LSTM, nn.GRU, nn.RNN):
        yield entry(cls.__name__.lower(), lambda cls=cls: _Recurrent(cls), lambda: torch.randn(16, 20, 8))  # type: ignore[misc]


def entries() -> Iterator[Entry]:
    """All of the zoo, plain torch first."""
    yield from _plain()
    yield from _diffusers()
    yield from _transformers()


def quietly(make: Callable[[], Made]) -> Made:
    """Build without the libraries' remarks on unusual configurations."""
    logging = importlib.import_module("transformers.utils.logging")
    logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def accepts(model: nn.Module, batch: Any) -> Any:
    """The batch without the keys that the model does not take."""
    if not isinstance(batch, dict):
        return batch
    names = inspect.signature(model.forward).parameters
    return {k: v for k, v in batch.items() if k in names or any(p.kind is p.VAR_KEYWORD for p in names.values())}
