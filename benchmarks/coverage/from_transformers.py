"""Every base model of transformers by its default configuration, stacks cut to two layers: on meta, else on CPU."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.coverage.entry import Entry

_TOKENS, _BATCH = 16, 2
_FEW_LAYERS = 2
_LAYER_NAMES = (
    "num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "num_encoder_layers",
    "num_decoder_layers", "encoder_num_layers", "decoder_num_layers",
)  # fmt: skip


def _first(config: Any, names: tuple[str, ...], default: Any) -> Any:
    """A setting of a configuration or of its parts."""
    parts = [config]
    for part in ("text_config", "vision_config", "audio_config", "encoder", "backbone_config", "thinker_config"):
        inner = getattr(config, part, None)
        if inner is not None and not isinstance(inner, dict):
            parts.append(inner)
    for part in parts:
        for name in names:
            value = getattr(part, name, None)
            if value is not None:
                return value
    return default


def _square(size: Any) -> tuple[int, int]:
    if isinstance(size, dict):
        return int(size.get("height", 224)), int(size.get("width", 224))
    if isinstance(size, (tuple, list)):
        return (int(size[0]), int(size[-1])) if size else (224, 224)
    return (int(size), int(size))


def _ids(config: Any, length: int = _TOKENS) -> torch.Tensor:
    vocabulary = int(_first(config, ("vocab_size",), 100))
    return torch.randint(3, max(4, min(vocabulary, 500)), (_BATCH, length))


def _fillers(config: Any) -> dict[str, Any]:
    """A plausible tensor for every argument name that base models ask for."""
    height, width = _square(_first(config, ("image_size", "input_size"), 224))
    channels = int(_first(config, ("num_channels", "in_channels", "num_input_channels"), 3))
    hidden = int(_first(config, ("hidden_size", "d_model", "n_embd"), 64))
    mels = int(_first(config, ("num_mel_bins", "input_dim", "feature_size", "num_mel_bins"), 80))
    frames = int(_first(config, ("max_source_positions", "max_length"), 1500)) * 2
    history = int(_first(config, ("context_length", "prediction_length"), 32))
    steps = int(_first(config, ("num_frames", "frames_per_clip"), 8))
    points = torch.arange(_TOKENS * 4).view(1, _TOKENS, 4).expand(_BATCH, -1, -1) % 50
    boxes = torch.cat([points[..., :2], points[..., :2] + 60], -1)
    return {
        "input_ids": _ids(config),
        "decoder_input_ids": _ids(config, 8),
        "attention_mask": torch.ones(_BATCH, _TOKENS, dtype=torch.long),
        "pixel_values": torch.randn(_BATCH, channels, height, width),
        "pixel_values_videos": torch.randn(_BATCH, steps, channels, height, width),
        "input_values": torch.randn(_BATCH, 16000),
        "input_features": torch.randn(_BATCH, mels, min(frames, 3000)),
        "past_values": torch.randn(_BATCH, history),
        "bbox": boxes,
        "input_embeds": torch.randn(_BATCH, _TOKENS, hidden),
        "inputs_embeds": torch.randn(_BATCH, _TOKENS, hidden),
        "pixel_mask": torch.ones(_BATCH, height, width, dtype=torch.long),
        "input_points": torch.rand(_BATCH, 1, 1, 2) * 100,
        "actions": torch.randn(_BATCH, 4, int(_first(config, ("act_dim",), 4))),
        "states": torch.randn(_BATCH, 4, int(_first(config, ("state_dim",), 17))),
        "rewards": torch.randn(_BATCH, 4, 1),
        "returns_to_go": torch.randn(_BATCH, 4, 1),
        "timesteps": torch.arange(4).expand(_BATCH, 4),
    }


def _variants(config: Any) -> Iterator[dict[str, Any]]:
    """Batches to try, the fullest first; a model takes the first that its forward accepts."""
    f = _fillers(config)
    height, width = _square(_first(config, ("image_size", "input_size"), 224))
    yield {"input_ids": f["input_ids"], "pixel_values": f["pixel_values"]}
    yield {"input_ids": f["input_ids"], "input_features": f["input_features"]}
    yield {"input_ids": f["input_ids"], "decoder_input_ids": f["decoder_input_ids"]}
    yield {"input_ids": f["input_ids"]}
    yield {"pixel_values": f["pixel_values"]}
    yield {"input_values": f["input_values"]}
    yield {"input_features": f["input_features"]}
    yield {"input_features": f["input_features"], "decoder_input_ids": f["decoder_input_ids"]}
    yield {"input_values": f["input_values"], "decoder_input_ids": f["decoder_input_ids"]}
    yield {"input_features": f["input_features"].transpose(1, 2)}
    yield {"pixel_values": torch.randn(_BATCH, 3, 224, 224)}
    yield {"pixel_values": torch.randn(_BATCH, 3, 512, 512)}
    yield {"pixel_values": torch.randn(_BATCH, 3, 800, 800)}
    yield {"pixel_values": f["pixel_values_videos"]}
    yield {"pixel_values_videos": f["pixel_values_videos"]}
    yield {"pixel_values_videos": torch.randn(_BATCH, 16, 3, height, width)}
    yield {"pixel_values": torch.randn(_BATCH, 16, 3, 224, 224)}
    yield {"input_ids": f["input_ids"], "bbox": f["bbox"]}
    yield {"input_ids": f["input_ids"], "bbox": f["bbox"], "pixel_values": torch.randn(_BATCH, 3, 224, 224)}
    yield {"input_ids": f["input_ids"], "input_values": f["input_values"]}
    yield {"pixel_values": f["pixel_values"], "input_points": f["input_points"]}
    yield {"pixel_values": f["pixel_values"], "decoder_input_ids": f["decoder_input_ids"]}
    yield {"inputs_embeds": f["inputs_embeds"]}
    yield {"input_embeds": f["input_embeds"]}
    yield {k: f[k] for k in ("states", "actions", "rewards", "returns_to_go", "timesteps")}
    channels = int(_first(config, ("num_input_channels", "num_variates"), 1))
    history = int(_first(config, ("context_length",), 32))
    yield {"past_values": torch.randn(_BATCH, history, channels)}
    yield {"past_values": f["past_values"]}
    yield {"inputs": f["input_ids"]}
    yield {"input_ids": f["input_ids"], "input_modal": f["pixel_values"]}
    patches, size = 16, int(_first(config, ("patch_size",), 16)) if not isinstance(
        _first(config, ("patch_size",), 16), (list, tuple, dict)
    ) else 16  # fmt: skip
    shapes = torch.tensor([[4, 4]] * _BATCH)
    yield {
        "pixel_values": torch.randn(_BATCH, patches, size * size * 3),
        "pixel_attention_mask": torch.ones(_BATCH, patches, dtype=torch.long),
        "spatial_shapes": shapes,
        "input_ids": f["input_ids"],
    }


def _shrunk(config: Any) -> Any:
    """The same architecture with few layers, everything else as it comes."""
    for part in (config, *(getattr(config, n, None) for n in ("text_config", "vision_config", "audio_config"))):
        if part is None or isinstance(part, dict):
            continue
        for name in _LAYER_NAMES:
            value = getattr(part, name, None)
            if isinstance(value, int) and value > _FEW_LAYERS:
                setattr(part, name, _FEW_LAYERS)
        kinds = getattr(part, "layer_types", None)
        if isinstance(kinds, list) and len(kinds) > _FEW_LAYERS:
            part.layer_types = kinds[:_FEW_LAYERS]
    return config


def _builder(model_type: str, class_name: str, device: str, few: bool = True, dtype: Any = torch.float32) -> Any:
    def build() -> nn.Module:
        import transformers
        from transformers import CONFIG_MAPPING
        from transformers.initialization import no_init_weights

        config = CONFIG_MAPPING[model_type]()
        if few:
            config = _shrunk(config)
        cls = getattr(transformers, class_name)
        with torch.device(device), no_init_weights():  # only shapes matter
            model: nn.Module = cls(config)
        model.tie_weights()
        return model.to(dtype).train()

    return build


def _batches(model: nn.Module) -> Iterator[Any]:
    config = model.config
    accepted = set(inspect.signature(model.forward).parameters)
    for variant in _variants(config):
        if set(variant) <= accepted:
            yield variant


def entries() -> list[Entry]:
    """All base models, by model type."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    found = []
    for model_type, names in MODEL_MAPPING_NAMES.items():
        several = names if isinstance(names, (tuple, list)) else (names,)
        for class_name in several[:1]:
            attempts = (
                ("meta", _builder(model_type, class_name, "meta"), _batches),
                ("meta", _builder(model_type, class_name, "meta", dtype=torch.bfloat16), _batches),
                ("cpu", _builder(model_type, class_name, "cpu"), _batches),
                ("meta", _builder(model_type, class_name, "meta", few=False, dtype=torch.bfloat16), _batches),
            )
            found.append(Entry(f"transformers/{model_type}", attempts))
    return found
