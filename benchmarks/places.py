"""Where in a text that people write the figures stand: between two comments."""

from __future__ import annotations

BEGIN, END = "<!-- written by benchmarks/document.py -->\n", "<!-- until here -->\n"


def updated(text: str, figures: str | tuple[str, ...], name: str) -> str:
    """The text with these figures.

    Args:
        text: holds the two comments, as many times as there are figures.
        figures: lines, the last one ended; a tuple where they stand in several places.
        name: of the text's file, for the refusal.

    Raises:
        ValueError: the comments are not there so many times, one after the other.
    """
    wanted = (figures,) if isinstance(figures, str) else figures
    first, *rest = text.split(BEGIN)
    pieces = [piece.split(END) for piece in rest]
    if len(pieces) != len(wanted) or END in first or any(len(piece) != 2 for piece in pieces):
        times = "once each" if len(wanted) == 1 else f"{len(wanted)} times each"
        raise ValueError(f"{name} has not {BEGIN.strip()!r} and {END.strip()!r} {times}, in this order")
    return first + "".join(f"{BEGIN}{new}{END}{after}" for new, (_, after) in zip(wanted, pieces, strict=True))
