"""What a model's source and configuration say about its weights, by formula and without looking at any op.

Every oracle is written from the model's own code: which linear map reads what, how wide it is, where a residual sum
stands and on which side of it the norm. None of it comes from the analysis. Sizes and layer counts differ from those of
the table of facts, so that a formula is checked and not a number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from families import IDS, IMAGE, Built, _transformers
from torch import nn


@dataclass
class Weight:
    """One linear map or table."""

    role: str
    fan_in: float
    fan_out: float
    then: str = "none"
    norm: str | None = None
    heads: int | None = None
    branch: int | None = None
    parts: dict[str, int] | None = None


@dataclass
class Oracle:
    """Everything said about one model; branches as (style, length, last weights, last norm, scale, neighbours)."""

    depth: int
    residual_depth: int = 0
    classes: int | None = None
    weights: dict[str, Weight] = field(default_factory=dict)
    branches: list[tuple[Any, ...]] = field(default_factory=list)
    tied: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)

    def add(self, path: str, role: str, fan_in: float, fan_out: float, **more: Any) -> None:
        self.weights[path] = Weight(role, fan_in, fan_out, **more)

    def ends(
        self,
        style: str,
        length: int,
        *last: str,
        norm: str | None = None,
        scale: str | None = None,
        beside: tuple[int, ...] = (),
    ) -> int:
        """Note the next branch; its index."""
        self.branches.append((style, length, last, norm, scale, beside))
        return len(self.branches) - 1


TEXT = {"vocab_size": 30, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
D, FF, HEADS, LAYERS, VOCAB = 24, 40, 3, 3, 30
SMALL = {"hidden_size": D, "intermediate_size": FF, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, **TEXT}


def _attention(
    o: Oracle,
    branch: int,
    names: tuple[str, str, str, str],
    norm: str | None,
    width: int = D,
    heads: int = HEADS,
    groups: int | None = None,
) -> None:
    """Separate projections, the queries' over all heads, keys and values over the groups."""
    groups = heads if groups is None else groups
    size = width // heads
    for path, role, count in zip(names[:3], ("query", "key", "value"), (heads, groups, groups), strict=True):
        o.add(path, role, width, count * size, norm=norm, heads=count, branch=branch)
    o.add(names[3], "attn_out", heads * size, width, heads=heads, branch=branch)


def _mlp(
    o: Oracle, branch: int, enter: str, leave: str, norm: str | None, act: str, width: int = D, inner: int = FF
) -> None:
    o.add(enter, "mlp_in", width, inner, then=act, norm=norm, branch=branch)
    o.add(leave, "mlp_out", inner, width, branch=branch)


def mlp() -> tuple[Built, Oracle]:
    widths = [7, 20, 20, 20, 4]
    layers: list[nn.Module] = []
    o = Oracle(depth=4, classes=4)
    for i, (a, b) in enumerate(pairwise(widths)):
        role = "input" if i == 0 else "output" if i == 3 else "hidden"
        o.add(f"{len(layers)}.weight", role, a, b, then="none" if i == 3 else "elu")
        layers += [nn.Linear(a, b), nn.ELU()] if i < 3 else [nn.Linear(a, b)]
    return (nn.Sequential(*layers), (torch.ones(5, 7), None)), o


def siren() -> tuple[Built, Oracle]:
    from families import siren as built

    o = Oracle(depth=3, classes=1)
    for i, (role, a, b) in enumerate((("input", 2, 8), ("hidden", 8, 8), ("output", 8, 1))):
        o.add(f"layers.{i}.weight", role, a, b, then="sin" if i < 2 else "none")
    return built(), o


