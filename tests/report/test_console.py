"""The terminal report: says what to do first, fits every width, hides nothing that is missing or infinite."""

from __future__ import annotations

import re

import pytest
from evidences import ALL, infinite, interrupted, keep, switch, undecided

from initadvisor.report.console import render
from initadvisor.report.sentences import effect, figures_in_words, headline, starts_from_zero
from initadvisor.report.tables import render_spec
from initadvisor.schemes.scheme import Assignment, Fill, Part, Scheme, SchemeKind
from initadvisor.trials.result import SignalFlow
from initadvisor.types import Fans

ANSI = re.compile(r"\x1b\[")
WIDTHS = (60, 80, 120, 160)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ALL)
def test_no_line_is_longer_than_the_terminal(name: str, width: int) -> None:
    text = render(ALL[name](), width=width, color=False)
    assert text.strip()
    assert max(map(len, text.splitlines())) <= width
    assert not ANSI.search(text)


@pytest.mark.parametrize("name", ALL)
def test_colour_is_only_paint(name: str) -> None:
    """With colour it says the same; without, there is not one escape code."""
    plain = render(ALL[name](), width=100, color=False)
    painted = render(ALL[name](), width=100, color=True)
    assert ANSI.search(painted)
    strip = re.sub(r"\x1b\[[0-9;]*m", "", painted)
    assert [line.rstrip() for line in strip.splitlines()] == [line.rstrip() for line in plain.splitlines()]


@pytest.mark.parametrize("name", ALL)
def test_ascii_terminals_are_served(name: str) -> None:
    render(ALL[name](), width=80, color=False, unicode=False).encode("ascii")


def test_the_first_line_is_the_advice() -> None:
    first = {name: render(make(), width=120, color=False).strip().splitlines()[0] for name, make in ALL.items()}
    assert first["switch"].startswith('Use "orthogonal_tanh" at learning rate 0.03')
    assert first["keep"].startswith("Keep the weights as they are")
    assert first["undecided"].startswith("Undecided, so keep")
    assert "fail on every fresh seed" in first["infinite"]
    for name, make in ALL.items():
        assert headline(make()).startswith(first[name][:40])


def test_what_was_not_understood_comes_before_the_reasons() -> None:
    text = render(infinite(), width=100, color=False)
    assert text.index("strange.kernel_with_a_very_long_name") < text.index("Why")
    assert "my_fft" in text
    assert "spare.weight" in text


def test_keeping_says_what_is_the_problem_instead() -> None:
    text = render(keep(), width=100, color=False)
    assert text.index("Initialisation is not your problem here") < text.index("Why")
    assert "regularisation" in text


def test_an_interruption_is_said() -> None:
    assert "Stopped early" in render(interrupted(), width=80, color=False)
    assert "Stopped early" not in render(switch(), width=80, color=False)


def test_the_effect_is_told_with_interval_seeds_and_p() -> None:
    told = effect(switch())
    assert "2.11 to 2.23" in told
    assert "5 fresh seeds" in told
    assert "p < 0.001" in told
    assert "not enough to promise" in effect(undecided())
    assert "exact binomial" in effect(infinite())


def test_every_candidate_is_listed_with_its_end() -> None:
    text = render(switch(), width=140, color=False)
    for name in ("orthogonal_tanh", "kaiming_normal", "current", "normal_std_1", "zeros"):
        assert name in text
    assert "the loss became infinite" in text
    assert "gradient is exactly zero in 23 layers" in text


def flow(forward: tuple[float, ...]) -> SignalFlow:
    n = len(forward)
    return SignalFlow(tuple(map(str, range(n))), tuple(range(n)), forward, forward)


def test_zeros_on_purpose_are_not_a_dying_signal() -> None:
    before, after = flow((1.0, 1.0, 1.0)), flow((1.0, 0.0, 1.0))
    dying = " ".join(figures_in_words(before, after, "x"))
    meant = " ".join(figures_in_words(before, after, "x", zeros_meant=True))
    assert "dies" in dying
    assert "dies" not in meant
    assert "on purpose" in meant
    zero = Part(Fill("zeros"), Fans(4, 4))
    for shape, answer in (((4, 4), True), ((4,), False)):
        scheme = Scheme("x", SchemeKind.RULES, "", (Assignment("w", shape, (zero,), "r", "because"),))
        assert starts_from_zero(scheme) is answer


@pytest.mark.parametrize("width", WIDTHS)
def test_the_model_table_folds_repeated_blocks(width: int) -> None:
    spec = infinite().spec
    text = render_spec(spec, width=width, color=False)
    assert max(map(len, text.splitlines())) <= width
    assert "×22" in text
    # What was not understood stands before the table.
    assert text.index("not understood") < text.index("×22")
    assert "frozen" in text
    assert render_spec(spec, width=width, color=False, full=True).count(" bias ") == 1
