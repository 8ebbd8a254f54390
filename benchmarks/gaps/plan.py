"""What is compared: ways to treat a gap, on two tasks, with sites or steps removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parents[1] / "results" / "gaps.json"
REMOVALS = ("sites", "steps")
SHARES = (0.1, 0.3, 0.6)
SEEDS = 5
TITLES = {"digits": "Moving digits", "temperatures": "Room temperatures"}


class Method(NamedTuple):
    """How a gap is treated.

    Attributes:
        words: for the reader.
        fill: what stands at a gap: "zero", "last" (the value observed before it at the site), or "indicator" (zero, and
            the mask as a further channel).
        gap: of the layer; None: neither the convolution nor the layer is told of a gap.
        partial: whether the convolution weighs what it reads by what it lacks.
    """

    words: str
    fill: str = "zero"
    gap: Any = None
    partial: bool = False


METHODS = {
    "zero-fill": Method("zeros at the gaps, no mask"),
    "forward-fill": Method("the last observed value of the site at its gaps, no mask", fill="last"),
    "indicator": Method("zeros at the gaps, and the mask as a channel (`masks.with_indicator`)", fill="indicator"),
    "hold": Method('mask, `gap="hold"`', gap="hold"),
    "predict": Method('mask, `gap="predict"`', gap="predict"),
    "decay": Method('mask, `gap="decay"`', gap="decay"),
    "partial + hold": Method(
        "partial convolution (`renormalize=True`, rule `any`), then hold", gap="hold", partial=True
    ),
    "partial + predict": Method("partial convolution, then predict", gap="predict", partial=True),
}

REPEAT_LAST = "last value"  # no network: the latest observed value of the site is the forecast
