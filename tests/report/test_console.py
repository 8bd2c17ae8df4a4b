"""The terminal report: says what to do first, fits every width, hides nothing that is missing or infinite."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from evidences import ALL, infinite, interrupted, keep, switch, untried
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from initadvisor.report.console import render
from initadvisor.report.evidence import Evidence
from initadvisor.report.plots import plot_flow
from initadvisor.report.sentences import figures_in_words, headline, starts_from_zero
from initadvisor.report.tables import render_spec
from initadvisor.report.termplot import linear_axis, log_axis, panel
from initadvisor.schemes.folding import fold
from initadvisor.schemes.paths import skeleton
from initadvisor.schemes.scheme import Scheme
from initadvisor.schemes.values import Assignment, Fill, Part, SchemeKind
from initadvisor.training.engine.result import SignalFlow
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
    assert "training breaks down on 5 of 5 seeds" in first["infinite"]
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


def test_what_was_not_trained_is_told_in_one_line_not_in_twenty() -> None:
    text = render(untried(), width=120, color=False)
    assert " ".join(text.split()).count("the budget had room") == 1
    assert "scheme_19" in text
    assert "nan" not in text
    assert len(text.splitlines()) < len(render(keep(), width=120, color=False).splitlines()) + 8


def test_an_interruption_is_said() -> None:
    assert "Stopped early" in render(interrupted(), width=80, color=False)
    assert "Stopped early" not in render(switch(), width=80, color=False)


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
    before, after, cut = flow((1.0, 1.0, 1.0)), flow((1.0, 0.0, 1.0)), flow((0.0, 0.0, 1.0))
    dying = " ".join(figures_in_words(before, cut, "x"))
    passing = " ".join(figures_in_words(after, None, "x"))
    assert "dies" not in passing  # a branch whose last norm scale starts at zero
    assert "is zero in 1 of 3 layers, which it passes by" in passing
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


@given(
    st.lists(st.one_of(st.none(), st.floats(), st.floats(1e-300, 1e300)), max_size=80),
    st.integers(12, 120),
    st.integers(1, 8),
)
@example([1e-300], 12, 5)
@example([5e-324], 12, 5)
@example([1.7e308], 12, 5)
@example([-1.7e308, 1.7e308], 12, 5)
@settings(max_examples=200, deadline=None)
def test_panels_are_exactly_as_large_as_asked(values: list[float | None], width: int, height: int) -> None:
    """Any figures, infinite and missing ones included, make a rectangle."""
    known = [v for v in values if v is not None]
    for axis in (log_axis(known), linear_axis(known)):
        lines = panel(values, axis, title="x" * 200, foot=("first", "last"), width=width, height=height)
        assert len(lines) == height + 3
        assert {len(line) for line in lines} == {width}


@given(st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_a_taller_bar_is_a_larger_value(values: list[float]) -> None:
    axis = log_axis(values)
    places = [axis.place(v) for v in sorted(values)]
    assert places == sorted(places)
    assert all(0 <= p <= 1 for p in places)


def test_a_steady_signal_looks_steady() -> None:
    """Values within a tenth of each other must not fill the whole height of the plot."""
    axis = log_axis([1.0, 1.05, 1.1])
    assert axis.place(1.1) - axis.place(1.0) < 0.1


@given(st.lists(st.from_regex(r"[a-z]{1,4}(\.[0-9]{1,2}|\.[a-z]{1,4}){0,4}", fullmatch=True), max_size=30, unique=True))
@settings(max_examples=100, deadline=None)
def test_folding_loses_and_mixes_nothing(paths: list[str]) -> None:
    folded = fold(paths, lambda p: p, lambda _: None)
    assert sorted(p for f in folded for p in f.items) == sorted(paths)
    assert len({skeleton(f.items[0]) for f in folded}) == len(folded)
    for f in folded:
        assert {skeleton(p) for p in f.items} == {skeleton(f.items[0])}
        if len(f.items) == 1:
            assert f.label == f.items[0]


def test_the_gradient_that_frozen_layers_need_not_have_is_not_told_as_dying() -> None:
    flow = SignalFlow(("a", "b", "c"), (1, 2, 3), (1.0, 1.0, 1.0), (0.0, 0.02, 0.03), trains=(False, True, True))
    assert "dies" in " ".join(figures_in_words(replace(flow, trains=()), None, "x"))
    told = " ".join(figures_in_words(flow, None, "x"))
    assert "dies" not in told
    assert "between 0.02" in told


def with_flows(evidence: Evidence, change: Callable[[SignalFlow], SignalFlow]) -> Evidence:
    trials = tuple(t if t.flow is None else replace(t, flow=change(t.flow)) for t in evidence.race.trials)
    return replace(evidence, race=replace(evidence.race, trials=trials))


def test_pictures_leave_out_the_gradients_that_are_not_asked_for() -> None:
    def silent(flow: SignalFlow) -> SignalFlow:
        return replace(flow, backward_norm=(0.0, 0.0, *flow.backward_norm[2:]))

    def frozen(flow: SignalFlow) -> SignalFlow:
        return replace(silent(flow), trains=(False, False, *[True] * (len(flow.layers) - 2)))

    def drawn(evidence: Evidence) -> str:
        return render(evidence, width=100, color=False).partition("Gradient through depth")[2]

    axes = Figure().subplots()
    plot_flow(axes, with_flows(keep(), frozen), "backward_norm", "gradient")
    assert {float(min(line.get_xdata())) for line in axes.lines} == {3.0}
    assert "│0" not in drawn(with_flows(keep(), frozen))
    assert "│0" in drawn(with_flows(keep(), silent))


def test_a_legend_stands_above_the_lines() -> None:
    axes = Figure().subplots()
    plot_flow(axes, switch(), "forward_rms", "signal")
    legend = axes.get_legend()
    axes.figure.canvas.draw()
    assert legend.get_window_extent().y0 >= axes.get_window_extent().y1
