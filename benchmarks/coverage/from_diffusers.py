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


def _batches(model: nn.Module) -> Iterator[Any]:
    """Inputs by the names of ``forward``'s arguments, images first, then sequences of patches, then videos."""
    config = dict(model.config)
    channels = _setting(config, "in_channels", default=4)
    width = _setting(
        config, "cross_attention_dim", "joint_attention_dim", "caption_channels", "text_embed_dim", "text_dim",
        "cap_feat_dim", "encoder_hid_dim", default=768,
    )  # fmt: skip
    pooled = _setting(config, "pooled_projection_dim", "projection_class_embeddings_input_dim", default=768)
    side = _setting(config, "sample_size", default=_SIDE)
    side = side if 8 <= side <= 128 else _SIDE
    names = [n for n in inspect.signature(model.forward).parameters if n != "return_dict"]
    images = (
        torch.randn(_BATCH, channels, side, side),
        torch.randn(_BATCH, channels, 4, 16, 16),
        torch.randn(_BATCH, channels, 5, 32, 32),
        torch.randn(_BATCH, 4, channels, 16, 16),
        torch.randn(_BATCH, 16, channels),
        torch.randn(_BATCH, channels, 1024),
        torch.randn(_BATCH, channels, 64),
    )
    common: dict[str, Any] = {
        "timestep": torch.tensor([1, 5]),
        "timesteps": torch.tensor([1, 5]),
        "t": torch.tensor([0.1, 0.5]),
        "class_labels": torch.tensor([1, 2]),
        "encoder_hidden_states": torch.randn(_BATCH, _TEXT, width),
        "pooled_projections": torch.randn(_BATCH, pooled),
        "encoder_attention_mask": torch.ones(_BATCH, _TEXT),
        "txt_ids": torch.zeros(_TEXT, 3),
        "img_ids": torch.zeros(16, 3),
        "guidance": torch.ones(_BATCH),
        "controlnet_cond": torch.randn(_BATCH, 3, side * 8, side * 8),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }
    required = {
        n for n, p in inspect.signature(model.forward).parameters.items() if p.default is inspect.Parameter.empty
    }
    extras = (set(), {"timestep"}, {"timestep", "encoder_hidden_states"}, set(common))
    for image in images:
        for extra in extras:
            batch: dict[str, Any] = {names[0]: image}
            batch |= {n: common[n] for n in names[1:] if n in common and (n in required or n in extra)}
            if required - {"kwargs", "args"} <= set(batch):
                yield batch


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
