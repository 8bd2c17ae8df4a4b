"""The data of all tasks: scikit-learn's bundled sets, the standard library's own source text, and generators.

Nothing is downloaded. Every function returns the same rows each time; splits are fixed.
"""

from __future__ import annotations

import math
import sysconfig
from functools import cache
from pathlib import Path

import torch

from benchmarks.regret.task import Data

SPLIT_SEED = 0


def _split(*rows: torch.Tensor, heldout: int) -> Data:
    order = torch.randperm(len(rows[0]), generator=torch.Generator().manual_seed(SPLIT_SEED))
    out, kept = order[:heldout], order[heldout:]
    return Data(tuple(t[kept] for t in rows), tuple(t[out] for t in rows))


def _standardised(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(0)) / x.std(0).clamp_min(1e-8)


@cache
def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32)
    return (x - x.mean()) / x.std(), torch.tensor(labels, dtype=torch.long)


@cache
def digits() -> Data:
    """8×8 handwritten digits as 64 pixels."""
    return _split(*_digits(), heldout=500)


@cache
def digit_images() -> Data:
    """The same as one-channel images."""
    x, y = _digits()
    return _split(x.view(-1, 1, 8, 8), y, heldout=500)


@cache
def digit_pixels() -> Data:
    """The same as sequences of 32 pairs of neighbouring pixels."""
    x, y = _digits()
    return _split(x.view(-1, 32, 2), y, heldout=500)


@cache
def digit_rows() -> Data:
    """The same as sequences of 8 rows."""
    x, y = _digits()
    return _split(x.view(-1, 8, 8), y, heldout=500)


@cache
def digit_copies() -> Data:
    """Pixels to be reproduced."""
    x, _ = _digits()
    return _split(x, x, heldout=500)


@cache
def digit_halves(*, low: bool) -> Data:
    """Digits 0 to 4, or 5 to 9 relabelled 0 to 4: source and target of a transfer."""
    x, y = _digits()
    chosen = (y < 5) if low else (y >= 5)
    return _split(x[chosen], y[chosen] % 5, heldout=250)


@cache
def breast_cancer() -> Data:
    """30 figures of 569 tumours, benign or malignant."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return _split(_standardised(torch.tensor(x, dtype=torch.float32)), torch.tensor(y), heldout=200)


@cache
def wine() -> Data:
    """13 figures of 178 wines of three growers."""
    from sklearn.datasets import load_wine

    x, y = load_wine(return_X_y=True)
    return _split(_standardised(torch.tensor(x, dtype=torch.float32)), torch.tensor(y), heldout=78)


@cache
def diabetes() -> Data:
    """10 figures of 442 patients and the progression a year later, standardised."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    target = torch.tensor(y, dtype=torch.float32)[:, None]
    return _split(_standardised(torch.tensor(x, dtype=torch.float32)), _standardised(target), heldout=142)


@cache
def friedman() -> Data:
    """Friedman's first regression function of ten uniform inputs with noise, standardised."""
    from sklearn.datasets import make_friedman1

    x, y = make_friedman1(2000, noise=0.5, random_state=0)
    target = torch.tensor(y, dtype=torch.float32)[:, None]
    return _split(_standardised(torch.tensor(x, dtype=torch.float32)), _standardised(target), heldout=500)


@cache
def rare_class() -> Data:
    """Twenty figures, one row in twenty positive."""
    from sklearn.datasets import make_classification

    x, y = make_classification(3000, 20, n_informative=8, weights=[0.95], class_sep=1.0, flip_y=0.01, random_state=0)
    return _split(_standardised(torch.tensor(x, dtype=torch.float32)), torch.tensor(y), heldout=1000)


@cache
def picture() -> Data:
    """Coordinates in [-1, 1]² and the grey value of a 48×48 photograph there."""
    from sklearn.datasets import load_sample_image

    grey = torch.tensor(load_sample_image("china.jpg"), dtype=torch.float32).mean(-1)[None, None]
    small = torch.nn.functional.interpolate(grey[..., 100:400, 150:450], size=(48, 48), mode="area")[0, 0]
    axis = torch.linspace(-1, 1, 48)
    xy = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).view(-1, 2)
    value = small.reshape(-1, 1)
    return _split(xy, (value - value.mean()) / value.std(), heldout=256)


CHARACTERS = "".join(map(chr, range(32, 127))) + "\n"
_MODULES = ("argparse.py", "ast.py", "dataclasses.py", "inspect.py", "pathlib.py", "textwrap.py", "typing.py")


