"""The report as one self-contained HTML file: no script, no network, light and dark, readable on a phone."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import initadvisor.report.sentences as sentences
from initadvisor.errors import RegistryError
from initadvisor.files import write_text
from initadvisor.references import Reference, bibtex, cite
from initadvisor.report.console import NO_INTERVAL, interval
from initadvisor.report.contrast import contrast, flow_of, other_scheme, was_tried
from initadvisor.report.evidence import Evidence, WeightSample
from initadvisor.report.numbers import number, plural, rate, size
from initadvisor.report.plots import SHOWN_CANDIDATES, figure, plot_curves, plot_flow, plot_ranking, plot_weights
from initadvisor.report.svg import PAINTED, inline_svg
from initadvisor.report.tables import cells, folded_params, remarks, summary, uncounted
from initadvisor.trials.result import Verdict
from initadvisor.types import CURRENT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEMPLATES = Path(__file__).parent / "templates"

PLOT_SIZE = (4.6, 3.1)
"""Inches: at this width the figure's 8 pt text is still legible when a phone shows it 340 pixels wide."""

HISTOGRAM_SIZE = (3.6, 2.2)
ROW_HEIGHT = 0.32
"""Inches per candidate in the ranking figure."""

VERDICTS = {
    Verdict.SWITCH: "Switch",
    Verdict.KEEP: "Keep",
    Verdict.UNDECIDED: "Undecided",
}


@dataclass(frozen=True)
class Picture:
    """A figure of the page: its SVG and what stands under it."""

    svg: str
    caption: str


def write_html(evidence: Evidence, path: str | Path, *, recipe: str = "") -> Path:
    """Write the whole report as one file.

    Args:
        evidence: what was measured and decided.
        path: of the file; an earlier one is replaced when the new one is whole.
        recipe: the recommended recipe as YAML, shown where given.

    Raises:
        InputError: the file cannot be written.
    """
    return write_text(path, render_page(evidence, recipe=recipe))


def render_page(evidence: Evidence, *, recipe: str = "") -> str:
    """The whole report as an HTML document."""
    return _render("page.html.j2", evidence, recipe)


def render_fragment(evidence: Evidence) -> str:
    """The report as an element to put into another page, as notebooks do."""
    return _render("fragment.html.j2", evidence, "")


def _render(template: str, evidence: Evidence, recipe: str) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**_content(evidence, recipe))


def _content(evidence: Evidence, recipe: str) -> dict[str, Any]:
    """Everything the templates show, in words and pictures."""
    decision = evidence.race.decision
    words = sentences.flow_in_words(evidence)
    other = other_scheme(evidence)
    scheme = next((s for s in evidence.schemes if s.name == other and other != CURRENT), None)
    cited = _references(scheme.references if scheme else ())
    return {
        "headline": sentences.headline(evidence),
        "verdict": VERDICTS[decision.verdict],
        "verdict_class": decision.verdict.value,
        "model": f"{evidence.model_name}, {size(evidence.parameter_count)} trainable parameters",
        "interruption": sentences.interruption(evidence),
        "diagnosis": sentences.diagnosis(evidence),
        "findings": sentences.findings(evidence),
        "gaps": sentences.coverage_gaps(evidence.spec.coverage),
        "why": words,
        "how_sure": [_unbroken(s) for s in sentences.how_sure(evidence)],
        "reasons_title": "What it fills" if decision.verdict is Verdict.SWITCH else f'What "{other}" would fill',
        "reasons": [(r, ", ".join(c.short for c in _references(r.references))) for r in sentences.reasons(scheme)]
        if scheme
        else [],
        "left_out": sentences.left_out(evidence),
        "ranking": _ranking_rows(evidence),
        "has_intervals": _has_intervals(evidence),
        "pictures": _pictures(evidence, words),
        "weights": _weight_rows(evidence),
        "model_summary": summary(evidence.spec),
        "model_rows": [(cells(f), remarks(f.items[0])) for f in folded_params(evidence.spec)],
        "model_uncounted": uncounted(evidence.spec),
        "cost": sentences.cost(evidence),
        "remarks": sentences.remarks(evidence),
        "settings": _settings(evidence),
        "recipe": recipe,
        "references": cited,
        "bibtex": bibtex(c.key for c in cited),
    }


def _unbroken(text: str) -> str:
    """The same with its p-value on one line."""
    return re.sub(r"\bp ([=<]) ", "p\N{NO-BREAK SPACE}\\1\N{NO-BREAK SPACE}", text)


