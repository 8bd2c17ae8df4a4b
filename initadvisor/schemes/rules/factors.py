"""Factors on the standard deviation that grow or fall with depth, each as its paper states it, in this one place.

Layers are counted as the papers do: a transformer layer of an encoder has two residual branches, of a decoder that
reads an encoder three. Rules and recipes both take their numbers from here.
"""

from __future__ import annotations

import math

from initadvisor.graph.spec import ModelSpec
from initadvisor.schemes.rules.reading import ATTENTION_ROLES, residual_count


def root_of_branches(branches: int) -> float:
    """1/√branches: what keeps the sum of equal branches at the size of one (Radford et al. 2019, section 2.3)."""
    return float(branches**-0.5)


def root_of_layer(layer: int) -> float:
    """1/√(2·layer) with layers from 1: torchtitan's Llama, smaller the later a layer writes (Liang et al. 2024)."""
    return float((2 * layer) ** -0.5)


def fixup(branches: int, layers: int) -> float:
    """L^(−1/(2m−2)) for the layers but the last of each of L branches of m (Zhang et al. 2019, section 3, rule 2).

    Example:
        >>> fixup(16, 3), fixup(16, 1)
        (0.5, 1.0)
    """
    return 1.0 if layers < 2 else float(branches ** (-1 / (2 * layers - 2)))


def tfixup_encoder(layers: int) -> float:
    """.67·N^(−1/4) for values, outputs and feed-forward of an encoder of N layers (Huang et al. 2020, section 3.2)."""
    return 0.67 * float(layers**-0.25)


def tfixup_decoder(layers: int) -> float:
    """(9N)^(−1/4) for the same and the embeddings of a decoder of N layers (Huang et al. 2020, section 3.2).

    Their code's further √2 on values undoes the 1/√2 of its packed projection, and is no part of the method.
    """
    return float((9 * layers) ** -0.25)


def deepnorm(layers: int) -> float:
    """β = (8N)^(−1/4) of an encoder or a decoder alone (Wang et al. 2022, figure 2)."""
    return float((8 * layers) ** -0.25)


def deepnorm_encoder(encoder: int, decoder: int) -> float:
    """β = .87·(N⁴M)^(−1/16) of the N encoder layers beside M of a decoder (Wang et al. 2022, figure 2)."""
    return 0.87 * float((encoder**4 * decoder) ** (-1 / 16))


def deepnorm_decoder(decoder: int) -> float:
    """β = (12M)^(−1/4) of the M decoder layers behind an encoder (Wang et al. 2022, figure 2)."""
    return float((12 * decoder) ** -0.25)


def subln(layers: int) -> float:
    """γ = √ln(2N) of an encoder or a decoder alone (Wang et al. 2023, figure 3)."""
    return math.sqrt(math.log(2 * layers))


def subln_encoder(encoder: int, decoder: int) -> float:
    """γ = √(ln(3M)·ln(2N)/3) of the N encoder layers beside M of a decoder (Wang et al. 2023, figure 3)."""
    return math.sqrt(math.log(3 * decoder) * math.log(2 * encoder) / 3)


def subln_decoder(decoder: int) -> float:
    """γ = √ln(3M) of the M decoder layers behind an encoder (Wang et al. 2023, figure 3)."""
    return math.sqrt(math.log(3 * decoder))


def decoder_branches(spec: ModelSpec) -> tuple[tuple[int, int, int], ...]:
    """Decoder layers that read an encoder: three branches in a row that attend, attend and do not."""
    attends = [any(p in spec and spec[p].role in ATTENTION_ROLES for p in branch.params) for branch in spec.branches]
    found: list[tuple[int, int, int]] = []
    for i in range(len(attends) - 2):
        before = found[-1][2] if found else -1
        # An attention right before belongs to the same run of attentions, which is no decoder's.
        alone = i == 0 or i - 1 == before or not attends[i - 1]
        if i > before and alone and attends[i : i + 3] == [True, True, False]:
            found.append((i, i + 1, i + 2))
    return tuple(found)


def layer_counts(spec: ModelSpec) -> tuple[int, int]:
    """Layers of the encoder (or of the one stack there is), and of a decoder that reads it (0 where there is none)."""
    decoder = len(decoder_branches(spec))
    branches = len(spec.branches) - 3 * decoder if decoder else residual_count(spec)
    return max(1, branches // 2), decoder


def in_decoder(branch: int | None, spec: ModelSpec) -> bool:
    """Whether a branch belongs to a decoder that reads an encoder."""
    return any(branch in layer for layer in decoder_branches(spec))
