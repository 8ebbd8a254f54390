"""What is said of a file that is not what it should be."""

from __future__ import annotations

from pathlib import Path

__all__ = ["WeightsError", "check_is_file", "shortened"]


class WeightsError(ValueError):
    """A file of weights is damaged, foreign, or not what it says; the message names the file and what is wrong."""


def check_is_file(path: Path) -> None:
    """Refuses a folder, and what reading would wait for, such as a pipe.

    Raises:
        FileNotFoundError: there is nothing.
        WeightsError: there is something else than a file.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    if not path.is_file():
        raise WeightsError(f"{str(path)!r} is not a file; give the name of a file of weights")


def shortened(text: object) -> str:
    """One line of a text that a stranger may have written: at most 160 characters, all of them printable."""
    line = " ".join(str(text)[:400].split())
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    return line if len(line) <= 160 else f"{line[:157]}..."
