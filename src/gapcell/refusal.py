"""Why a command does not do what it was asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gapcell.files import check_writable

REFUSED, MISUSED = 1, 2


class Refusal(Exception):  # noqa: N818  # not an error in the program
    """Why a command does not do what it was asked, in one sentence, with the exit status to leave with."""

    def __init__(self, sentence: str, status: int = REFUSED) -> None:
        super().__init__(sentence)
        self.status = status


def check_outputs(outputs: dict[str, Path], inputs: Sequence[Path | None], model: Path | None) -> None:
    """Refuses, before any work is done, outputs that cannot be written or that would destroy something."""
    suffixes = {"--report": (".html", ".htm"), "--scores": (".parquet", ".csv"), "OUT": (".parquet", ".csv")}
    suffixes |= {"--html": (".html", ".htm"), "--json": (".json",)}
    taken = {path.resolve(): "the input table" for path in inputs if path is not None}
    for option, path in outputs.items():
        if path.suffix not in suffixes[option]:
            raise Refusal(f"{option} (={str(path)!r}) must end in {' or '.join(suffixes[option])}", MISUSED)
        if path.resolve() in taken:
            raise Refusal(f"{option} {str(path)!r} would overwrite {taken[path.resolve()]}: give another name", MISUSED)
        taken[path.resolve()] = f"what {option} writes"
        try:
            check_writable(path)
        except OSError as error:
            raise Refusal(f"{option}: {error}") from None
    if model is not None and model.exists() and not model.is_dir():
        raise Refusal(f"--model {str(model)!r} is a file: give the name of a folder", MISUSED)
