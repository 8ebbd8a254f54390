"""The command `gapcell`: what it refuses becomes one sentence and an exit status; the commands are in `commands`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

MISSING, INTERRUPTED = 2, 130

CLI = {"cyclopts", "rich"}  # what every command imports
DETECT = {"torch", "polars", "narwhals", "scipy", "sklearn", "altair", "vl_convert", "jinja2", "markupsafe"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: the words after `gapcell`; those of this process when None.

    Returns:
        The exit status: 0 when all went well, 1 when a table, a model or a file is refused, 2 when the command was
        misused or an extra is missing, 130 when interrupted. What is unexpected raises.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return run(words)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in CLI | DETECT:
            raise
        extra = "detect" if package in DETECT or words[:1] in (["detect"], ["score"], ["simulate"]) else "cli"
        return refuse(f"this needs {package}, which is not installed: pip install 'gapcell[{extra}]'", MISSING)
    except KeyboardInterrupt:
        return refuse("interrupted; no output was written", INTERRUPTED)


def run(words: list[str]) -> int:
    """The exit status of a command for which everything is installed."""
    from gapcell import commands

    try:
        commands.run(words)
    except commands.Refusal as refusal:
        return refuse(str(refusal), refusal.status)
    return 0


def refuse(sentence: str, status: int) -> int:
    """Says on standard error why there is no result."""
    print(f"gapcell: {sentence}", file=sys.stderr)
    return status
