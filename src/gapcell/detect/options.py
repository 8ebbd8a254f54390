"""The choices of a fit."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

EncoderName = Literal["none", "lstm", "convlstm", "convgru", "calendar"]
ENCODERS: tuple[EncoderName, ...] = get_args(EncoderName)
AUTO = "auto"
LIMITS = {  # smallest and largest value that makes sense; a model file from elsewhere is held to them too
    "window": (1, 256),
    "hidden_size": (1, 2048),
    "min_events": (1, 1_000_000),
    "mixture_components": (1, 64),
    "max_categories": (1, 1000),
    "epochs": (1, 10_000),
    "patience": (1, 10_000),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True)
class FitOptions:
    """The choices of a fit; the defaults are the demo's.

    Attributes:
        window: events per recurrent step of the network, which reads at least this many events back directly.
        hidden_size: channels of the hidden state.
        min_events: the network is trained on entities with at least this many events in the training part. More than 1
            leaves out those that did not come back, without whom every gap looks too long.
        budget: share of events that may alert; 0.001 is 1 in 1,000.
        alerts_per_day: how many alerts a day are wanted; replaces `budget`.
        encoder: what carries the history: "lstm" (event by event), "convlstm" or "convgru" (windows of events),
            "calendar" (a ConvLSTM over days and hours, or weeks and weekdays), "none" (no history: every event is held
            against the population), or "auto", which trains all of them and keeps the one under which the held-out
            events are likeliest.
        label_delay: seconds after which a label becomes known. A labelled event then enters its streams once more, so
            much later and as a report without values, and "reports" is a feature. None: labels are never read.
        supervised: score by the probability of the label, from a head on the encoders trained on the labelled events
            of the training part. Missing labels are left out.
        unscored: features that are read but whose own surprise is not part of the score.
        upper: features where only large amounts are anomalous; features not named here or in `lower` are two-sided.
        lower: features where only small amounts are anomalous.
        train_share: share of the events, in time order, in the training part (ignored when train_until is given).
        test_share: share of the events, the latest, in the test part (ignored when test_from is given).
        train_until: events before this time (ISO 8601 text, or a number of seconds) train.
        test_from: events from this time on are the test part; between the two is the held-out part.
        mixture_components: Gaussians in a mixture head.
        max_categories: categories kept for a categorical feature, the commonest; rarer ones become "other".
        epochs: most epochs of training.
        patience: epochs without a better held-out likelihood before training stops.
        learning_rate: of Adam at the start; it falls to zero along a cosine over `epochs`.
        seed: of every draw; the same seed gives the same scores on one machine.

    Raises:
        ValueError: naming the option that is out of range.
    """

    window: int = 4
    hidden_size: int = 32
    min_events: int = 1
    budget: float = 0.001
    alerts_per_day: float | None = None
    encoder: str = AUTO
    label_delay: float | None = None
    supervised: bool = False
    unscored: tuple[str, ...] = ()
    upper: tuple[str, ...] = ()
    lower: tuple[str, ...] = ()
    train_share: float = 0.6
    test_share: float = 0.2
    train_until: str | float | None = None
    test_from: str | float | None = None
    mixture_components: int = 4
    max_categories: int = 20
    epochs: int = 20
    patience: int = 4
    learning_rate: float = 0.003
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name, (smallest, largest) in LIMITS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= largest:
                raise ValueError(f"{name} (={value!r}) must be a whole number from {smallest} to {largest:,}")
        for name in ("budget", "train_share", "test_share"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
                raise ValueError(f"{name} (={value!r}) must be a share between 0 and 1")
        if self.train_share + self.test_share >= 1:
            raise ValueError(
                f"train_share (={self.train_share}) and test_share (={self.test_share}) must leave something between "
                "them for the held-out part: their sum must be below 1"
            )
        if isinstance(self.learning_rate, bool) or not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate (={self.learning_rate!r}) must lie between 0 and 1")
        if self.encoder not in (AUTO, *ENCODERS):
            raise ValueError(f"encoder (={self.encoder!r}) must be one of {', '.join((AUTO, *ENCODERS))}")
        if not isinstance(self.supervised, bool):
            raise ValueError(f"supervised (={self.supervised!r}) must be True or False")
        for name, smallest in (("alerts_per_day", "above 0"), ("label_delay", "of seconds, at least 0")):
            value = getattr(self, name)
            if value is not None and not is_amount(value, zero=name == "label_delay"):
                raise ValueError(f"{name} (={value!r}) must be a number {smallest}, or None")
        both = sorted(set(self.upper) & set(self.lower))
        if both:
            raise ValueError(f"feature {both[0]!r} is named in upper and in lower: leave it out of both for two-sided")

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all options."""
        return tuple(field.name for field in fields(cls))


def is_amount(value: object, *, zero: bool) -> bool:
    """Whether this is a finite number above zero, or at it where that is allowed."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and (value > 0 or (zero and value == 0))
