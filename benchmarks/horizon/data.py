"""Data that do not run out: augmented digits, windows of source text, patches of photos, generated sequences.

Nothing is downloaded. A batch follows from its generator; held-out rows come from digits, files and places of the
photos that are never trained on.
"""

from __future__ import annotations

import math
import sysconfig
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.regret.data import CHARACTERS
from benchmarks.regret.task import Tensors

HELDOUT_DIGITS = 500
HELDOUT_SEED = 77
"""Of the draws that make held-out rows."""

NOISE = 0.6
"""Of augmented digits, in standard deviations of a pixel: enough that the loss does not run down to zero."""

_HELDOUT_MODULES = ("pathlib.py", "textwrap.py", "typing.py")
_MODULES = (
    "argparse.py", "ast.py", "calendar.py", "configparser.py", "dataclasses.py", "datetime.py", "decimal.py",
    "difflib.py", "doctest.py", "enum.py", "fractions.py", "ftplib.py", "functools.py", "gettext.py", "heapq.py",
    "inspect.py", "ipaddress.py", "locale.py", "mailbox.py", "pdb.py", "pickle.py", "pickletools.py", "platform.py",
    "random.py", "shutil.py", "smtplib.py", "statistics.py", "subprocess.py", "tarfile.py", "threading.py",
    "turtle.py", "zipfile.py",
)  # fmt: skip