@cache
def source_text(context: int) -> Data:
    """Windows of the standard library's source as character ids, each with the same window one character on."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    text = "".join((folder / name).read_text() for name in _MODULES if (folder / name).exists())
    number = {c: i for i, c in enumerate(CHARACTERS)}
    ids = torch.tensor([number[c] for c in text if c in number])
    ids = ids[: (len(ids) - 1) // context * context + 1]
    return _split(ids[:-1].view(-1, context), ids[1:].view(-1, context), heldout=96)


@cache
def adding(length: int = 30) -> Data:
    """The adding problem (Hochreiter and Schmidhuber 1997): sum the two marked numbers of a sequence."""
    draw = torch.Generator().manual_seed(1)
    rows = 4000
    value = torch.rand(rows, length, generator=draw)
    half = length // 2
    first = torch.randint(half, (rows,), generator=draw)
    second = half + torch.randint(length - half, (rows,), generator=draw)
    mark = torch.zeros(rows, length)
    mark[torch.arange(rows), first] = 1.0
    mark[torch.arange(rows), second] = 1.0
    return _split(torch.stack([value, mark], dim=-1), (value * mark).sum(1, keepdim=True), heldout=500)


@cache
def waves(length: int = 24) -> Data:
    """Sums of two sines with noise; the next value of every step is to be told."""
    draw = torch.Generator().manual_seed(2)
    rows = 2000
    t = torch.arange(length + 1)[None, :]

    def sine() -> torch.Tensor:
        frequency = 0.1 + 0.6 * torch.rand(rows, 1, generator=draw)
        phase = 2 * math.pi * torch.rand(rows, 1, generator=draw)
        return torch.sin(frequency * t + phase)

    series = sine() + sine() + 0.1 * torch.randn(rows, length + 1, generator=draw)
    return _split(series[:, :-1, None], series[:, 1:, None], heldout=300)


@cache
def reversals(length: int = 10, symbols: int = 12) -> Data:
    """Random strings and the same strings backwards."""
    x = torch.randint(symbols, (4000, length), generator=torch.Generator().manual_seed(3))
    return _split(x, x.flip(1), heldout=400)


@cache
def random_graphs(nodes: int = 16) -> Data:
    """Graphs of two communities: node features, normalised adjacency, and how features follow edges.

    Every node carries plus or minus one fixed vector with noise. Class 0: the sign is a coin; 1: the sign is the
    community, and edges join likes; 2: the sign is the community, and edges join unlikes. Neither features nor edges
    alone tell the class.
    """
    draw = torch.Generator().manual_seed(4)
    rows, width = 2000, 8
    label = torch.randint(3, (rows,), generator=draw)
    side = torch.rand(rows, nodes, generator=draw).round() * 2 - 1
    coin = torch.rand(rows, nodes, generator=draw).round() * 2 - 1
    alike = side[:, :, None] == side[:, None, :]
    likely = torch.where(alike ^ (label == 2)[:, None, None], 0.6, 0.2)
    edge = (torch.rand(rows, nodes, nodes, generator=draw) < likely).triu(1)
    adjacency = (edge | edge.transpose(1, 2)).float() + torch.eye(nodes)
    root = adjacency.sum(-1).rsqrt()
    adjacency = root[:, :, None] * adjacency * root[:, None, :]
    sign = torch.where((label == 0)[:, None], coin, side)
    code = torch.randn(width, generator=draw)
    features = sign[:, :, None] * code + 0.5 * torch.randn(rows, nodes, width, generator=draw)
    return _split(features, adjacency, label, heldout=400)


@cache
def ring() -> Data:
    """Noise for a generator and points of eight Gaussians on a circle."""
    draw = torch.Generator().manual_seed(5)
    rows = 4000
    angle = torch.randint(8, (rows,), generator=draw) * (math.pi / 4)
    points = torch.stack([angle.cos(), angle.sin()], -1) + 0.05 * torch.randn(rows, 2, generator=draw)
    return _split(torch.randn(rows, 8, generator=draw), points * math.sqrt(2), heldout=500)


@cache
def interval() -> Data:
    """Places between -π and π, at which an equation is to hold."""
    draw = torch.Generator().manual_seed(9)
    return _split((torch.rand(2400, 1, generator=draw) * 2 - 1) * math.pi, heldout=400)


@cache
def image_copies() -> Data:
    """Digit images to be reproduced."""
    x, _ = _digits()
    images = x.view(-1, 1, 8, 8)
    return _split(images, images, heldout=500)


@cache
def ratings() -> Data:
    """Pairs of user and item and what the user gave: four hidden tastes, biases and noise, standardised."""
    draw = torch.Generator().manual_seed(6)
    users, items, rows, tastes = 200, 150, 8000, 4
    likes = torch.randn(users, tastes, generator=draw)
    offers = torch.randn(items, tastes, generator=draw)
    user = torch.randint(users, (rows,), generator=draw)
    item = torch.randint(items, (rows,), generator=draw)
    bias = torch.randn(users, generator=draw)[user] + torch.randn(items, generator=draw)[item]
    given = (likes[user] * offers[item]).sum(1) + bias + 0.5 * torch.randn(rows, generator=draw)
    return _split(user, item, (given - given.mean()) / given.std(), heldout=1000)


@cache
def point_sets(points: int = 24) -> Data:
    """Sets of points in the plane: on a circle, on a square's edge, or on a cross, turned, stretched and noisy."""
    draw = torch.Generator().manual_seed(7)
    rows = 2400
    label = torch.randint(3, (rows,), generator=draw)
    angle = 2 * math.pi * torch.rand(rows, points, generator=draw)
    circle = torch.stack([angle.cos(), angle.sin()], -1)
    square = circle / circle.abs().amax(-1, keepdim=True)
    along = 2 * torch.rand(rows, points, generator=draw) - 1
    arm = torch.rand(rows, points, generator=draw).round()
    cross = torch.stack([along * arm, along * (1 - arm)], -1)
    shape = torch.stack([circle, square, cross])[label, torch.arange(rows)]
    turn = 2 * math.pi * torch.rand(rows, 1, generator=draw)
    x, y = shape.unbind(-1)
    turned = torch.stack([turn.cos() * x - turn.sin() * y, turn.sin() * x + turn.cos() * y], -1)
    size = 0.7 + 0.6 * torch.rand(rows, 1, 1, generator=draw)
    return _split(size * turned + 0.1 * torch.randn(rows, points, 2, generator=draw), label, heldout=400)
