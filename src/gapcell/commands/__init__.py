"""The commands: what each takes and teaches; the work is done by the modules they import when they run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from cyclopts import App, CycloptsError

from gapcell import __version__
from gapcell.commands.detection import detect, score
from gapcell.commands.fitting import fit
from gapcell.commands.layers import info, laws
from gapcell.commands.simulation import simulate
from gapcell.commands.streaming import stream
from gapcell.refusal import MISUSED, Refusal

__all__ = ["Refusal", "app", "completion", "detect", "fit", "info", "laws", "run", "score", "simulate", "stream"]

app = App(
    name="gapcell",
    version=__version__,
    help="Convolutional recurrent layers for sequences with gaps, and anomaly detection on tables of events.\n\n"
    "First steps: gapcell detect --demo, then gapcell detect your-events.csv",
    help_format="markdown",
)


def run(words: Sequence[str]) -> None:
    """Runs the command that the words name.

    Raises:
        Refusal: the words are misused, or what they name is refused.
    """
    try:
        # parsed here and called below, because App.__call__ exits by itself and has its own way with interruptions
        command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        sentence = " ".join(str(error).split()).rstrip(".")
        command = f"{words[0]} " if words and words[0] in app else ""
        raise Refusal(f"{sentence}; see gapcell {command}--help", MISUSED) from None
    command(*bound.args, **bound.kwargs)


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print the script that completes commands and options in a shell.

    Example: gapcell completion bash > ~/.local/share/bash-completion/completions/gapcell

    Args:
        shell: bash, zsh (a file _gapcell in a folder of $fpath) or fish (~/.config/fish/completions/gapcell.fish).
    """
    print(app.generate_completion(shell=shell))


for command in (detect, fit, score, stream, simulate, info, completion, laws):
    app.command(command)
