"""Depth factors against the numbers of their papers: an 8 for a 9 or a missing 2 is seen. Recipes use the same."""

from __future__ import annotations

import math

import pytest
from handmade import spec_of, weight

from initadvisor.graph.spec import Branch
from initadvisor.recipes.symbols import SCALES
from initadvisor.schemes.rules import factors
from initadvisor.types import Role

PAPERS = [
    # (ours, number worked out by hand from the paper's formula, formula)
    (lambda: factors.root_of_branches(24), 0.2041241, "GPT-2: 1/√N, N residual layers"),
    (lambda: factors.root_of_layer(1), 0.7071068, "torchtitan: 1/√(2(i+1)), first layer"),
    (lambda: factors.root_of_layer(8), 0.25, "the same, eighth layer"),
    (lambda: factors.fixup(16, 2), 0.25, "Fixup: 16^(−1/2)"),
    (lambda: factors.fixup(16, 3), 0.5, "Fixup: 16^(−1/4)"),
    (lambda: factors.tfixup_encoder(16), 0.335, "T-Fixup, encoder: .67·16^(−1/4)"),
    (lambda: factors.tfixup_decoder(9), 1 / 3, "T-Fixup, decoder: 81^(−1/4)"),
    (lambda: factors.deepnorm(2), 0.5, "DeepNorm: 16^(−1/4)"),
    (lambda: factors.deepnorm(32), 0.25, "DeepNorm: 256^(−1/4)"),
    (lambda: factors.deepnorm_encoder(4, 256), 0.87 / 2, "DeepNorm, encoder of both: (4⁴·256)^(−1/16) = 2^(−1)"),
    (lambda: factors.deepnorm_decoder(108), 1 / 6, "DeepNorm, decoder of both: 1296^(−1/4)"),
    (lambda: factors.subln(12), 1.7827097, "Sub-LN: √ln 24"),
    (lambda: factors.subln_decoder(9), 1.8154440, "Sub-LN, decoder of both: √ln 27"),
    (lambda: factors.subln_encoder(12, 9), 1.8685419, "Sub-LN, encoder of both: √(ln 27·ln 24/3)"),
]


@pytest.mark.parametrize(("ours", "number", "formula"), PAPERS, ids=[p[2] for p in PAPERS])
def test_a_factor_is_what_its_paper_says(ours, number, formula):
    assert ours() == pytest.approx(number, rel=1e-6)


def stack(kinds: str):
    """One branch for each letter: A attends, M does not."""
    entries = [
        weight(f"w{i}", (8, 8), Role.ATTN_OUT if kind == "A" else Role.MLP_OUT, branch=i, branch_last=True)
        for i, kind in enumerate(kinds)
    ]
    branches = tuple(Branch(i, (f"w{i}",), 2, (f"w{i}",)) for i in range(len(kinds)))
    return spec_of(*entries, branches=branches, residual_depth=len(kinds))


def test_layers_are_counted_as_the_papers_count_them():
    assert factors.layer_counts(stack("AM" * 6)) == (6, 0)
    assert factors.layer_counts(stack("AM" * 2 + "AAM" * 3)) == (2, 3)
    assert factors.in_decoder(4, stack("AM" * 2 + "AAM" * 3))
    assert not factors.in_decoder(3, stack("AM" * 2 + "AAM" * 3))


def test_recipes_take_the_same_numbers_as_rules():
    alone, both = stack("AM" * 6), stack("AM" * 2 + "AAM" * 3)
    first, last = alone["w0"], both["w9"]
    assert SCALES["deepnorm"](first, alone) == factors.deepnorm(6)
    assert SCALES["sub-ln"](first, alone) == factors.subln(6) == math.sqrt(math.log(12))
    assert SCALES["t-fixup"](first, alone) == factors.tfixup_encoder(6)
    assert SCALES["t-fixup:decoder"](last, both) == factors.tfixup_decoder(3)
    assert SCALES["t-fixup"](both["w0"], both) == factors.tfixup_encoder(2)
    assert SCALES["1/sqrt(branches)"](first, alone) == factors.root_of_branches(12)
    assert SCALES["1/sqrt(2*layer)"](alone["w11"], alone) == factors.root_of_layer(6)
    assert SCALES["fixup"](first, alone) == factors.fixup(12, 2)
