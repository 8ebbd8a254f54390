"""Asking an adapter all laws in all cases, and what came of it."""

from __future__ import annotations

import re
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import numpy as np

from gapcell.laws.adapter import Adapter, Gradients, has_gradients, spec_options
from gapcell.laws.adapters import load
from gapcell.laws.cases import Case, like, parts
from gapcell.laws.suite import LAWS, NAMES, NOT_ASKED, applies, ask
from gapcell.laws.table import CASES, MANY_SHAPES, OPTIONS, ORDINARY, build
from gapcell.laws.verdicts import CannotBeAsked, LawBroken

__all__ = ["Report", "Row", "Summary", "Verdict", "as_asked", "as_tests", "check", "line"]

Verdict = Literal["holds", "broken", "cannot be asked", "not asked"]
HOLDS: Final = "holds"
BROKEN: Final = "broken"
CANNOT: Final = "cannot be asked"
NOT: Final = "not asked"
Progress = Callable[[str, int, int, str], None]
ESCAPES = re.compile("\x1b\\[[0-9;]*m")  # colours, with which Keras adorns its errors


@dataclass(frozen=True)
class Row:
    """One law in one case.

    Attributes:
        law: its number.
        case: the name of the case, in gapcell.laws.table.
        verdict: "holds", "broken" or "cannot be asked".
        message: where it is broken, the comparison and its error; where it cannot be asked, what of it.
        error: what was raised, with its traceback.
    """

    law: int
    case: str
    verdict: Verdict
    message: str = ""
    error: Exception | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Summary:
    """One law in all cases.

    Attributes:
        law: its number.
        says: its name in words.
        verdict: "broken" if it is in one case, else "holds" if it does in one.
        held: in how many cases it holds.
        broken: in how many it is broken.
        not_asked: in how many it cannot be asked.
        case: the first case where it is broken, or could not be asked if it never could.
        message: of that case.
    """

    law: int
    says: str
    verdict: Verdict
    held: int = 0
    broken: int = 0
    not_asked: int = 0
    case: str = ""
    message: str = ""

    @property
    def why(self) -> str:
        """The case and its message."""
        return f"{self.case}: {self.message}" if self.case else self.message


@dataclass(frozen=True)
class Report:
    """What one adapter did.

    Attributes:
        system: the adapter's name.
        rank: the number of site axes that was asked for, or None for all.
        dtype: that of the cases.
        asked: the laws that were asked for.
        rows: law by law, case by case.
    """

    system: str
    rank: int | None
    dtype: str
    asked: tuple[int, ...]
    rows: tuple[Row, ...]

    @property
    def broken(self) -> str:
        """The numbers of the laws that are, such as "1, 3"; empty if none is."""
        return ", ".join(str(law) for law in sorted({row.law for row in self.rows if row.verdict == BROKEN}))

    def laws(self) -> list[Summary]:
        """One summary a law, in their order; where all laws were asked for, also one for each that nobody is asked."""
        unasked = NOT_ASKED if len(self.asked) == len(LAWS) else {}
        return [self._summary(law) for law in sorted({*self.asked, *unasked})]

    def _summary(self, law: int) -> Summary:
        rows = [row for row in self.rows if row.law == law]
        if not rows:
            return Summary(law, NAMES[law], NOT, message=NOT_ASKED.get(law, f"no case of rank {self.rank}"))
        counts = Counter(row.verdict for row in rows)
        verdict: Verdict = next(each for each in (BROKEN, HOLDS, CANNOT) if counts[each])
        told = self._telling([row for row in rows if row.verdict == verdict != HOLDS])
        where = {} if told is None else {"case": told.case, "message": told.message}
        return Summary(law, NAMES[law], verdict, counts[HOLDS], counts[BROKEN], counts[CANNOT], **where)

    def _telling(self, rows: list[Row]) -> Row | None:
        """The first of them; of what cannot be asked, the first in the case where most other laws could be."""
        if not rows or rows[0].verdict == BROKEN:
            return rows[0] if rows else None
        asked = Counter(row.case for row in self.rows if row.verdict in (HOLDS, BROKEN))
        return max(rows, key=lambda row: asked[row.case])

    def table(self) -> str:
        """One line a law."""
        return "\n".join([self.system, *map(line, self.laws())])

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        rows = [{name: getattr(row, name) for name in ("law", "case", "verdict", "message")} for row in self.rows]
        laws = [asdict(summary) for summary in self.laws()]
        return {"system": self.system, "rank": self.rank, "dtype": self.dtype, "laws": laws, "rows": rows}


def line(summary: Summary) -> str:
    """A law's verdict in words."""
    counts = f"{summary.held} of {summary.held + summary.broken} cases" if summary.held + summary.broken else ""
    return f"{summary.law:>2}  {summary.says:<46}  {summary.verdict:<15}  {counts:<14}  {summary.why}".rstrip()


