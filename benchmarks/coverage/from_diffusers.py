"""UNets, diffusion transformers and autoencoders of diffusers: default configurations on ``meta``, or small ones."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.coverage.entry import Entry

_BATCH, _SIDE, _TEXT = 2, 32, 8
_FEW = 2
_DEPTHS = (
    "num_layers",
    "num_single_layers",
    "num_mmdit_layers",
    "num_single_dit_layers",
    "num_refiner_layers",
    "n_layers",
)


def _shrunk(cls: type[nn.Module]) -> dict[str, Any]:
    """Constructor settings that cut stacks to two layers."""
    parameters = inspect.signature(cls.__init__).parameters
    return {
        name: _FEW for name in _DEPTHS if name in parameters and isinstance(parameters[name].default, int)
    }  # fmt: skip


def _build(cls: type[nn.Module], device: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        with torch.device(device):
            model = cls(**_shrunk(cls))
        return model.train()

    return make


def _setting(config: Any, *names: str, default: int) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, (tuple, list)):
            value = value[0] if value else None
        if isinstance(value, int):
            return value
    return default


def _texts(config: Any) -> list[int]:
    """Widths a text may have, the ones nearest to what goes in first."""
    names = (
        "caption_channels", "text_embed_dim", "text_dim", "cap_feat_dim", "in_context_dim", "context_in_dim",
        "joint_attention_dim", "encoder_hid_dim", "cross_attention_dim", "embedding_dim",
    )  # fmt: skip
    return list(dict.fromkeys([*(w for n in names if (w := _setting(config, n, default=0)) > 1), 768]))


def _images(config: Any) -> Iterator[torch.Tensor]:
    """What a model may be fed first: images, videos, sequences of patches or of samples."""
    side = _setting(config, "sample_size", default=_SIDE)
    side = side if 8 <= side <= 128 else _SIDE
    names = ("in_channels", "input_channels", "audio_channels")
    own = [c for n in names if (c := _setting(config, n, default=0))]
    for channels in dict.fromkeys([*(own or [4]), 3]):
        for shape in (
            (channels, side, side),
            (channels, 4, 16, 16),
            (channels, 5, 32, 32),
            (channels, 1, 64, 64),
            (4, channels, 16, 16),
            (16, channels),
            (channels, 1024),
            (channels, 64),
            (channels, 4096),
        ):
            yield torch.randn(_BATCH, *shape)


def _batches(model: nn.Module) -> Iterator[Any]:
    """Inputs by the names of ``forward``'s arguments, images first, then sequences of patches, then videos."""
    config = dict(model.config)
    pooled = _setting(config, "pooled_projection_dim", "projection_class_embeddings_input_dim", default=768)
    side = _setting(config, "sample_size", default=_SIDE)
    side = side if 8 <= side <= 128 else _SIDE
    parameters = {n: p for n, p in inspect.signature(model.forward).parameters.items() if n != "return_dict"}
    names = list(parameters)
    required = {n for n, p in parameters.items() if p.default is inspect.Parameter.empty} - {"kwargs", "args"}
    common: dict[str, Any] = {
        "timestep": torch.tensor([1, 5]),
        "timesteps": torch.tensor([1, 5]),
        "t": torch.tensor([0.1, 0.5]),
        "class_labels": torch.tensor([1, 2]),
        "pooled_projections": torch.randn(_BATCH, pooled),
        "encoder_attention_mask": torch.ones(_BATCH, _TEXT),
        "encoder_hidden_states_mask": torch.ones(_BATCH, _TEXT, dtype=torch.bool),
        "txt_ids": torch.zeros(_TEXT, 3),
        "img_ids": torch.zeros(16, 3),
        "img_shapes": [[(1, 4, 4)]] * _BATCH,
        "txt_seq_lens": [_TEXT] * _BATCH,
        "num_frames": 1,
        "height": 4,
        "width": 4,
        "fps": torch.tensor([8, 8]),
        "original_size": torch.full((_BATCH, 2), 64.0),
        "target_size": torch.full((_BATCH, 2), 64.0),
        "crop_coords": torch.zeros(_BATCH, 2),
        "padding_mask": torch.zeros(1, 1, side, side),
        "controlnet_cond": torch.randn(_BATCH, 3, side * 8, side * 8),
        "added_cond_kwargs": {"resolution": torch.full((_BATCH, 2), 64.0), "aspect_ratio": torch.ones(_BATCH, 1)},
        "guidance": torch.ones(_BATCH),
    }
    texts = [torch.randn(_BATCH, _TEXT, width) for width in _texts(config)]
    every = set(common) | {"encoder_hidden_states"}
    extras = (set(), {"timestep"}, {"timestep", "encoder_hidden_states"}, every - {"guidance"}, every)
    for image in _images(config):
        for extra in extras:
            for text in texts:
                known = common | {"encoder_hidden_states": text}
                batch: dict[str, Any] = {names[0]: image}
                batch |= {n: known[n] for n in names[1:] if n in known and (n in required or n in extra)}
                if required <= set(batch):
                    yield batch
                if "encoder_hidden_states" not in batch:
                    break


def entries() -> list[Entry]:
    """Every model class that diffusers exports."""
    import diffusers
    from diffusers import ModelMixin

    found = []
    for name in sorted(dir(diffusers)):
        if not any(
            word in name for word in ("UNet", "Transformer", "Autoencoder", "VQModel", "ControlNetModel", "Prior")
        ):
            continue
        cls = getattr(diffusers, name, None)
        if not (isinstance(cls, type) and issubclass(cls, ModelMixin)) or name.startswith("Flax"):
            continue
        attempts = tuple((d, _build(cls, d), _batches) for d in ("meta", "cpu"))
        found.append(Entry(f"diffusers/{name}", attempts))
    return found
