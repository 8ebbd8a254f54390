"""The table that `MaskedSequential.summary` prints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from gapcell.torch.layers import ConvRNN
from gapcell.torch.nn.module import Covers, MaskedModule

__all__ = ["Row", "input_row", "row", "table"]

_WIDEST = 52  # characters of a layer's own text; the rest of a long one is cut
# What a reader who follows the mask does not look for.
_DULL = re.compile(
    r"(eps|momentum|affine|elementwise_affine|bias|track_running_stats|inplace|steps=None)\b|stride=\((1, ?)*1?\)$"
)


class Row(NamedTuple):
    """The columns, in order."""

    place: str
    layer: str
    output: str
    mask: str
    observed: str
    words: str


_HEADER = Row("", "layer", "output", "mask", "observed", "what happens to the mask")


def input_row(x: Tensor, mask: Tensor | None) -> Row:
    """What goes in."""
    return Row("", "(input)", _shape(x), *_said(mask), "")


def row(place: str, module: nn.Module, covers: Covers | None, x: Tensor, mask: Tensor | None) -> Row:
    """What a module made of a mask that covered steps, sites or elements; None: there was none."""
    if mask is None:
        words = ""
    else:
        words = "made of what exists" if covers is None else _words(module, covers)
    return Row(place, _layer(module), _shape(x), *_said(mask), words)


def table(rows: Sequence[Row]) -> str:
    """Columns under each other, a line below their names."""
    rows = [_HEADER, *rows]
    widths = [max(len(each[column]) for each in rows) for column in range(len(_HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(each, widths, strict=True)).rstrip() for each in rows]
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)


def _shape(x: Tensor) -> str:
    return str(tuple(x.shape))


def _said(mask: Tensor | None) -> tuple[str, str]:
    if mask is None:
        return "none", "all"
    return _shape(mask), f"{100 * float(mask.float().mean()):.1f} %" if mask.numel() else "-"


def _layer(module: nn.Module) -> str:
    """Its name and sizes."""
    children = [type(child).__name__ for child in module.children()]
    if children and not module.extra_repr():
        said = ", ".join(children)
    else:
        said = ", ".join(part for part in re.split(r", (?![^(]*\))", module.extra_repr()) if not _DULL.match(part))
    said = re.sub(r"\((\d+)(?:, \1)*,?\)", r"\1", said)  # (3, 3) is 3
    text = f"{type(module).__name__}({said})" if said else type(module).__name__
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 2]}…)"


def _words(module: nn.Module, covers: Covers) -> str:
    if isinstance(module, MaskedModule):
        return module.mask_in_words(covers)
    if isinstance(module, nn.Linear) and covers == "elements":
        return "sites: any channel observed"
    if not isinstance(module, ConvRNN):
        return "unchanged, zeros put back"
    if module.spec.gap == "predict":
        return "predict: what exists is stepped"
    if covers == "steps" or module.spec.window is not None:
        return f"{module.spec.gap}: unchanged"
    rule = {"centre": "the kernel's centre decides", "all": "all taps observed", "any": "any tap observed"}
    return f"{module.spec.gap}: sites, {rule[module.spec.rule]}"