def plain_cnn() -> tuple[Built, Oracle]:
    from families import plain_cnn as built

    o = Oracle(depth=3, classes=5)
    o.add("0.weight", "input", 3 * 9, 8 * 9, then="relu")
    o.add("4.weight", "hidden", 8 // 2 * 9, 8 // 2 * 9, then="relu", norm="batch_norm")  # two groups
    o.add("8.weight", "output", 8, 5)
    return built(), o


def _resnet(layer_type: str, hidden: list[int], depths: list[int]) -> tuple[Built, Oracle]:
    net = _transformers(
        "ResNetForImageClassification",
        "ResNetConfig",
        embedding_size=8,
        hidden_sizes=hidden,
        depths=depths,
        layer_type=layer_type,
        num_labels=5,
    )
    convs = 3 if layer_type == "bottleneck" else 2
    o = Oracle(depth=1 + convs * sum(depths) + 1, residual_depth=sum(depths), classes=5)
    o.add("resnet.embedder.embedder.convolution.weight", "input", 3 * 49, 8 * 49, then="relu")
    before = 8
    for s, (width, count) in enumerate(zip(hidden, depths, strict=True)):
        for i in range(count):
            block = f"resnet.encoder.stages.{s}.layers.{i}"
            # Stage 0 does not stride, every other one does in its first block.
            projects = before != width or (i == 0 and s > 0)
            # A norm may lie before the first block's maps only where no sum and no ReLU'd stream does: after the stem.
            norm = "batch_norm" if s == i == 0 else None
            if projects:
                o.add(f"{block}.shortcut.convolution.weight", "shortcut", before, width, norm=norm)
            last = f"{block}.layer.{convs - 1}"
            b = o.ends("inner_norm", convs, f"{last}.convolution.weight", norm=f"{last}.normalization.weight")
            narrow = width // 4
            sizes = (
                [(before, narrow, 1), (narrow, narrow, 9), (narrow, width, 1)]
                if convs == 3
                else [(before, width, 9), (width, width, 9)]
            )
            for k, (a, c, kernel) in enumerate(sizes):
                ends = k == convs - 1
                o.add(
                    f"{block}.layer.{k}.convolution.weight",
                    "residual_out" if ends else "hidden",
                    a * kernel,
                    c * kernel,
                    then="none" if ends else "relu",
                    norm=norm if k == 0 else "batch_norm",
                    branch=b,
                )
            before = width
    o.add("classifier.1.weight", "output", before, 5)
    return (net, {"pixel_values": IMAGE}), o


def resnet_basic() -> tuple[Built, Oracle]:
    return _resnet("basic", [8, 16, 16], [2, 1, 2])


def resnet_bottleneck() -> tuple[Built, Oracle]:
    return _resnet("bottleneck", [8, 16], [2, 2])


def densenet() -> tuple[Built, Oracle]:
    from families import densenet as built

    o = Oracle(depth=6, classes=5)  # concatenations are no residual sums
    o.add("0.weight", "input", 3 * 9, 8 * 9, then="relu")
    o.add("1.convs.0.weight", "hidden", 8 * 9, 4 * 9, then="relu", norm="batch_norm")
    o.add("1.convs.1.weight", "hidden", (8 + 4) * 9, 4 * 9, norm="batch_norm")
    o.add("2.weight", "hidden", 8 + 2 * 4, 8, then="relu")
    o.add("4.convs.0.weight", "hidden", 8 * 9, 4 * 9, then="relu", norm="batch_norm")
    o.add("9.weight", "output", 8 + 4, 5, norm="batch_norm")
    return built(), o


def mobilenet() -> tuple[Built, Oracle]:
    net = _transformers("MobileNetV2ForImageClassification", "MobileNetV2Config", image_size=32, num_labels=5)
    c, strides = net.config, [2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1]
    widths = [16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320]
    o = Oracle(depth=3 + 3 * 16 + 1 + 1, classes=5)
    root = "mobilenet_v2"
    o.add(f"{root}.conv_stem.first_conv.convolution.weight", "input", 27, 32 * 9, then="relu6")
    o.add(f"{root}.conv_stem.conv_3x3.convolution.weight", "hidden", 9, 9, then="relu6", norm="batch_norm")
    o.add(f"{root}.conv_stem.reduce_1x1.convolution.weight", "hidden", 32, 16, norm="batch_norm")
    stride, summed = 2, False
    for i, (a, b) in enumerate(pairwise(widths)):
        step = 1 if stride == c.output_stride else strides[i]
        stride *= step
        path, wide = f"{root}.layer.{i}", int(a * c.expand_ratio)
        adds = step == 1 and a == b
        last = f"{path}.reduce_1x1"
        branch = (
            o.ends("inner_norm", 3, f"{last}.convolution.weight", norm=f"{last}.normalization.weight") if adds else None
        )
        # The linear bottleneck is followed by no activation; a residual sum is no norm.
        o.add(
            f"{path}.expand_1x1.convolution.weight",
            "hidden",
            a,
            wide,
            then="relu6",
            norm=None if summed else "batch_norm",
            branch=branch,
        )
        o.add(f"{path}.conv_3x3.convolution.weight", "hidden", 9, 9, then="relu6", norm="batch_norm", branch=branch)
        o.add(
            f"{last}.convolution.weight",
            "residual_out" if adds else "hidden",
            wide,
            b,
            norm="batch_norm",
            branch=branch,
        )
        summed = adds
    o.residual_depth = len(o.branches)
    o.add(f"{root}.conv_1x1.convolution.weight", "hidden", 320, 1280, then="relu6", norm="batch_norm")
    o.add("classifier.weight", "output", 1280, 5, norm="batch_norm")
    return (net, {"pixel_values": IMAGE}), o


def convnext() -> tuple[Built, Oracle]:
    hidden, depths = [8, 12, 16], [2, 1, 2]
    net = _transformers(
        "ConvNextForImageClassification",
        "ConvNextConfig",
        hidden_sizes=hidden,
        depths=depths,
        num_stages=3,
        num_labels=5,
    )
    o = Oracle(depth=1 + 3 * sum(depths) + 2 + 1, residual_depth=sum(depths), classes=5)
    o.add("convnext.embeddings.patch_embeddings.weight", "input", 3 * 16, 8 * 16)
    for s, (width, count) in enumerate(zip(hidden, depths, strict=True)):
        stage = f"convnext.encoder.stages.{s}"
        if s:
            o.add(f"{stage}.downsampling_layer.1.weight", "hidden", hidden[s - 1] * 4, width * 4, norm="layer_norm")
        for i in range(count):
            path = f"{stage}.layers.{i}"
            scale = f"{path}.layer_scale_parameter"
            b = o.ends("inner_norm", 3, f"{path}.pwconv2.weight", scale=scale)
            first = "layer_norm" if s == i == 0 else None  # only the stem's norm is not followed by a map or a sum
            o.add(f"{path}.dwconv.weight", "hidden", 49, 49, norm=first, branch=b)
            o.add(f"{path}.pwconv1.weight", "hidden", width, 4 * width, then="gelu", norm="layer_norm", branch=b)
            o.add(f"{path}.pwconv2.weight", "residual_out", 4 * width, width, branch=b)
            o.others[scale] = "branch_scale"
    o.add("classifier.weight", "output", hidden[-1], 5, norm="layer_norm")
    return (net, {"pixel_values": IMAGE}), o


def unet() -> tuple[Built, Oracle]:
    from families import unet as built

    o = Oracle(depth=6, classes=2)
    for path, role, a, b in (
        ("enter", "input", 3 * 9, 8 * 9),
        ("down", "hidden", 8 * 9, 16 * 9),
        ("middle", "hidden", 16 * 9, 16 * 9),
        ("up", "hidden", 16 * 16 / 4, 8 * 16),  # a stride of two in both directions: a quarter of the taps meet
        ("merge", "hidden", (8 + 8) * 9, 8 * 9),
    ):
        o.add(f"{path}.weight", role, a, b, then="relu")
    o.add("out.weight", "output", 8, 2)
    return built(), o


def vit() -> tuple[Built, Oracle]:
    net = _transformers(
        "ViTForImageClassification",
        "ViTConfig",
        hidden_size=D,
        intermediate_size=FF,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=32,
        patch_size=8,
        num_labels=5,
    )
    o = Oracle(depth=1 + 4 * LAYERS + 1, residual_depth=2 * LAYERS, classes=5)
    o.add("vit.embeddings.patch_embeddings.projection.weight", "input", 3 * 64, D * 64)
    o.others = {"vit.embeddings.cls_token": "token", "vit.embeddings.position_embeddings": "position"}
    for i in range(LAYERS):
        path = f"vit.layers.{i}"
        names = tuple(f"{path}.attention.{n}_proj.weight" for n in "qkvo")
        _attention(o, o.ends("pre_norm", 2, names[3]), names, "layer_norm")  # type: ignore[arg-type]
        leave = f"{path}.mlp.fc2.weight"
        _mlp(o, o.ends("pre_norm", 2, leave), f"{path}.mlp.fc1.weight", leave, "layer_norm", "gelu")
    o.add("classifier.weight", "output", D, 5, norm="layer_norm")
    return (net, {"pixel_values": IMAGE}), o


def swin() -> tuple[Built, Oracle]:
    depths, heads, width = [2, 2], [2, 4], 8
    net = _transformers(
        "SwinForImageClassification",
        "SwinConfig",
        image_size=32,
        patch_size=2,
        embed_dim=width,
        depths=depths,
        num_heads=heads,
        window_size=4,
        num_labels=5,
    )
    o = Oracle(depth=1 + 4 * 4 + 1 + 1, residual_depth=8, classes=5)
    o.add("swin.embeddings.patch_embeddings.projection.weight", "input", 3 * 4, width * 4)
    for s, count in enumerate(depths):
        for i in range(count):
            path = f"swin.encoder.layers.{s}.blocks.{i}"
            names = tuple(f"{path}.attention.{n}_proj.weight" for n in "qkvo")
            _attention(o, o.ends("pre_norm", 2, names[3]), names, "layer_norm", width, heads[s])  # type: ignore[arg-type]
            table = f"{path}.attention.relative_position_bias.relative_position_bias_table"
            o.others[table] = "relative_bias"
            leave = f"{path}.mlp.fc2.weight"
            b = o.ends("pre_norm", 2, leave)
            _mlp(o, b, f"{path}.mlp.fc1.weight", leave, "layer_norm", "gelu", width, 4 * width)
        if s == 0:  # four neighbours side by side become twice the width
            o.add(
                "swin.encoder.layers.0.downsample.reduction.weight", "hidden", 4 * width, 2 * width, norm="layer_norm"
            )
            width *= 2
    o.add("classifier.weight", "output", width, 5, norm="layer_norm")
    return (net, {"pixel_values": IMAGE}), o


def mixer() -> tuple[Built, Oracle]:
    from families import mixer as built

    o = Oracle(depth=6, residual_depth=2, classes=5)
    o.add("stem.weight", "input", 3 * 64, 8 * 64)
    b = o.ends("pre_norm", 2, "block.tokens.2.weight")
    _mlp(o, b, "block.tokens.0.weight", "block.tokens.2.weight", "layer_norm", "gelu", (32 // 8) ** 2, 32)
    b = o.ends("pre_norm", 2, "block.channels.2.weight")
    _mlp(o, b, "block.channels.0.weight", "block.channels.2.weight", "layer_norm", "gelu", 8, 24)
    o.add("head.weight", "output", 8, 5, norm="layer_norm")
    return built(), o


def gpt2() -> tuple[Built, Oracle]:
    net = _transformers("GPT2LMHeadModel", "GPT2Config", n_layer=LAYERS, n_embd=D, n_head=HEADS, n_inner=FF, **TEXT)
    o = Oracle(depth=1 + 4 * LAYERS + 1, residual_depth=2 * LAYERS, classes=VOCAB)
    o.add("transformer.wte.weight", "embedding", 1, D)
    o.add("transformer.wpe.weight", "position", 1, D)
    for i in range(LAYERS):
        path = f"transformer.h.{i}"
        b = o.ends("pre_norm", 2, f"{path}.attn.c_proj.weight")
        o.add(
            f"{path}.attn.c_attn.weight",
            "qkv",
            D,
            D,
            norm="layer_norm",
            heads=HEADS,
            branch=b,
            parts={"query": D, "key": D, "value": D},
        )
        o.add(f"{path}.attn.c_proj.weight", "attn_out", D, D, heads=HEADS, branch=b)
        leave = f"{path}.mlp.c_proj.weight"
        _mlp(o, o.ends("pre_norm", 2, leave), f"{path}.mlp.c_fc.weight", leave, "layer_norm", "gelu")
    o.add("lm_head.weight", "output", D, VOCAB, norm="layer_norm")
    o.tied = {"lm_head.weight": "transformer.wte.weight"}
    return (net, {"input_ids": IDS}), o


def gpt_neox() -> tuple[Built, Oracle]:
    net = _transformers("GPTNeoXForCausalLM", "GPTNeoXConfig", **SMALL)
    # Attention and MLP read the same stream and are added together: two maps deeper and one sum further per layer.
    o = Oracle(depth=1 + 2 * LAYERS + 1, residual_depth=LAYERS, classes=VOCAB)
    o.add("gpt_neox.embed_in.weight", "embedding", 1, D)
    for i in range(LAYERS):
        path = f"gpt_neox.layers.{i}"
        leave = f"{path}.mlp.dense_4h_to_h.weight"
        # The sum is written as MLP + attention + stream.
        b = o.ends("pre_norm", 2, leave, beside=(2 * i + 1,))
        _mlp(o, b, f"{path}.mlp.dense_h_to_4h.weight", leave, "layer_norm", "gelu")
        b = o.ends("pre_norm", 2, f"{path}.attention.dense.weight", beside=(2 * i,))
        o.add(
            f"{path}.attention.query_key_value.weight",
            "qkv",
            D,
            D,
            norm="layer_norm",
            heads=HEADS,
            branch=b,
            parts={"query": D, "key": D, "value": D},
        )
        o.add(f"{path}.attention.dense.weight", "attn_out", D, D, heads=HEADS, branch=b)
    o.add("lm_head.weight", "output", D, VOCAB, norm="layer_norm")
    return (net, {"input_ids": IDS}), o


def _llama_attention(o: Oracle, i: int, groups: int) -> None:
    names = tuple(f"model.layers.{i}.self_attn.{n}_proj.weight" for n in "qkvo")
    _attention(o, o.ends("pre_norm", 2, names[3]), names, "rms_norm", groups=groups)  # type: ignore[arg-type]


def llama() -> tuple[Built, Oracle]:
    net = _transformers("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=1, **SMALL)
    o = Oracle(depth=1 + 4 * LAYERS + 1, residual_depth=2 * LAYERS, classes=VOCAB)
    o.add("model.embed_tokens.weight", "embedding", 1, D)
    for i in range(LAYERS):
        _llama_attention(o, i, 1)
        path = f"model.layers.{i}.mlp"
        b = o.ends("pre_norm", 2, f"{path}.down_proj.weight")
        o.add(f"{path}.gate_proj.weight", "mlp_gate", D, FF, then="silu", norm="rms_norm", branch=b)
        o.add(f"{path}.up_proj.weight", "mlp_in", D, FF, norm="rms_norm", branch=b)
        o.add(f"{path}.down_proj.weight", "mlp_out", FF, D, branch=b)
    o.add("lm_head.weight", "output", D, VOCAB, norm="rms_norm")
    return (net, {"input_ids": IDS}), o


def mixtral() -> tuple[Built, Oracle]:
    experts = 5
    net = _transformers(
        "MixtralForCausalLM", "MixtralConfig", num_key_value_heads=1, num_local_experts=experts, **SMALL
    )
    o = Oracle(depth=1 + 4 * LAYERS + 1, residual_depth=2 * LAYERS, classes=VOCAB)
    o.add("model.embed_tokens.weight", "embedding", 1, D)
    for i in range(LAYERS):
        _llama_attention(o, i, 1)
        path = f"model.layers.{i}.mlp"
        b = o.ends("pre_norm", 2, f"{path}.experts.down_proj")
        o.add(f"{path}.gate.weight", "router", D, experts, norm="rms_norm", branch=b)
        o.add(
            f"{path}.experts.gate_up_proj",
            "mlp_in",
            D,
            FF,
            then="silu",
            norm="rms_norm",
            branch=b,
            parts={"gate": FF, "up": FF},
        )
        o.add(f"{path}.experts.down_proj", "mlp_out", FF, D, branch=b)
    o.add("lm_head.weight", "output", D, VOCAB, norm="rms_norm")
    return (net, {"input_ids": IDS}), o


def bert() -> tuple[Built, Oracle]:
    net = _transformers("BertForMaskedLM", "BertConfig", **SMALL)
    o = Oracle(depth=1 + 4 * LAYERS + 2, residual_depth=2 * LAYERS, classes=VOCAB)
    words = "bert.embeddings.word_embeddings.weight"
    for path, role in (
        (words, "embedding"),
        ("bert.embeddings.position_embeddings.weight", "position"),
        ("bert.embeddings.token_type_embeddings.weight", "embedding"),
    ):
        o.add(path, role, 1, D)
    for i in range(LAYERS):
        path = f"bert.encoder.layer.{i}"
        names = (
            *(f"{path}.attention.self.{n}.weight" for n in ("query", "key", "value")),
            f"{path}.attention.output.dense.weight",
        )
        _attention(o, o.ends("post_norm", 2, names[3]), names, "layer_norm")  # type: ignore[arg-type]
        leave = f"{path}.output.dense.weight"
        _mlp(o, o.ends("post_norm", 2, leave), f"{path}.intermediate.dense.weight", leave, "layer_norm", "gelu")
    o.add("cls.predictions.transform.dense.weight", "hidden", D, D, then="gelu", norm="layer_norm")
    o.add("cls.predictions.decoder.weight", "output", D, VOCAB, norm="layer_norm")
    o.others["cls.predictions.bias"] = "bias"
    o.tied = {"cls.predictions.decoder.weight": words, "cls.predictions.decoder.bias": "cls.predictions.bias"}
    return (net, {"input_ids": IDS}), o


def t5() -> tuple[Built, Oracle]:
    net = _transformers(
        "T5ForConditionalGeneration",
        "T5Config",
        d_model=D,
        d_ff=FF,
        d_kv=D // HEADS,
        num_layers=LAYERS,
        num_decoder_layers=2,
        num_heads=HEADS,
        vocab_size=VOCAB,
    )
    # The longest way runs through the encoder and joins the decoder at its first cross-attention.
    o = Oracle(depth=1 + 4 * LAYERS + 2 + 2 + 6 + 1, residual_depth=2 * LAYERS + 2 + 3, classes=VOCAB)
    o.add("shared.weight", "embedding", 1, D)
    for side, layers in (("encoder", LAYERS), ("decoder", 2)):
        o.tied[f"{side}.embed_tokens.weight"] = "shared.weight"
        o.add(f"{side}.embed_tokens.weight", "embedding", 1, D)
        kinds = ("SelfAttention", "EncDecAttention") if side == "decoder" else ("SelfAttention",)
        o.others[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = "relative_bias"
        for i in range(layers):
            for k, kind in enumerate(kinds):
                names = tuple(f"{side}.block.{i}.layer.{k}.{kind}.{n}.weight" for n in "qkvo")
                _attention(o, o.ends("pre_norm", 2, names[3]), names, "rms_norm")  # type: ignore[arg-type]
            path = f"{side}.block.{i}.layer.{len(kinds)}.DenseReluDense"
            b = o.ends("pre_norm", 2, f"{path}.wo.weight")
            _mlp(o, b, f"{path}.wi.weight", f"{path}.wo.weight", "rms_norm", "relu")
    o.add("lm_head.weight", "output", D, VOCAB, norm="rms_norm")
    o.tied["lm_head.weight"] = "shared.weight"
    return (net, {"input_ids": IDS, "decoder_input_ids": IDS}), o


def whisper() -> tuple[Built, Oracle]:
    net = _transformers(
        "WhisperModel",
        "WhisperConfig",
        d_model=D,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=FF,
        decoder_ffn_dim=FF,
        max_source_positions=20,
        max_target_positions=12,
        decoder_start_token_id=3,
        num_mel_bins=10,
        **TEXT,
    )
    o = Oracle(depth=2 + 4 * 2 + 2 + 2 + 6, residual_depth=2 * 2 + 2 + 3)
    o.add("encoder.conv1.weight", "input", 10 * 3, D * 3, then="gelu")
    o.add("encoder.conv2.weight", "hidden", D * 3, D * 3, then="gelu")
    o.others = {"encoder.embed_positions.weight": "position", "decoder.embed_positions.weight": "position"}
    for side in ("encoder", "decoder"):
        for i in range(2):
            path = f"{side}.layers.{i}"
            for kind in ("self_attn", "encoder_attn")[: 1 if side == "encoder" else 2]:
                names = (*(f"{path}.{kind}.{n}_proj.weight" for n in "qkv"), f"{path}.{kind}.out_proj.weight")
                _attention(o, o.ends("pre_norm", 2, names[3]), names, "layer_norm")  # type: ignore[arg-type]
            b = o.ends("pre_norm", 2, f"{path}.fc2.weight")
            _mlp(o, b, f"{path}.fc1.weight", f"{path}.fc2.weight", "layer_norm", "gelu")
    o.add("decoder.embed_tokens.weight", "embedding", 1, D)
    return (net, {"input_features": torch.linspace(-1, 1, 800).view(2, 10, 40), "decoder_input_ids": IDS}), o


def mamba() -> tuple[Built, Oracle]:
    state, rank, inner, taps = 4, 2, 2 * D, 4
    net = _transformers(
        "MambaForCausalLM",
        "MambaConfig",
        hidden_size=D,
        num_hidden_layers=2,
        state_size=state,
        time_step_rank=rank,
        **TEXT,
    )
    # On the longest way of a mixer: in, convolution, x, dt, out.
    o = Oracle(depth=1 + 5 * 2 + 1, residual_depth=2, classes=VOCAB)
    o.add("backbone.embeddings.weight", "embedding", 1, D)
    for i in range(2):
        path = f"backbone.layers.{i}.mixer"
        b = o.ends("pre_norm", 5, f"{path}.out_proj.weight")
        o.add(
            f"{path}.in_proj.weight",
            "hidden",
            D,
            inner,
            then="silu",
            norm="rms_norm",
            branch=b,
            parts={"part_0": inner, "part_1": inner},
        )
        o.add(f"{path}.conv1d.weight", "hidden", taps, taps, then="silu", branch=b)
        o.add(
            f"{path}.x_proj.weight",
            "hidden",
            inner,
            rank,
            branch=b,
            parts={"part_0": rank, "part_1": state, "part_2": state},
        )
        o.add(f"{path}.dt_proj.weight", "hidden", rank, inner, then="softplus", branch=b)
        o.add(f"{path}.out_proj.weight", "residual_out", inner, D, branch=b)
        o.others |= {f"{path}.{n}": "state" for n in ("A_log", "D", "dt_proj.bias")}
    o.add("lm_head.weight", "output", D, VOCAB, norm="rms_norm")
    o.tied = {"lm_head.weight": "backbone.embeddings.weight"}
    return (net, {"input_ids": IDS}), o


def lstm_lm() -> tuple[Built, Oracle]:
    from families import lstm_lm as built

    o = Oracle(depth=4, classes=20)
    o.add("embed.weight", "embedding", 1, 8)
    gates = {f"{n}_gate": 8 for n in ("input", "forget", "cell", "output")}
    for layer in range(2):
        o.add(f"rnn.weight_ih_l{layer}", "recurrent_input", 8, 8, parts=gates)
        o.add(f"rnn.weight_hh_l{layer}", "recurrent_hidden", 8, 8, parts=gates)
        o.others |= {f"rnn.bias_{n}_l{layer}": "bias" for n in ("ih", "hh")}
    o.add("head.weight", "output", 8, 20)
    o.tied = {"head.weight": "embed.weight"}
    return built(), o


def gcn() -> tuple[Built, Oracle]:
    from families import gcn as built

    o = Oracle(depth=3, classes=3)
    o.add("first.lin.weight", "input", 6, 8, then="elu")
    o.add("second.lin.weight", "hidden", 8, 8, then="elu")
    o.add("head.weight", "output", 8, 3)
    o.others = {"first.bias": "bias", "second.bias": "bias"}
    return built(), o


def gat() -> tuple[Built, Oracle]:
    from families import gat as built

    _, o = gcn()
    for layer in ("first", "second"):  # a vector per head: its features are multiplied and summed
        for end in ("src", "dst"):
            o.add(f"{layer}.att_{end}", "hidden", 4, 1, then="leaky_relu")
    return built(), o


def dit() -> tuple[Built, Oracle]:
    from families import dit as built

    o = Oracle(depth=8, residual_depth=2, classes=12)  # time, time, modulation, qkv, out, in, out, final
    o.others["position"] = "position"
    o.add("patch.weight", "input", 3 * 64, 8 * 64)
    o.add("time.0.weight", "input", 16, 8, then="silu")
    o.add("time.2.weight", "hidden", 8, 8, then="silu")
    o.add("label.weight", "embedding", 1, 8, then="silu")
    o.add("block.modulation.weight", "modulation", 8, 8, parts={f"part_{i}": 8 for i in range(6)})
    o.add("final_modulation.weight", "modulation", 8, 8, parts={f"part_{i}": 8 for i in range(2)})
    b = o.ends("pre_norm", 2, "block.proj.weight")
    o.add(
        "block.qkv.weight", "qkv", 8, 8, norm="layer_norm", heads=2, branch=b, parts={"query": 8, "key": 8, "value": 8}
    )
    o.add("block.proj.weight", "attn_out", 8, 8, heads=2, branch=b)
    b = o.ends("pre_norm", 2, "block.fc2.weight")
    _mlp(o, b, "block.fc1.weight", "block.fc2.weight", "layer_norm", "gelu", 8, 32)
    o.add("final.weight", "output", 8, 12, norm="layer_norm")
    return built(), o


def vae() -> tuple[Built, Oracle]:
    from families import vae as built

    o = Oracle(depth=4, classes=12)
    o.add("encode.weight", "input", 12, 16, then="relu")
    o.add("mean.weight", "hidden", 16, 4)
    o.add("spread.weight", "hidden", 16, 4, then="custom_0")  # exp(x / 2): no activation with a name
    o.add("decode.weight", "hidden", 4, 16, then="relu")
    o.add("out.weight", "output", 16, 12, then="sigmoid")
    return built(), o


def dcgan_generator() -> tuple[Built, Oracle]:
    from families import dcgan_generator as built

    o = Oracle(depth=3, classes=3)
    o.add("0.weight", "input", 6 * 16, 16 * 16, then="relu")
    o.add("3.weight", "hidden", 16 * 16 / 4, 8 * 16, then="relu", norm="batch_norm")
    o.add("6.weight", "output", 8 * 16 / 4, 3 * 16, then="tanh", norm="batch_norm")
    return built(), o


def dcgan_discriminator() -> tuple[Built, Oracle]:
    from families import dcgan_discriminator as built

    o = Oracle(depth=3, classes=1)
    o.add("0.weight", "input", 3 * 16, 8 * 16, then="leaky_relu")
    o.add("2.weight", "hidden", 8 * 16, 16 * 16, then="leaky_relu")
    o.add("5.weight", "output", 16 * 64, 1 * 64, then="sigmoid", norm="batch_norm")
    return built(), o


ORACLES: dict[str, Callable[[], tuple[Built, Oracle]]] = {
    f.__name__: f
    for f in (
        mlp,
        siren,
        plain_cnn,
        resnet_basic,
        resnet_bottleneck,
        densenet,
        mobilenet,
        convnext,
        unet,
        vit,
        swin,
        mixer,
        gpt2,
        gpt_neox,
        llama,
        mixtral,
        bert,
        t5,
        whisper,
        mamba,
        lstm_lm,
        gcn,
        gat,
        dit,
        vae,
        dcgan_generator,
        dcgan_discriminator,
    )
}
