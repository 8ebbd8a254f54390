"""Fitting the model of one stream: the population, and the encoder under which held-out events are likeliest."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from gapcell.detect.checkpoint import Checkpoints
from gapcell.detect.judging import HeldOut, Judgement, choose_families
from gapcell.detect.marginal import fit_population
from gapcell.detect.material import Material
from gapcell.detect.model import in_double
from gapcell.detect.options import AUTO, ENCODERS, EncoderName, FitOptions
from gapcell.detect.results import Candidate, Epoch, Progress
from gapcell.detect.scoring import Predictor
from gapcell.detect.training import Course, fit_network

TRIAL = 5  # an encoder is tried for this part of the epochs before one of them is trained for all
LEAST_TRIAL = 3  # epochs


@dataclass(frozen=True, eq=False)
class FittedStream:
    """What a fit leaves behind for one stream.

    Attributes:
        predictor: network and population, with the chosen heads.
        candidates: the encoders that were tried.
        epochs: the training curve of the chosen one, empty for "none".
        interrupted: True where the training was cut short; the best so far is kept.
    """

    predictor: Predictor
    candidates: tuple[Candidate, ...]
    epochs: tuple[Epoch, ...]
    interrupted: bool


class Reporter:
    """Tells of epochs, and keeps them where there is a place to."""

    def __init__(self, say: Callable[[int, int, str], None], name: str, checkpoints: Checkpoints | None) -> None:
        self.say, self.name, self.checkpoints = say, name, checkpoints

    def resume(self, course: Course) -> None:
        """Put back what was kept of this training."""
        if self.checkpoints is not None:
            self.checkpoints.restore(self.name, course)

    def after_epoch(self, course: Course, total: int) -> None:
        """Keep the epoch, and say how it went."""
        if self.checkpoints is not None:
            self.checkpoints.keep(self.name, course)
        self.say(len(course.epochs), total, f"held-out negative log-likelihood {course.epochs[-1].held_out:.3f}")


def fit_stream(
    material: Material, options: FitOptions, progress: Progress, checkpoints: Checkpoints | None = None
) -> FittedStream:
    """Fit the population, try the encoders, and train the best of them.

    With encoder="auto" each is trained for a fifth of the epochs; the one under which the held-out events before
    `threshold_from` are likeliest is trained for all of them, and gives way to "none" where the population alone
    predicts those events better. An interruption keeps the best network there is by then.
    """
    key = material.stream.key
    population = fit_population(material, options.seed, lambda done, total: progress("population", done, total))
    held_out = HeldOut.of(material, options)
    common = held_out.judge_population(population, material)
    tried: dict[str, float] = {} if options.supervised else {"none": common.value}
    interrupted = False

    def train(name: EncoderName, chosen: FitOptions, stage: str) -> Course:
        nonlocal interrupted
        course = Course.start(material, population, name, chosen)

        def say(done: int, total: int, message: str) -> None:
            progress(stage, done, total, f"{name} by {key}: {message}")

        try:
            fit_network(material, held_out, course, chosen, Reporter(say, f"{stage}-{key}-{name}", checkpoints))
        except KeyboardInterrupt:
            if not course.best:
                raise
            interrupted = True
        return course

    trials: dict[str, Course] = {}
    if options.encoder == AUTO:
        short = dataclasses.replace(options, epochs=max(min(LEAST_TRIAL, options.epochs), options.epochs // TRIAL))
        for name in ENCODERS[1:]:
            if not interrupted:
                trials[name] = train(name, short, "encoders")
                tried[name] = best_value(trials[name])
        names = {name: value for name, value in tried.items() if name != "none"}
        choice = min(names, key=lambda name: names[name])
    else:
        choice = options.encoder
    course = None
    if choice != "none":
        course = trials[choice] if interrupted else train(choice, options, "network")  # pyrefly: ignore  # of ENCODERS
        tried[choice] = min(best_value(course), tried.get(choice, math.inf))
        if options.encoder == AUTO and common.events and tried.get("none", math.inf) <= tried[choice]:
            choice, course = "none", None
    candidates = tuple(Candidate(key, name, value, name == choice) for name, value in tried.items())
    predictor = predictor_of(material, course, held_out, population, common)
    return FittedStream(predictor, candidates, tuple(course.epochs) if course else (), interrupted)


def best_value(course: Course) -> float:
    """The held-out value of the epoch that was kept."""
    return min(epoch.held_out for epoch in course.epochs)


def predictor_of(
    material: Material, course: Course | None, held_out: HeldOut, population: object, common: Judgement
) -> Predictor:
    """Population and network with their families chosen, the heads in float64."""
    families = choose_families(material.heads, common)
    own, network = (), None
    if course is not None:
        network = copy.deepcopy(course.kept()).requires_grad_(requires_grad=False)
        own = choose_families(material.heads, held_out.judge(network, material, calibrated=True))
        in_double(network)
    return Predictor(network, population.double(), own, families, material.tails)  # pyrefly: ignore  # a Tensor
