"""The command `gapcell`: what it refuses becomes one sentence and an exit status; the commands are in `commands`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["MISUSED", "REFUSED", "Refusal", "main"]

REFUSED, MISUSED, INTERRUPTED = 1, 2, 130

EXTRAS = {  # module that a command imports: the extra that installs it
    "cyclopts": "cli",
    "rich": "cli",
    "torch": "detect",
    "polars": "detect",
    "scipy": "detect",
    "sklearn": "detect",
    "altair": "detect",
    "vl_convert": "detect",
    "jinja2": "detect",
    "markupsafe": "detect",
}


class Refusal(Exception):  # noqa: N818  # not an error in the program
    """Why a command does not do what it was asked, in one sentence, with the exit status to leave with."""

    def __init__(self, sentence: str, status: int = REFUSED) -> None:
        super().__init__(sentence)
        self.status = status


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
        from gapcell import commands

        return commands.run(words)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = EXTRAS.get(package)
        if extra is None:
            raise
        return refuse(f"this needs {package}, which is not installed: pip install 'gapcell[{extra}]'", MISUSED)
    except KeyboardInterrupt:
        return refuse("interrupted; no output was written", INTERRUPTED)
    except Refusal as refusal:
        return refuse(str(refusal), refusal.status)


def refuse(sentence: str, status: int) -> int:
    """Says on standard error why there is no result."""
    print(f"gapcell: {sentence}", file=sys.stderr)
    return status