@cache
def _shifted_digits(heldout: bool, classes: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """All digits of one side of the split, in nine places: ``(9, rows, 8, 8)``, and their labels from 0."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32).view(-1, 8, 8)
    y = torch.tensor(labels, dtype=torch.long)
    x = x / x.std()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    side = order[:HELDOUT_DIGITS] if heldout else order[HELDOUT_DIGITS:]
    x, y = x[side], y[side]
    chosen = (y[:, None] == torch.tensor(classes)).any(1)
    x, y = x[chosen], y[chosen] - classes[0]
    padded = F.pad(x, (1, 1, 1, 1))
    places = [padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    return torch.stack(places) - x.mean(), y


ALL_DIGITS = tuple(range(10))


def digits(
    g: torch.Generator,
    rows: int = 64,
    shape: tuple[int, ...] = (64,),
    *,
    classes: tuple[int, ...] = ALL_DIGITS,
    heldout: bool = False,
) -> Tensors:
    """Handwritten digits shifted by up to a pixel, brightened or darkened, with noise."""
    x, y = _shifted_digits(heldout, classes)
    row = torch.randint(len(y), (rows,), generator=g)
    x = x[torch.randint(9, (rows,), generator=g), row]
    brightness = 0.7 + 0.6 * torch.rand(rows, 1, 1, generator=g)
    x = brightness * x + NOISE * torch.randn(x.shape, generator=g)
    return x.view(rows, *shape), y[row]


@cache
def _text(heldout: bool) -> torch.Tensor:
    folder = Path(sysconfig.get_paths()["stdlib"])
    names = _HELDOUT_MODULES if heldout else _MODULES
    text = "".join((folder / name).read_text() for name in names if (folder / name).exists())
    number = {c: i for i, c in enumerate(CHARACTERS)}
    return torch.tensor([number[c] for c in text if c in number])


def text(g: torch.Generator, rows: int = 16, context: int = 32, *, heldout: bool = False) -> Tensors:
    """Windows of the standard library's source as character ids, each with the same window one character on."""
    ids = _text(heldout)
    start = torch.randint(len(ids) - context - 1, (rows, 1), generator=g)
    windows = ids[start + torch.arange(context + 1)]
    return windows[:, :-1], windows[:, 1:]


@cache
def _photo(name: str, height: int) -> torch.Tensor:
    """A grey photograph of a given height, standardised: ``(height, width)``."""
    from sklearn.datasets import load_sample_image

    grey = torch.tensor(load_sample_image(name), dtype=torch.float32).mean(-1)[None, None]
    width = round(height * grey.shape[3] / grey.shape[2])
    small = F.interpolate(grey, size=(height, width), mode="area")[0, 0]
    return (small - small.mean()) / small.std()


def patches(
    g: torch.Generator, rows: int = 64, *, shape: tuple[int, ...] = (64,), heldout: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """8×8 patches of two photos, to be reproduced; held out are those of the right fifth."""
    flip = torch.rand(rows, generator=g) < 0.5
    which = torch.randint(2, (rows,), generator=g)
    photos = torch.stack([_photo("china.jpg", 128), _photo("flower.jpg", 128)])
    border = 4 * photos.shape[2] // 5
    left, right = (border, photos.shape[2] - 8) if heldout else (0, border - 8)
    across = torch.randint(left, right, (rows, 1, 1), generator=g) + torch.arange(8)[None, None, :]
    down = torch.randint(0, 120, (rows, 1, 1), generator=g) + torch.arange(8)[None, :, None]
    x = photos[which[:, None, None], down, across]
    x = torch.where(flip[:, None, None], x.flip(2), x).reshape(rows, *shape)
    return x, x


def field(g: torch.Generator, rows: int = 256) -> Tensors:
    """Places in [-1, 1]² and the grey value of a photograph there, between its pixels by interpolation."""
    xy = torch.rand(rows, 2, generator=g) * 2 - 1
    picture = _photo("china.jpg", 64)[None, None, :, 16:80]
    return xy, F.grid_sample(picture, xy[None, None], align_corners=True, padding_mode="border")[0, 0, 0][:, None]


def adding(g: torch.Generator, rows: int = 32, length: int = 30) -> Tensors:
    """The adding problem (Hochreiter and Schmidhuber 1997): sum the two marked numbers of a sequence."""
    value = torch.rand(rows, length, generator=g)
    half = length // 2
    mark = torch.zeros(rows, length)
    mark.scatter_(1, torch.randint(half, (rows, 1), generator=g), 1.0)
    mark.scatter_(1, half + torch.randint(length - half, (rows, 1), generator=g), 1.0)
    return torch.stack([value, mark], -1), (value * mark).sum(1, keepdim=True)


def graphs(g: torch.Generator, rows: int = 32, nodes: int = 16) -> Tensors:
    """Graphs of two communities: node features, normalised adjacency, and how features follow edges.

    Every node carries plus or minus one fixed vector with noise. Class 0: the sign is a coin; 1: the sign is the
    community, and edges join likes; 2: the sign is the community, and edges join unlikes. Neither features nor edges
    alone tell the class.
    """
    label = torch.randint(3, (rows,), generator=g)
    side = torch.randint(2, (rows, nodes), generator=g).float() * 2 - 1
    coin = torch.randint(2, (rows, nodes), generator=g).float() * 2 - 1
    alike = side[:, :, None] == side[:, None, :]
    likely = torch.where(alike ^ (label == 2)[:, None, None], 0.5, 0.25)
    edge = (torch.rand(rows, nodes, nodes, generator=g) < likely).triu(1)
    adjacency = (edge | edge.transpose(1, 2)).float() + torch.eye(nodes)
    root = adjacency.sum(-1).rsqrt()
    adjacency = root[:, :, None] * adjacency * root[:, None, :]
    sign = torch.where((label == 0)[:, None], coin, side)
    code = torch.linspace(-1.5, 1.5, 8)
    features = sign[:, :, None] * code + 0.7 * torch.randn(rows, nodes, 8, generator=g)
    return features, adjacency, label


def waves(g: torch.Generator, rows: int = 32, length: int = 32) -> Tensors:
    """Sums of two sines with noise; the next value of every step is to be told."""
    t = torch.arange(length + 1)[None, :]
    frequency = 0.1 + 0.6 * torch.rand(2, rows, 1, generator=g)
    phase = 2 * math.pi * torch.rand(2, rows, 1, generator=g)
    series = torch.sin(frequency * t + phase).sum(0) + 0.1 * torch.randn(rows, length + 1, generator=g)
    return series[:, :-1, None], series[:, 1:, None]


def ring(g: torch.Generator, rows: int = 64) -> Tensors:
    """Noise for a generator and points of eight Gaussians on a circle."""
    angle = torch.randint(8, (rows,), generator=g) * (math.pi / 4)
    points = torch.stack([angle.cos(), angle.sin()], -1) + 0.05 * torch.randn(rows, 2, generator=g)
    return torch.randn(rows, 8, generator=g), points * math.sqrt(2)


def noised_patches(g: torch.Generator, rows: int = 64, latent: int = 8, *, heldout: bool = False) -> Tensors:
    """Patches and the noise that a variational autoencoder adds to its code."""
    x, _ = patches(g, rows, heldout=heldout)
    return x, torch.randn(rows, latent, generator=g), x


def interval(g: torch.Generator, rows: int = 64) -> Tensors:
    """Places between -π and π, at which an equation is to hold."""
    return ((torch.rand(rows, 1, generator=g) * 2 - 1) * math.pi,)


def fixed(draw: object, **options: object) -> Tensors:
    """Rows of one of the streams above, always the same."""
    return draw(torch.Generator().manual_seed(HELDOUT_SEED), **options)  # type: ignore[operator,no-any-return]