def check(
    adapter: Adapter | str,
    *,
    rank: int | None = None,
    laws: Iterable[int] | None = None,
    dtype: Any = np.float32,
    every_case: bool = False,
    system: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Asks an adapter the laws.

    Args:
        adapter: or the name of one that comes along ("torch", "keras.layers", ...), or package.module:attribute.
        rank: of the cases, 1 to 3; None takes all. Series are of rank 1.
        laws: their numbers; None takes all.
        dtype: of the cases, float32 or float64; an adapter that computes in one type only says which itself.
        every_case: ask in all cases, not in one for each option; three times as many, as gapcell's own tests do.
        system: the name for the report.
        progress: called with the system, the number of cases done, that of all, and the case.

    Raises:
        ValueError: an argument is out of range, or there is no such adapter.
    """
    chosen = _chosen(laws)
    if rank not in (None, 1, 2, 3):
        raise ValueError(f"`rank` is {rank!r}, expected 1, 2, 3 or None for all")
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise ValueError(f"`dtype` is {np.dtype(dtype)}, expected float32 or float64")
    found = load(adapter) if isinstance(adapter, str) else adapter
    name = system or getattr(found, "system", adapter if isinstance(adapter, str) else type(adapter).__name__)
    layer, dtype = as_asked(found), np.dtype(getattr(found, "dtype", dtype))
    cases, rows = _cases(layer, rank, dtype, every_case), []
    for done, (title, case) in enumerate(cases.items()):
        if progress is not None:
            progress(name, done, len(cases), title)
        asked = [law for law in chosen if applies(law, case) and (every_case or _chosen_for(law, title))]
        rows += [_row(law, layer, title, case) for law in asked]
        if "jax" in sys.modules:  # a compiled function takes some forty memory maps; Linux allows a process 65530
            sys.modules["jax"].clear_caches()
    if progress is not None:
        progress(name, len(cases), len(cases), "")
    return Report(name, rank, str(dtype), chosen, tuple(sorted(rows, key=lambda row: row.law)))


def as_tests(
    adapter: Adapter | str, *, rank: int | None = None, laws: Iterable[int] | None = None
) -> Callable[..., None]:
    """One pytest test a law, in one line of a test file: `test_laws = gapcell.laws.as_tests(MyAdapter(), rank=1)`.

    A law that cannot be asked is skipped, with the reason.

    Args:
        adapter: as `check` takes it.
        rank: likewise.
        laws: likewise.

    Raises:
        ModuleNotFoundError: pytest is not installed.
    """
    try:
        import pytest
    except ModuleNotFoundError as error:
        cure = "needs pytest, which is not installed: pip install pytest"
        raise ModuleNotFoundError(f"laws.as_tests {cure}", name=error.name) from None

    @pytest.mark.parametrize("law", _chosen(laws), ids=lambda law: f"{law}, {NAMES[law]}")
    def test(law: int) -> None:
        report = check(adapter, rank=rank, laws=[law])
        (summary,) = report.laws()
        if summary.verdict == BROKEN:
            first = next(row for row in report.rows if row.verdict == BROKEN)
            raise LawBroken(line(summary)) from first.error
        if summary.verdict != HOLDS:
            pytest.skip(line(summary))

    return test


def _chosen(laws: Iterable[int] | None) -> tuple[int, ...]:
    chosen = tuple(sorted(LAWS if laws is None else set(laws)))
    if unknown := sorted(set(chosen) - set(LAWS)):
        raise ValueError(f"`laws` has {unknown}, expected some of {sorted(LAWS)}")
    return chosen


def _cases(layer: Adapter, rank: int | None, dtype: Any, every_case: bool) -> dict[str, Case]:
    """Those of this rank whose Spec can have the options that the layer always has; the plainest first."""
    cases = {}
    for name in (*ORDINARY, *(CASES if every_case else OPTIONS)):
        try:
            case = build(name, dtype, **spec_options(layer))
        except ValueError:
            continue
        if rank in (None, case.spec.rank):
            cases[name] = case
    return cases


def _chosen_for(law: int, name: str) -> bool:
    """Whether the law is asked in this case when not all are."""
    return name in ORDINARY or name in MANY_SHAPES.get(law, OPTIONS)


def _row(law: int, layer: Adapter, name: str, case: Case) -> Row:
    """Asks with the case's initial state, and if that cannot be given, without."""
    for attempt in (case, case.but(state=None)):
        try:
            ask(law, layer, attempt)
        except CannotBeAsked as reason:
            row = Row(law, name, CANNOT, str(reason), reason)
        except LawBroken as error:
            return Row(law, name, BROKEN, str(error), error)
        except Exception as error:  # a lawful input that makes the layer fall over breaks the law, whatever it raises
            words = textwrap.shorten(ESCAPES.sub("", str(error)), 300)
            return Row(law, name, BROKEN, f"raised {type(error).__name__}: {words}", error)
        else:
            return Row(law, name, HOLDS)
    return row


class _Asked:
    """An adapter whose results are arrays, whatever arrays it gives, and which may refuse a sequence of no steps."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter, self.options = adapter, spec_options(adapter)
        self.takes_params = getattr(adapter, "takes_params", False)
        self.accepted_masks = getattr(adapter, "accepted_masks", lambda case: set())

    def run(self, case: Case) -> tuple[np.ndarray, Any]:
        try:
            result = self.adapter.run(case)
        except Exception as error:
            if case.x.ndim > 1 and case.x.shape[1] == 0:
                raise CannotBeAsked("a sequence of no steps") from error
            raise
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise TypeError("`run` returns the output and the last state, or None in its place: (y, None)")
        y, last = result
        return _array(y), like(last, [_array(part) for part in parts(last)])


class _AskedWithGradients(_Asked):
    def grad(self, case: Case, dy: np.ndarray, dstate: Any) -> Gradients:
        return self.adapter.grad(case, dy, dstate)  # pyrefly: ignore[missing-attribute]  # `as_asked` has looked


def as_asked(adapter: Adapter) -> Adapter:
    """With or without gradients, as the adapter is."""
    return _AskedWithGradients(adapter) if has_gradients(adapter) else _Asked(adapter)


def _array(value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"a result is of type {array.dtype}; the laws compare float32 and float64")
    return array
