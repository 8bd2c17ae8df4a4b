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
    Reference(
        "lecun1998",
        "LeCun, Yann and Bottou, Léon and Orr, Genevieve B. and Müller, Klaus-Robert",
        "Efficient BackProp",
        "Neural Networks: Tricks of the Trade",
        1998,
    ),
    Reference(
        "klambauer2017",
        "Klambauer, Günter and Unterthiner, Thomas and Mayr, Andreas and Hochreiter, Sepp",
        "Self-Normalizing Neural Networks",
        "NeurIPS",
        2017,
        "https://arxiv.org/abs/1706.02515",
    ),
    Reference(
        "saxe2014",
        "Saxe, Andrew M. and McClelland, James L. and Ganguli, Surya",
        "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks",
        "ICLR",
        2014,
        "https://arxiv.org/abs/1312.6120",
    ),
    Reference(
        "stewart1980",
        "Stewart, G. W.",
        "The Efficient Generation of Random Orthogonal Matrices with an Application to Condition Estimators",
        "SIAM Journal on Numerical Analysis 17(3)",
        1980,
    ),
    Reference(
        "xiao2018",
        "Xiao, Lechao and Bahri, Yasaman and Sohl-Dickstein, Jascha and Schoenholz, Samuel and Pennington, Jeffrey",
        "Dynamical Isometry and a Mean Field Theory of CNNs: How to Train 10,000-Layer Vanilla Convolutional "
        "Neural Networks",
        "ICML",
        2018,
        "https://arxiv.org/abs/1806.05393",
    ),
    Reference(
        "poole2016",
        "Poole, Ben and Lahiri, Subhaneil and Raghu, Maithra and Sohl-Dickstein, Jascha and Ganguli, Surya",
        "Exponential expressivity in deep neural networks through transient chaos",
        "NeurIPS",
        2016,
        "https://arxiv.org/abs/1606.05340",
    ),
    Reference(
        "schoenholz2017",
        "Schoenholz, Samuel S. and Gilmer, Justin and Ganguli, Surya and Sohl-Dickstein, Jascha",
        "Deep Information Propagation",
        "ICLR",
        2017,
        "https://arxiv.org/abs/1611.01232",
    ),
    Reference(
        "martens2010",
        "Martens, James",
        "Deep learning via Hessian-free optimization",
        "ICML",
        2010,
    ),
    Reference(
        "le2015",
        "Le, Quoc V. and Jaitly, Navdeep and Hinton, Geoffrey E.",
        "A Simple Way to Initialize Recurrent Networks of Rectified Linear Units",
        "arXiv",
        2015,
        "https://arxiv.org/abs/1504.00941",
    ),
    Reference(
        "sitzmann2020",
        "Sitzmann, Vincent and Martel, Julien and Bergman, Alexander and Lindell, David and Wetzstein, Gordon",
        "Implicit Neural Representations with Periodic Activation Functions",
        "NeurIPS",
        2020,
        "https://arxiv.org/abs/2006.09661",
    ),
    Reference(
        "zhao2022zero",
        "Zhao, Jiawei and Schäfer, Florian and Anandkumar, Anima",
        "ZerO Initialization: Initializing Neural Networks with only Zeros and Ones",
        "TMLR",
        2022,
        "https://arxiv.org/abs/2110.12661",
    ),
    Reference(
        "zagoruyko2017",
        "Zagoruyko, Sergey and Komodakis, Nikos",
        "DiracNets: Training Very Deep Neural Networks Without Skip-Connections",
        "arXiv",
        2017,
        "https://arxiv.org/abs/1706.00388",
    ),
    Reference(
        "goyal2017",
        "Goyal, Priya and Dollár, Piotr and Girshick, Ross and others",
        "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour",
        "arXiv",
        2017,
        "https://arxiv.org/abs/1706.02677",
    ),
    Reference(
        "zhang2019fixup",
        "Zhang, Hongyi and Dauphin, Yann N. and Ma, Tengyu",
        "Fixup Initialization: Residual Learning Without Normalization",
        "ICLR",
        2019,
        "https://arxiv.org/abs/1901.09321",
    ),
    Reference(
        "radford2019",
        "Radford, Alec and Wu, Jeffrey and Child, Rewon and Luan, David and Amodei, Dario and Sutskever, Ilya",
        "Language Models are Unsupervised Multitask Learners",
        "OpenAI",
        2019,
    ),
    Reference(
        "dosovitskiy2021",
        "Dosovitskiy, Alexey and Beyer, Lucas and Kolesnikov, Alexander and others",
        "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
        "ICLR",
        2021,
        "https://arxiv.org/abs/2010.11929",
    ),
    Reference(
        "lin2017focal",
        "Lin, Tsung-Yi and Goyal, Priya and Girshick, Ross and He, Kaiming and Dollár, Piotr",
        "Focal Loss for Dense Object Detection",
        "ICCV",
        2017,
        "https://arxiv.org/abs/1708.02002",
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
