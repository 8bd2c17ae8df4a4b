"""Sentences about a decision are read against its figures, over decisions nobody wrote by hand."""

from __future__ import annotations

import math
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from initadvisor.report.verdict import chance, headline, how_sure, portion
from initadvisor.trials.result import Decision, Ground, Verdict

LONGEST_SENTENCE = 25
"""Words."""


@st.composite
def decisions(draw: st.DrawFn) -> Decision:
    ground = draw(st.sampled_from(list(Ground)))
    if ground in (Ground.ALL_BREAK, Ground.STOPPED, Ground.NO_CANDIDATE, Ground.CANDIDATES_BREAK):
        return Decision.unconfirmed(ground, 0.01, full_steps=draw(st.sampled_from([None, 400])))
    better = draw(st.floats(0, 1))
    worse = draw(st.floats(0, 1)) * (1 - better)
    gain = draw(st.floats(-1, 1))
    verdict = draw(st.sampled_from(list(Verdict)))
    seeds = draw(st.integers(1, 8))
    breaks = ground is Ground.CURRENT_BREAKS
    return Decision(
        verdict=verdict,
        ground=ground,
        scheme="other" if verdict is Verdict.SWITCH else "current",
        lr=0.01,
        challenger="other",
        challenger_lr=0.01,
        control_lr=0.03,
        p_better=better,
        p_worse=worse,
        gain=gain,
        gain_low=max(-1.0, gain - 0.2),
        gain_high=min(1.0, gain + 0.2),
        current_loss=math.inf if breaks else draw(st.floats(1e-4, 1e4)),
        challenger_loss=draw(st.floats(1e-4, 1e4)),
        seeds=seeds,
        fresh=draw(st.integers(0, seeds)),
        dead=seeds if breaks else 0,
        horizon=0 if ground is Ground.RULES else draw(st.integers(1, 500)),
        full_steps=draw(st.sampled_from([None, 1, 500, 20_000])),
        more_steps=draw(st.sampled_from([0, 1, 40, 4000])),
    )


def sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=[.:;])\s+", text) if s]


@given(decisions())
@settings(max_examples=500, deadline=None)
def test_words_and_figures_agree(d: Decision) -> None:
    first, told = headline(d), " ".join(how_sure(d))
    assert first.startswith(("Use", "Keep", "Undecided", "No advice", "Stopped", "By the rules", "The budget"))
    if d.verdict is Verdict.SWITCH:
        assert '"other"' in first
        assert "Keep" not in first
    if first.startswith("Keep"):
        assert d.verdict is Verdict.KEEP
        assert d.ground not in (Ground.ALL_BREAK, Ground.STOPPED, Ground.RULES)
    if d.ground is Ground.ALL_BREAK:
        assert "broke down" in first
    if d.challenger != "current" and d.ground not in (Ground.ALL_BREAK, Ground.STOPPED):
        assert chance(d.p_better) in told
        assert chance(d.p_worse) in told
        assert portion(d.gain) in told
        assert ("lower" in portion(d.gain)) <= (d.gain > 0)
    everything = f"{first} {told}"
    for bad in (r"\b1 steps", "nan", "inf ", "p <", "None", r"\b1 fresh seeds", r"\b1 seeds", "not beyond"):
        assert not re.search(bad, everything), everything
    assert all(len(s.split()) <= LONGEST_SENTENCE for s in sentences(everything)), everything


@given(st.floats(0, 1), st.floats(0, 1))
def test_odds_in_words_keep_their_order(a: float, b: float) -> None:
    def read(p: float) -> float:
        found = re.search(r"(fewer than |more than )?(\d+) in (\d+)", chance(p))
        assert found is not None
        return int(found[2]) / int(found[3]) * {"fewer than ": 0.5, "more than ": 1.005, None: 1.0}[found[1]]

    assert abs(read(a) - a) <= 0.06
    if a <= b:
        assert read(a) <= read(b) + 1e-9
