"""What travels between a watched process and the command that started it: plain values only."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from initadvisor.checks.finding import Finding
from initadvisor.graph.spec import ModelSpec
from initadvisor.integrations.scripts.networks import NetworkKey
from initadvisor.schemes.scheme import Scheme


class Task(StrEnum):
    """What a process is watched for."""

    WATCH = "watch"  # tell what is trained and how it begins; change nothing
    RUN = "run"  # put a recipe in before the first step
    TRIAL = "trial"  # put a candidate in, record losses, go on step by step as told


@dataclass(frozen=True)
class Filling:
    """What is put into one network before its first step.

    Attributes:
        key: which network; None takes every network that the recipe fits.
        scheme: pickled, since its batch may be of the script's own classes; None where there is a recipe.
        recipe: YAML.
        network: name of the network in the script that the recipe is for.
        seed: of the draw.
    """

    key: NetworkKey | None = None
    scheme: bytes | None = None
    recipe: str | None = None
    network: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Job:
    """What the process is to do; it finds this in the folder of the session.

    Attributes:
        task: what for.
        watched: steps of each optimizer that are followed.
        stop: end the script after these; otherwise it goes on alone.
        propose: also say what could be tried.
        fillings: what to put in.
        seed: set at the start where the script may set none; None leaves the generators alone.
        offset: mixed into the seeds that the script sets; 0 leaves them.
        files: list the files that are opened for writing.
        counted: number of the optimizer whose steps and losses count in a trial.
    """

    task: Task
    watched: int = 3
    stop: bool = False
    propose: bool = False
    fillings: tuple[Filling, ...] = ()
    seed: int | None = None
    offset: int = 0
    files: bool = False
    counted: int = 0


@dataclass(frozen=True, slots=True)
class OptimizerSeen:
    """One optimizer of the script.

    Attributes:
        name: what the script calls it, ``""`` where that was not found.
        text: class and settings.
        rates: per step, the learning rate of each group.
        losses: per step, what was stepped on; None where no backward pass was seen.
        tensors: that it holds.
        number: it was the n-th that the script made.
    """

    name: str
    text: str
    rates: tuple[tuple[float, ...], ...] = ()
    losses: tuple[float | None, ...] = ()
    tensors: int = 0
    number: int = 0


@dataclass(frozen=True, slots=True)
class WeightSeen:
    """One weight at the first step.

    Attributes:
        path: its name in the network.
        output_rms: root mean square of what the layer makes.
        grad_rms: of the gradient that was stepped on; None where none arrived.
        update: size of the first step relative to the weight; None where it was not measured.
        units, dead: of the activation behind it, and how many of them are zero on the whole batch.
    """

    path: str
    output_rms: float = math.nan
    grad_rms: float | None = None
    update: float | None = None
    units: int = 0
    dead: int = 0


@dataclass(frozen=True)
class NetworkSeen:
    """One network of the script.

    Attributes:
        name: what the script calls it.
        kind: name of its class.
        key: what tells it again.
        optimizers: numbers of those that hold it.
        parameters: trained elements.
        inputs: what it was called with, in words.
        parts: parts that were called where it was not called as a whole.
        spec: the reading of it, None where it could not be read.
        findings: of ``check``.
        weights: in execution order.
        schemes: candidates, where they were asked for; without their batches.
        packed: the same with their batches, pickled one by one.
        left: trainable parameters that no optimizer holds.
        copies: modules that were equal to it before the first step, by name.
        loss_name: what the loss compares, in words.
        note: that its weights look trained, where they do.
        fault: why it could not be read.
    """

    name: str
    kind: str
    key: NetworkKey
    optimizers: tuple[int, ...]
    parameters: int
    inputs: str = ""
    parts: tuple[str, ...] = ()
    spec: ModelSpec | None = None
    findings: tuple[Finding, ...] = ()
    weights: tuple[WeightSeen, ...] = ()
    schemes: tuple[Scheme, ...] = ()
    packed: Mapping[str, bytes] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    loss_name: str = ""
    note: str = ""
    fault: str = ""


@dataclass(frozen=True)
class TrainingSeen:
    """What was seen of a script's training.

    Attributes:
        optimizers: in the order they were made.
        networks: what they train.
        others: modules with parameters that were called and that no optimizer holds, in words.
        device: where it trains.
        files: opened for writing.
        seeded: the script sets the seed of torch by itself.
        notes: remarks.
    """

    optimizers: tuple[OptimizerSeen, ...]
    networks: tuple[NetworkSeen, ...]
    others: tuple[str, ...] = ()
    device: str = "cpu"
    files: tuple[str, ...] = ()
    seeded: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stepped:
    """A trial has done as many steps as it was asked for.

    Attributes:
        steps: done so far.
        losses: that were stepped on since the last message.
        reported: name, step and value of what the script has reported since.
        ended: the script has come to its own end.
    """

    steps: int
    losses: tuple[float, ...]
    reported: tuple[tuple[str, int, float], ...] = ()
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Filled:
    """What was put in before the first step.

    Attributes:
        network: name or class.
        tensors: written.
        copies: copies that were made equal again.
        fault: why nothing could be put in.
    """

    network: str
    tensors: int
    copies: int = 0
    fault: str = ""


def picklable(spec: ModelSpec) -> ModelSpec:
    """The reading without activations of the script's own, where these cannot travel."""
    try:
        pickle.dumps(spec)
    except (pickle.PicklingError, AttributeError, TypeError):
        return replace(spec, custom_activations={})
    return spec


def dumps(value: Any) -> bytes:
    """A value as bytes."""
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
