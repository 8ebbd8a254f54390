"""Asks every system the laws, each in a process of its own: `python -m benchmarks.laws`, for document.py to show.

Written after every system, and gone on with where it was left; with names of adapters only those are asked, and again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from gapcell.laws import NAMES

RESULTS = Path(__file__).parent / "results" / "laws.json"
RANK = 1
PACKAGES = ("gapcell", "numpy", "torch", "jax", "flax", "dm-haiku", "keras", "tensorflow")


class System(NamedTuple):
    """A row of the table: what it is called there, its adapter, and Keras's backend."""

    name: str
    adapter: str
    backend: str = "torch"


SYSTEMS = (
    System("gapcell.torch", "torch"),
    System("gapcell.torch, dense form", "torch-dense"),
    System("gapcell.jax", "jax"),
    System("gapcell.keras on PyTorch", "keras"),
    System("gapcell.keras on TensorFlow", "keras", "tensorflow"),
    System("gapcell.keras on JAX", "keras", "jax"),
    System("gapcell.reference (no gradients)", "reference"),
    System("torch.nn.LSTM, packed", "torch.nn.LSTM"),
    System("torch.nn.GRU, packed", "torch.nn.GRU"),
    System("keras.layers on PyTorch", "keras.layers"),
    System("keras.layers on TensorFlow", "keras.layers", "tensorflow"),
    System("keras.layers on JAX", "keras.layers", "jax"),
    System("flax.linen, seq_lengths", "flax"),
    System("dm-haiku", "haiku"),
    System("plain ConvLSTM on x * mask", "x*mask"),
)
SIGNS = {"holds": "✓", "broken": "✗", "cannot be asked": "", "not asked": ""}


def main() -> None:
    adapters = sys.argv[1:]
    systems = read()["systems"] if RESULTS.exists() else {}
    for system in SYSTEMS:
        if system.adapter in adapters if adapters else system.name not in systems:
            print(f"{system.name} ...", flush=True)
            systems[system.name] = asked(system)
            content = {
                "rank": RANK,
                "systems": {each.name: systems[each.name] for each in SYSTEMS if each.name in systems},
            }
            RESULTS.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def asked(system: System) -> dict[str, Any]:
    """The versions at hand, and one summary a law."""
    environment = os.environ | {"KERAS_BACKEND": system.backend, "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "laws.json"
        command = [sys.executable, "-m", "gapcell", "laws", system.adapter, "--rank", str(RANK), "--json", str(path)]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if not path.exists():
            raise SystemExit(f"{system.name}: {ran.stderr}")
        content = json.loads(path.read_text(encoding="utf-8"))
    versions = {name: content["versions"][name] for name in PACKAGES if name in content["versions"]}
    return {"versions": versions, "laws": content["systems"][0]["laws"]}


def read() -> dict[str, Any]:
    return json.loads(RESULTS.read_text(encoding="utf-8"))


# The table in docs/laws.md --------


def figures(found: dict[str, Any]) -> str:
    """A row a system, a column a law, and below it each broken law with its first error."""
    laws = [law for law in NAMES if law != 14]
    head = ["", *map(str, laws)]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for name, system in found["systems"].items():
        verdicts = {summary["law"]: SIGNS[summary["verdict"]] for summary in system["laws"]}
        lines.append("| " + " | ".join([name, *(verdicts[law] for law in laws)]) + " |")
    named = sorted({pair for system in found["systems"].values() for pair in system["versions"].items()})
    versions = ", ".join(" ".join(pair) for pair in named)
    words = f"✓ holds, ✗ broken, empty: cannot be asked. Cases with {found['rank']} site axis, float32; {versions}."
    return "\n".join([*lines, "", textwrap.fill(words, 120, break_on_hyphens=False), "", *_broken(found), ""])


def small(found: dict[str, Any]) -> str:
    """A row a system: which laws it breaks, and which it cannot be asked."""
    lines = ["| | breaks law | cannot be asked |", "| --- | --- | --- |"]
    for name, system in found["systems"].items():
        verdicts = {summary["law"]: summary["verdict"] for summary in system["laws"] if summary["law"] != 14}
        broken, unasked = (
            ", ".join(str(law) for law, verdict in verdicts.items() if verdict == wanted)
            for wanted in ("broken", "cannot be asked")
        )
        lines.append(f"| {name} | {broken or 'none'} | {unasked} |")
    return "\n".join(lines) + "\n"


def _broken(found: dict[str, Any]) -> list[str]:
    """A row for each broken law, one for all that a system breaks by the same error."""
    lines = ["| | law | broken in | the first case, and what was found there |", "| --- " * 4 + "|"]
    for name, system in found["systems"].items():
        alike: dict[str, list[dict[str, Any]]] = {}
        for summary in system["laws"]:
            if summary["verdict"] == "broken":
                alike.setdefault(summary["message"], []).append(summary)
        for message, summaries in alike.items():
            laws = ", ".join(str(summary["law"]) for summary in summaries)
            broken = sum(summary["broken"] for summary in summaries)
            cases = f"{broken} of {broken + sum(summary['held'] for summary in summaries)}"
            lines.append(f"| {name} | {laws} | {cases} | {_as_cell(summaries[0]['case'] + ': ' + message)} |")
    return lines


def _as_cell(text: str) -> str:
    """Text that Markdown leaves as it is."""
    for sign in "\\|<>*_`[]":
        text = text.replace(sign, f"\\{sign}")
    return text


if __name__ == "__main__":
    main()