def _settings(evidence: Evidence) -> list[tuple[str, str]]:
    """What someone else needs to repeat it, each said once: the race names some of it too."""
    told = {
        "loss": evidence.loss_name,
        "optimizer": evidence.optimizer_name,
        "seed": str(evidence.seed),
        "full training": plural(evidence.full_steps, "step") if evidence.full_steps else "length not given",
    }
    for name, value in evidence.race.settings:
        told.setdefault(name, value)
    return [*told.items(), *evidence.versions.items(), ("model fingerprint", evidence.spec.fingerprint)]


def _has_intervals(evidence: Evidence) -> bool:
    """Some candidate was drawn more than once, so that a column of intervals says something."""
    return any(interval(entry) != NO_INTERVAL for entry in evidence.race.ranking if was_tried(entry))


def _references(keys: tuple[str, ...]) -> list[Reference]:
    found = []
    for key in keys:
        try:
            found.append(cite(key))
        except RegistryError:  # a saved advice may cite what this version no longer lists
            continue
    return found


def _ranking_rows(evidence: Evidence) -> list[dict[str, Any]]:
    chosen = evidence.race.decision.scheme
    summaries = {s.name: s.summary for s in evidence.schemes}
    return [
        {
            "place": place,
            "scheme": entry.scheme,
            "summary": summaries.get(entry.scheme, ""),
            "chosen": entry.scheme == chosen,
            "score": number(entry.score),
            "interval": interval(entry),
            "lr": rate(entry.lr),
            "steps": entry.steps,
            "seeds": entry.seeds,
            "left": sentences.standing(entry),
        }
        for place, entry in enumerate(filter(was_tried, evidence.race.ranking), start=1)
    ]


def _weight_rows(evidence: Evidence) -> list[tuple[str, str, str, str]]:
    return [(w.path, w.initializer, number(w.declared_std), number(w.observed_std)) for w in evidence.weights]


def _pictures(evidence: Evidence, words: tuple[str, ...]) -> dict[str, list[Picture]]:
    """All figures, by section; a section without data has none."""
    return {
        "flow": _flow_pictures(evidence, words),
        "curves": _curve_pictures(evidence),
        "ranking": _ranking_pictures(evidence),
        "weights": [_weight_picture(sample, index) for index, sample in enumerate(evidence.weights)],
    }


def _picture(draw: Callable[[Axes], None], size: tuple[float, float], name: str, title: str, told: str) -> Picture:
    return Picture(inline_svg(figure(*size, draw, PAINTED), name, title, told), told)


def _flow_pictures(evidence: Evidence, words: tuple[str, ...]) -> list[Picture]:
    shown = contrast(evidence)
    flows = [f for f in (flow_of(evidence, shown.before), flow_of(evidence, shown.after)) if f is not None]
    made = []
    for field, kind, axis in (
        ("forward_rms", "Signal", "RMS of layer output"),
        ("backward_norm", "Gradient", "RMS of gradient at output"),
    ):
        if any(f.course(field) for f in flows):
            told = " ".join(w.removeprefix(f"{kind}: ") for w in words if w.startswith(kind))
            draw = partial(plot_flow, evidence=evidence, field=field, name=axis, theme=PAINTED)
            title = f"{kind} through depth"
            made.append(_picture(draw, PLOT_SIZE, f"flow-{field}", title, f"{title}: {told}"))
    return made


def _curve_pictures(evidence: Evidence) -> list[Picture]:
    told = sentences.curves_in_words(evidence)
    if not told:
        return []
    draw = partial(plot_curves, evidence=evidence, theme=PAINTED)
    return [_picture(draw, PLOT_SIZE, "curves", "Loss while training", told)]


def _ranking_pictures(evidence: Evidence) -> list[Picture]:
    tried = sum(map(was_tried, evidence.race.ranking))
    if not tried:
        return []
    tall = ROW_HEIGHT * min(tried, SHOWN_CANDIDATES) + 0.9
    spread = " with its interval" if _has_intervals(evidence) else ", one seed each"
    told = f"Held-out loss of each candidate{spread}; the table has the same figures."
    draw = partial(plot_ranking, evidence=evidence, theme=PAINTED)
    return [_picture(draw, (PLOT_SIZE[0], tall), "ranking", "Candidates by held-out loss", told)]


def _weight_picture(sample: WeightSample, index: int) -> Picture:
    filled = "as it came" if sample.counts == sample.before else f"filled by {sample.initializer}"
    declared = f"declared σ {number(sample.declared_std)}, " if sample.declared_std is not None else ""
    told = f"{sample.path}, {filled}: {declared}observed σ {number(sample.observed_std)}."
    draw = partial(plot_weights, sample=sample, theme=PAINTED)
    return _picture(draw, HISTOGRAM_SIZE, f"weights-{index}", sample.path, told)
