"""Citations as data: cards, rules and checks name keys of this table; ``advice.bibtex()`` prints those that fired."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from initadvisor.errors import RegistryError, nearest


@dataclass(frozen=True, slots=True)
class Reference:
    """One paper or source.

    Attributes:
        key: short name used in cards and rules, ``surname + year`` (+ a letter).
        authors: as BibTeX wants them, joined by ``and``.
        title: of the paper.
        venue: conference, journal or archive.
        year: of that version.
        url: where to read it; empty where the venue is enough.
    """

    key: str
    authors: str
    title: str
    venue: str
    year: int
    url: str = ""

    @property
    def short(self) -> str:
        """Text citation, ``Glorot & Bengio 2010`` style.

        Example:
            >>> cite("glorot2010").short
            'Glorot & Bengio 2010'
        """
        names = [a.split(",")[0].strip() for a in self.authors.split(" and ")]
        if "others" in names or len(names) > 2:
            return f"{names[0]} et al. {self.year}"
        return f"{' & '.join(names)} {self.year}"

    def bibtex(self) -> str:
        """The BibTeX entry."""
        lines = [
            f"@misc{{{self.key},",
            f"  author = {{{self.authors}}},",
            f"  title = {{{self.title}}},",
            f"  howpublished = {{{self.venue}}},",
            f"  year = {{{self.year}}},",
        ]
        if self.url:
            lines.append(f"  url = {{{self.url}}},")
        return "\n".join([*lines, "}"])


_TABLE = (
    Reference(
        "glorot2010",
        "Glorot, Xavier and Bengio, Yoshua",
        "Understanding the difficulty of training deep feedforward neural networks",
        "AISTATS",
        2010,
        "https://proceedings.mlr.press/v9/glorot10a.html",
    ),
    Reference(
        "he2015",
        "He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian",
        "Delving Deep into Rectifiers: Surpassing Human-Level Performance on ImageNet Classification",
        "ICCV",
        2015,
        "https://arxiv.org/abs/1502.01852",
    ),
)

REFERENCES: dict[str, Reference] = {}
for _reference in _TABLE:
    if _reference.key in REFERENCES:
        raise RegistryError(f'reference "{_reference.key}" is listed twice')
    REFERENCES[_reference.key] = _reference


def cite(key: str) -> Reference:
    """The reference called ``key``.

    Raises:
        RegistryError: no such key; the nearest is named.
    """
    if key not in REFERENCES:
        raise RegistryError(f'no reference "{key}"; {nearest(key, REFERENCES)}')
    return REFERENCES[key]


def bibtex(keys: Iterable[str]) -> str:
    """BibTeX entries of ``keys``, each once, sorted."""
    return "\n\n".join(cite(k).bibtex() for k in sorted(set(keys)))
