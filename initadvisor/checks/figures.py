"""What one forward and one backward pass show: plain numbers per layer, no tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LayerFigures:
    """One weight layer on the sample batch, sums over all its uses.

    Attributes:
        path: of the weight.
        rms: root mean square of its output.
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
class LossFigures:
    """The loss at initialisation.

    Attributes:
        value: what training would minimise.
        name: the loss in words.
        cross_entropy: mean cross-entropy of the scores with the target, None where that is not what is trained.
        entropy_error: standard error of that mean.
        classes: number of classes, 0 where there are none.
        score_rms: root mean square of the scores about their mean over classes.
        target_mean, target_std: of float targets, None for others.
        output_rms: root mean square of the compared output.
    """

    value: float
    name: str
    cross_entropy: float | None = None
    entropy_error: float = 0.0
    classes: int = 0
    score_rms: float = 0.0
    target_mean: float | None = None
    target_std: float | None = None
    output_rms: float = 0.0


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything measured.

    Attributes:
        layers: in execution order.
        stream: RMS of the residual stream after each branch was added, in execution order.
        attentions: in execution order.
        loss: None where the loss could not be told or computed.
        gradients: path -> RMS of the parameter's gradient; None where no gradient reached it.
        output_variation: spread of the output over the samples, relative to its RMS; NaN where it cannot be told.
        output_rms: root mean square of the output.
        samples: samples in the batch, 0 where that cannot be told.
        varied: the samples differ from each other.
        notes: what could not be measured and why.
    """

    layers: tuple[LayerFigures, ...] = ()
    stream: tuple[float, ...] = ()
    attentions: tuple[AttentionFigures, ...] = ()
    loss: LossFigures | None = None
    gradients: Mapping[str, float | None] = field(default_factory=dict)
    output_variation: float = float("nan")
    output_rms: float = float("nan")
    samples: int = 0
    varied: bool = False
    notes: tuple[str, ...] = ()

    def layer(self, path: str) -> LayerFigures | None:
        """Figures of the layer with this weight, None where it was not seen."""
        return next((layer for layer in self.layers if layer.path == path), None)
