"""Where in a text that people write the figures stand: between two comments."""

from __future__ import annotations

BEGIN, END = "<!-- written by benchmarks/document.py -->\n", "<!-- until here -->\n"


def updated(text: str, figures: str, name: str) -> str:
    """The text with these figures.

    Args:
        text: holds the two comments.
        figures: lines, the last one ended.
        name: of the text's file, for the refusal.

    Raises:
        ValueError: the comments are not there, each once, in their order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise ValueError(f"{name} has not {BEGIN.strip()!r} and {END.strip()!r} once each, in this order")
    return f"{before}{BEGIN}{figures}{END}{after}"
