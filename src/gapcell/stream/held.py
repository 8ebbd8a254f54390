"""Events that wait for earlier ones: what came in the wrong order by no more than a stated time is put right."""

from __future__ import annotations

import heapq
import math

from gapcell.stream.arrivals import Arrival


class Held:
    """Events in the order of their times, each held until one has come that is so much later.

    Args:
        lateness: seconds by which an event may come after a later one.
    """

    def __init__(self, lateness: float) -> None:
        self.lateness, self.latest = lateness, -math.inf
        self.waiting: list[tuple[float, int, Arrival]] = []
        self.came = 0

    def add(self, event: Arrival, seconds: float) -> None:
        """Hold an event of this time."""
        self.latest = max(self.latest, seconds)
        heapq.heappush(self.waiting, (seconds, self.came, event))
        self.came += 1

    def released(self, *, everything: bool = False) -> list[Arrival]:
        """The events that need not wait any more, earliest first."""
        until = math.inf if everything else self.latest - self.lateness
        found = []
        while self.waiting and self.waiting[0][0] <= until:
            found.append(heapq.heappop(self.waiting)[2])
        return found
