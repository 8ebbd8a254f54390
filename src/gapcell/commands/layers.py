"""The commands about layers and what is installed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from gapcell.commands.words import Flag
from gapcell.refusal import MISUSED, Refusal, check_outputs


def info() -> None:
    """Say which versions are installed and which kernel runs.

    Nothing is imported to find out, so that this works where something is broken.

    Example: gapcell info
    """
    from gapcell.info import kernel, kernel_in_jax, packages
    from gapcell.terminal import show_packages

    show_packages(packages(), {"kernel": kernel(), "in jax": kernel_in_jax()})


def laws(
    *adapters: str,
    rank: Literal[1, 2, 3] | None = None,
    html: Path | None = None,
    json: Path | None = None,
    every_case: Flag = False,
    float64: Flag = False,
) -> None:
    """Ask layers which laws of masking they obey: yours, gapcell's, or those of other libraries.

    The laws are in docs/laws.md. Without an adapter, lists those that come along. The exit status is 1 when a law is
    broken; one that a layer cannot be asked, for want of an option, is not.

    Example: gapcell laws torch.nn.LSTM keras.layers mypackage.layers:MyAdapter --rank 1

    Args:
        adapters: names, or package.module:attribute of your own, found from this folder too.
        rank: ask in cases with this many site axes, 1 to 3. All when left out.
        html: page to write, .html. Replaced when it exists.
        json: every law in every case, .json. Replaced when it exists.
        every_case: ask in three times as many cases, as gapcell's own tests do (takes longer).
        float64: ask in float64 in the place of float32.
    """
    from gapcell.laws import KNOWN, check, load
    from gapcell.laws.output import write
    from gapcell.terminal import progress, show_adapters, show_files, show_laws

    outputs = {option: path for option, path in (("--html", html), ("--json", json)) if path is not None}
    if not adapters:
        if outputs:
            raise Refusal("name an adapter; gapcell laws lists them", MISUSED)
        show_adapters(KNOWN)
        return
    check_outputs(outputs, inputs=[], model=None)
    # read by frameworks when they are imported: threads only wait for each other on arrays this small
    for name, value in {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}.items():
        os.environ.setdefault(name, value)
    dtype = "float64" if float64 else "float32"
    try:
        layers = {name: load(name) for name in adapters}
        with progress() as shown:
            reports = [
                check(
                    layer,
                    rank=rank,
                    dtype=dtype,
                    every_case=every_case,
                    system=getattr(layer, "system", name),
                    progress=shown,
                )
                for name, layer in layers.items()
            ]
    except ValueError as error:
        raise Refusal(str(error).replace("`", ""), MISUSED) from None
    write(reports, html=html, json=json)
    show_laws(reports)
    show_files({option.strip("-"): str(path) for option, path in outputs.items()})
    if broken := [f"{report.system} breaks law {report.broken}" for report in reports if report.broken]:
        raise Refusal("; ".join(broken))
