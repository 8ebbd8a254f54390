"""What the series of a stream leave behind: all that their next events need, so that no event is read twice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

EVENTS, LAST, REPORTS, SUMS, BEFORE = "events", "last_event", "reports", "sums", "before"
"""The fields of a record that every stream has, but the last, which a network reads."""

DUE = np.dtype("<f8")
ENCODERS_OWN = "encoder."  # before the names of what an encoder carries


@dataclass(frozen=True, eq=False)
class Carried:
    """Series as their last events left them.

    Attributes:
        records: (n,) structured as `records.layout_of` says: how many events there were, the seconds of the last one
            (NaN before the first), how many reports count at it, the sums of the running moments, the state before the
            next event, and what the encoder carries.
        due: the seconds of the reports that are still to come, of each of the n series, rising.
    """

    records: np.ndarray
    due: tuple[np.ndarray, ...]

    def memory(self) -> dict[str, Tensor]:
        """What the encoder carries, each (n, ...), and the state before the next event: copies."""
        names = [name for name in self.records.dtype.names or () if name.startswith(ENCODERS_OWN) or name == BEFORE]
        return {name.removeprefix(ENCODERS_OWN): torch.from_numpy(self.records[name].copy()) for name in names}

    def rows(self) -> list[bytes]:
        """Each series as bytes: its record, and the reports that are due."""
        return [
            record.tobytes() + due.astype(DUE).tobytes() for record, due in zip(self.records, self.due, strict=True)
        ]
