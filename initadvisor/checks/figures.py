"""What one forward and one backward pass show: plain numbers per layer, no tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from initadvisor.training.sanity import Scale


@dataclass(frozen=True, slots=True)
class LayerFigures:
    """One weight layer on the sample batch, sums over all its uses.

    Attributes:
        path: of the weight.
        rms: root mean square of its output.
        entered: root mean square of the data it was given; NaN where it was given none (a table, a position).
        largest: largest absolute output.
        finite: its output holds neither NaN nor infinity.
        variation: spread of its output over the samples, relative to its RMS; NaN for a single sample.
        grad_norm: length of the gradient of the loss with respect to its output; NaN without a backward pass.
        activation: name of the elementwise nonlinearity that followed, ``""`` where none was seen.
        units: outputs of that activation that can die one by one (features, channels).
        samples: values per unit on the batch.
        dead: units that are zero on the whole batch.
        saturated_share: share of values in the flat part of a bounded activation.
    """

    path: str
    rms: float
    largest: float
    entered: float = float("nan")
    finite: bool = True
    variation: float = float("nan")
    grad_norm: float = float("nan")
    activation: str = ""
    units: int = 0
    samples: int = 0
    dead: int = 0
    saturated_share: float = 0.0


@dataclass(frozen=True, slots=True)
class AttentionFigures:
    """One attention on the sample batch.

    Attributes:
        path: weight layer that came before it.
        keys: number of keys.
        largest_weight: mean over queries of the largest attention weight.
        logit_std: spread of the logits over the keys, mean over queries.
    """

    path: str
    keys: int
    largest_weight: float
    logit_std: float


@dataclass(frozen=True, slots=True)
class SumFigures:
    """Two signals that were added.

    Attributes:
        paths: weight that made each, ``""`` where no single one did.
        rms: root mean square of each.
    """

    paths: tuple[str, str]
    rms: tuple[float, float]


class TermKind(StrEnum):
    """What a loss makes of an output and a target."""

    CLASSES = "cross-entropy"  # of scores over classes
    BINARY = "binary cross-entropy"
    VALUES = "squared error"
    OTHER = "another comparison of values"  # absolute error, Huber


@dataclass(frozen=True, slots=True)
class TermFigures:
    """One comparison that a loss makes.

    Attributes:
        kind: which.
        path: weight that made the output compared, ``""`` where that is not known.
        cross_entropy: mean over labelled positions, of ``CLASSES``.
        entropy_error: standard error of that mean.
        classes: number of classes, 0 where there are none.
        score_rms: root mean square of the scores about their mean over classes.
        target_mean, target_std: of float targets, None for others.
        output_rms: root mean square of the compared output.
        error: mean squared difference of output and target, of ``VALUES``.
        squashed: ``"softmax"`` or ``"sigmoid"`` where the loss is given probabilities and squashes them once more.
        raw: the loss wants logarithms of probabilities and is given others.
        labels: lowest and highest label that is no class, None where all are classes.
        positives: share of ones in a target of zeros and ones, None for others.
    """

    kind: TermKind
    path: str = ""
    cross_entropy: float | None = None
    entropy_error: float = 0.0
    classes: int = 0
    score_rms: float = 0.0
    target_mean: float | None = None
    target_std: float | None = None
    output_rms: float = 0.0
    error: float = float("nan")
    squashed: str = ""
    raw: bool = False
    labels: tuple[int, int] | None = None
    positives: float | None = None


@dataclass(frozen=True, slots=True)
class LossFigures:
    """The loss at initialisation.

    Attributes:
        value: what training would minimise; NaN where it could not be computed.
        name: the loss in words.
        terms: what it compares, in execution order; empty where that could not be seen.
        clashes: pairs of shapes (output, target) that it compares although they only broadcast.
        reshaped: shapes of output and target, where an inferred loss made one of the other.
    """

    value: float
    name: str
    terms: tuple[TermFigures, ...] = ()
    clashes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    reshaped: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    @property
    def classifying(self) -> TermFigures | None:
        """The first cross-entropy over classes, None where there is none."""
        return next((t for t in self.terms if t.cross_entropy is not None), None)


@dataclass(frozen=True, slots=True)
class LostFigures:
    """A tensor that was written although every pass makes it anew.

    Attributes:
        path: of the tensor.
        source: parameter it is made of.
        written: standard deviation of what was written.
        acting: of what a pass makes.
    """

    path: str
    source: str
    written: float
    acting: float


@dataclass(frozen=True, slots=True)
class PriorFigures:
    """Outputs that become probabilities of rare events.

    Attributes:
        path: weight that makes them, ``""`` where that is not known.
        positives: share of ones among the targets.
        predicted: mean probability at the start.
        dense: they are given for many places of each sample.
    """

    path: str
    positives: float
    predicted: float
    dense: bool = False


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything measured.

    Attributes:
        layers: in execution order.
        stream: RMS of the residual stream after each branch was added, in execution order.
        attentions: in execution order.
        sums: of two signals outside the loss, in execution order.
        lost: tensors that were written although each pass makes them anew.
        policies: heads of action distributions -> size of their output relative to the spread of the actions.
        priors: outputs that become probabilities, whose targets are zeros and ones.
        data: tensors of the batch that the model is called with or compared with.
        loss: None where the loss could not be told or computed.
        gradients: path -> RMS of the parameter's gradient; None where no gradient reached it.
        waking: of parameters whose gradient is exactly zero: path -> it receives one within a few small steps. Missing
            where that was not tried.
        alike: of weights all of whose units are equal: path -> their gradients are equal, too.
        output_variation: spread of the output over the samples, relative to its RMS; NaN where it cannot be told.
        output_rms: root mean square of the output.
        samples: samples in the batch, 0 where that cannot be told.
        varied: the samples differ from each other.
        notes: what could not be measured and why.
    """

    layers: tuple[LayerFigures, ...] = ()
    stream: tuple[float, ...] = ()
    attentions: tuple[AttentionFigures, ...] = ()
    sums: tuple[SumFigures, ...] = ()
    lost: tuple[LostFigures, ...] = ()
    priors: tuple[PriorFigures, ...] = ()
    policies: Mapping[str, float] = field(default_factory=dict)
    data: tuple[Scale, ...] = ()
    loss: LossFigures | None = None
    gradients: Mapping[str, float | None] = field(default_factory=dict)
    waking: Mapping[str, bool] = field(default_factory=dict)
    alike: Mapping[str, bool] = field(default_factory=dict)
    output_variation: float = float("nan")
    output_rms: float = float("nan")
    samples: int = 0
    varied: bool = False
    notes: tuple[str, ...] = ()

    def layer(self, path: str) -> LayerFigures | None:
        """Figures of the layer with this weight, None where it was not seen."""
        return next((layer for layer in self.layers if layer.path == path), None)
