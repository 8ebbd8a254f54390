"""Fitting the model of one stream: the population, and the encoder under which held-out events are likeliest."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from gapcell.detect.checkpoint import Checkpoints
from gapcell.detect.cross_fitting import CrossFitted
from gapcell.detect.distributed import ALONE, Ranks
from gapcell.detect.judging import HeldOut, Judgement, choose_families
from gapcell.detect.marginal import fit_population
from gapcell.detect.material import Material
from gapcell.detect.model import Network, in_double
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
        cross_fitted: networks like the chosen one, for the odds of labels it learnt itself; None where it learnt none.
        interrupted: True where the training was cut short; the best so far is kept.
    """

    predictor: Predictor
    candidates: tuple[Candidate, ...]
    epochs: tuple[Epoch, ...]
    cross_fitted: CrossFitted | None
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


@dataclass(eq=False)
class Trainer:
    """Trains networks on one stream until it is interrupted.

    Attributes:
        material: what is fitted to.
        population: the parameters (all,) that every network starts from.
        held_out: the events that judge.
        progress: told of every epoch.
        checkpoints: where trainings are kept, if anywhere.
        ranks: the processes that train.
        interrupted: True after Ctrl-C.
    """

    material: Material
    population: Tensor
    held_out: HeldOut
    progress: Progress
    checkpoints: Checkpoints | None
    ranks: Ranks = ALONE
    interrupted: bool = False

    def train(self, encoder: EncoderName, options: FitOptions, stage: str) -> Course | None:
        """Train a network, or take what is there of it when interrupted; None where that is nothing."""
        key = self.material.stream.key
        course = Course.start(self.material, self.population, encoder, options)

        def say(done: int, total: int, message: str) -> None:
            self.progress(stage, done, total, f"{encoder} by {key}: {message}")

        reporter = Reporter(say, f"{stage}-{key}-{encoder}", self.checkpoints)
        try:
            fit_network(self.material, self.held_out, course, options, reporter, self.ranks)
        except KeyboardInterrupt:
            if not self.ranks.alone:  # it comes to each process in an epoch of its own: there is no common best so far
                raise
            self.interrupted = True
        return course if course.best else None

    def best_of_all(self, options: FitOptions) -> tuple[Course | None, dict[str, float]]:
        """Try each encoder and train the best of them on: its training, and the held-out value of each."""
        short = dataclasses.replace(options, epochs=max(min(LEAST_TRIAL, options.epochs), options.epochs // TRIAL))
        trials: dict[EncoderName, Course] = {}
        for name in ENCODERS[1:]:
            course = None if self.interrupted else self.train(name, short, "encoders")
            if course is not None:
                trials[name] = course
        tried: dict[str, float] = {name: best_value(course) for name, course in trials.items()}
        if not trials:
            return None, tried
        name = min(trials, key=lambda name: tried[name])
        course = None if self.interrupted else self.train(name, options, "network")
        course = trials[name] if course is None or best_value(course) > tried[name] else course
        return course, tried | {name: best_value(course)}

    def cross_fit(self, encoder: EncoderName, options: FitOptions) -> CrossFitted:
        """Train a network for each fold of the labels."""

        def train(material: Material, number: int) -> Network | None:
            fold = dataclasses.replace(self, material=material)
            course = None if self.interrupted else fold.train(encoder, options, f"fold {number}")
            self.interrupted = fold.interrupted
            return None if course is None else in_double(course.kept())

        return CrossFitted.fit(self.material, options.seed, train)


def fit_stream(
    material: Material,
    options: FitOptions,
    progress: Progress,
    checkpoints: Checkpoints | None = None,
    ranks: Ranks = ALONE,
) -> FittedStream:
    """Fit the population, try the encoders, and train the best of them.

    With encoder="auto" each is trained for a fifth of the epochs; the one under which the held-out events before
    `threshold_from` are likeliest is trained for all of them, and gives way to "none" where the population alone
    predicts those events better. An interruption of a process alone keeps the best network there is by then.

    Raises:
        KeyboardInterrupt: an interruption before the first epoch, or of one of several processes.
        ProcessError: when another process has other material or is lost.
    """
    key = material.stream.key
    population = fit_population(material, options.seed, lambda done, total: progress("population", done, total))
    held_out = HeldOut.of(material, options)
    common = held_out.judge_population(population, material)
    trainer = Trainer(material, population, held_out, progress, checkpoints, ranks)
    tried: dict[str, float] = {} if options.supervised else {"none": common.value}
    course = None
    if options.encoder == AUTO:
        course, values = trainer.best_of_all(options)
        tried |= values
    elif options.encoder != "none":
        name = next(name for name in ENCODERS if name == options.encoder)
        course = trainer.train(name, options, "network")
        tried |= {} if course is None else {name: best_value(course)}
    if course is None and trainer.interrupted:
        raise KeyboardInterrupt
    if options.encoder == AUTO and course is not None and tried.get("none", math.inf) <= best_value(course):
        course = None
    choice = "none" if course is None else course.network.name
    candidates = tuple(Candidate(key, name, value, name == choice) for name, value in tried.items())
    predictor = predictor_of(material, course, held_out, population, common)
    cross_fitted = trainer.cross_fit(course.network.name, options) if course and options.supervised else None
    epochs = tuple(course.epochs) if course else ()
    return FittedStream(predictor, candidates, epochs, cross_fitted, trainer.interrupted)


def best_value(course: Course) -> float:
    """The held-out value of the epoch that was kept."""
    return min(epoch.held_out for epoch in course.epochs)


def predictor_of(
    material: Material, course: Course | None, held_out: HeldOut, population: Tensor, common: Judgement
) -> Predictor:
    """Population and network with their families chosen, the heads in float64."""
    families = choose_families(material.heads, common)
    own, network = (), None
    if course is not None:
        network = copy.deepcopy(course.kept()).requires_grad_(requires_grad=False)
        own = choose_families(material.heads, held_out.judge(network, material, calibrated=True))
        in_double(network)
    return Predictor(network, population.double(), own, families, material.tails)
