"""The layers and inputs that every law is tried on, by name."""

from __future__ import annotations

from typing import Any

import numpy as np

from gapcell.laws.cases import Case, make_case, make_spec

# name: options of the Spec, options of the case (docs of `make_case`)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "1d step mask": ({}, {"mask": "step"}),
    "1d site mask": ({}, {"mask": "site"}),
    "1d element mask": ({"kernel_size": 5}, {"mask": "element", "lengths": True}),
    "1d gru": ({"cell": "gru"}, {"mask": "site"}),
    "2d": ({"rank": 2}, {"mask": "element"}),
    "2d gru": ({"rank": 2, "cell": "gru", "kernel_size": (1, 3)}, {"mask": "site", "domain": "shared"}),
    "3d": ({"rank": 3, "kernel_size": (3, 2, 1)}, {"mask": "site", "lengths": True}),
    "3d gru": ({"rank": 3, "cell": "gru"}, {"mask": "step"}),
    "no bias": ({"bias": False}, {"mask": "site"}),
    "hold output": ({"masked_output": "hold"}, {"mask": "site", "lengths": True}),
    "hold output gru": ({"masked_output": "hold", "cell": "gru", "num_layers": 2}, {"mask": "step"}),
    "domain": ({}, {"mask": "site", "domain": "row", "lengths": True}),
    "predict": ({"gap": "predict"}, {"mask": "site"}),
    "predict, domain": ({"gap": "predict", "num_layers": 2}, {"mask": "element", "domain": "shared"}),
    "predict gru": ({"gap": "predict", "cell": "gru", "masked_output": "hold"}, {"mask": "step"}),
    "2 layers": ({"num_layers": 2}, {"mask": "site"}),
    "bidirectional": ({"bidirectional": True}, {"mask": "site", "lengths": True}),
    "bidirectional 2d": ({"bidirectional": True, "rank": 2, "cell": "gru"}, {"mask": "site", "domain": "row"}),
    "bidirectional 3d": ({"bidirectional": True, "rank": 3, "kernel_size": (1, 3, 1)}, {"mask": "site"}),
    "bidirectional predict": ({"bidirectional": True, "gap": "predict"}, {"mask": "site"}),
    "bidirectional, 2 layers": ({"bidirectional": True, "num_layers": 2}, {"mask": "element", "lengths": True}),
    "stride": ({"stride": 2, "num_layers": 2}, {"mask": "site", "sites": (5,)}),
    "stride 2d": ({"stride": (2, 1), "rank": 2, "cell": "gru"}, {"mask": "site", "domain": "shared"}),
    "valid": ({"padding": "valid", "stride": 2}, {"mask": "site", "sites": (9,), "share": 0.8}),
    "valid predict": ({"padding": "valid", "gap": "predict"}, {"mask": "site", "domain": "row", "sites": (6,)}),
    "dilation": ({"dilation": 2, "kernel_size": 2, "recurrent_kernel_size": 5}, {"mask": "site"}),
    "even kernel": ({"kernel_size": 4, "recurrent_kernel_size": 2}, {"mask": "site"}),
    "kernel larger than the input": ({"kernel_size": 9}, {"mask": "site"}),
    "causal": ({"causal": True, "cell": "gru"}, {"mask": "site"}),
    "rule any": ({"mask_rule": "any"}, {"mask": "site", "share": 0.3}),
    "rule all": ({"mask_rule": "all"}, {"mask": "site", "share": 0.9}),
    "rule all, no tap inside": ({"mask_rule": "all", "kernel_size": 2, "dilation": 20}, {"mask": "site"}),
    "series": ({"window": 3}, {"mask": "step", "T": 8}),
    "series, elements": ({"window": 3, "cell": "gru"}, {"mask": "element", "T": 8, "lengths": True}),
    "series, causal": ({"window": 3, "causal": True, "kernel_size": 4}, {"mask": "step", "T": 8, "domain": "row"}),
    "series, hold output": ({"window": 2, "causal": True, "masked_output": "hold"}, {"mask": "step", "T": 8}),
    "series, predict": ({"window": 3, "gap": "predict"}, {"mask": "step", "T": 8}),
    "series, both ways": ({"window": 3, "bidirectional": True, "num_layers": 2}, {"mask": "step", "T": 8}),
    "decay": ({"gap": "decay"}, {"mask": "site"}),
    "decay gru": ({"gap": "decay", "cell": "gru", "masked_output": "hold", "num_layers": 2}, {"mask": "step"}),
    "decay 2d": ({"gap": "decay", "rank": 2, "stride": (2, 1)}, {"mask": "element", "domain": "row"}),
    "decay, sites held": ({"gap": "decay", "masked_output": "hold"}, {"mask": "site", "share": 0.3}),
    "decay, no dt": ({"gap": "decay", "bidirectional": True}, {"mask": "step", "dt": False}),
    "bidirectional decay": ({"gap": "decay", "bidirectional": True}, {"mask": "site"}),
    "series, decay": (
        {"window": 2, "causal": True, "gap": "decay", "masked_output": "hold"},
        {"mask": "step", "T": 8, "domain": "row"},
    ),
    "series, decay, both ways": (
        {"window": 3, "bidirectional": True, "cell": "gru", "gap": "decay"},
        {"mask": "step", "T": 9, "domain": "row"},
    ),
    "series, decay, whole windows": ({"window": 2, "causal": True, "gap": "decay"}, {"mask": "step", "T": 8}),
    "series of windows of 1": ({"window": 1, "causal": True}, {"mask": "step", "T": 6}),
    "series, whole windows": ({"window": 2, "causal": True, "num_layers": 2}, {"mask": "step", "T": 8}),
    "series, whole windows gru": ({"window": 2, "causal": True, "cell": "gru"}, {"mask": "element", "T": 8}),
}
# What most layers can be asked, whichever way they are told about gaps: nothing is masked, padding stands on the right
# (lengths can say so), whole steps are missing.
ORDINARY: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing masked": ({}, {"mask": None}),
    "padding on the right": ({}, {"mask": "padding"}),
    "gru, padding on the right": ({"cell": "gru"}, {"mask": "padding"}),
    "steps missing": ({}, {"mask": "step"}),
    "one site": ({}, {"mask": None, "sites": (1,)}),
    "one site, padding on the right": ({}, {"mask": "padding", "sites": (1,)}),
    "one site, both ways": ({"bidirectional": True}, {"mask": None, "sites": (1,)}),
    "one site, gru": ({"cell": "gru"}, {"mask": None, "sites": (1,)}),
    "one site, gru, padding on the right": ({"cell": "gru"}, {"mask": "padding", "sites": (1,)}),
    "one site, gru, both ways": ({"cell": "gru", "bidirectional": True}, {"mask": None, "sites": (1,)}),
    "2d, nothing masked": ({"rank": 2}, {"mask": None}),
    "2d, padding on the right": ({"rank": 2}, {"mask": "padding"}),
    "2d, steps missing": ({"rank": 2}, {"mask": "step"}),
    "3d, nothing masked": ({"rank": 3}, {"mask": None}),
    "3d, padding on the right": ({"rank": 3}, {"mask": "padding"}),
    "3d, steps missing": ({"rank": 3}, {"mask": "step"}),
}
# One case for each option: what `gapcell laws` asks beside the ordinary ones, unless told to ask all.
OPTIONS = (
    *("1d site mask", "1d element mask", "1d gru", "hold output", "domain", "predict", "2 layers", "bidirectional"),
    *(
        "stride",
        "valid",
        "series, elements",
        "series",
        "series, causal",
        "series, whole windows gru",
        "decay",
        "series, decay",
    ),
    *("2d", "2d gru", "bidirectional 2d", "decay 2d", "3d", "3d gru", "bidirectional 3d"),
)
# These laws try many shapes of each case, and each shape may cost a compiler a second: they are asked in fewer.
MANY_SHAPES = {
    2: ("1d site mask", "predict gru", "bidirectional", "2d", "3d", "series, elements"),
    4: ("1d gru", "domain", "predict", "hold output", "valid", "2d", "3d"),
    5: (
        *("1d gru", "1d element mask", "2d", "3d", "domain", "predict, domain", "bidirectional", "stride"),
        "series, elements",
    ),
    7: ("1d site mask", "predict", "hold output", "2 layers", "2d", "3d", "series, whole windows gru"),
    10: ("2d", "3d", "series"),
}
# Where a law is dear to try: of a decaying state those that are not the same without it.
DECAYING = {
    "decay": (1, 3, 8, 11, 12, 13, 15, 16),
    "decay gru": (13,),
    "decay 2d": (13,),
    "decay, sites held": (),
    "decay, no dt": (9, 13),
    "bidirectional decay": (3, 13),
    "series, decay": (13, 15),
    "series, decay, both ways": (9, 13),
    "series, decay, whole windows": (7,),
}
RANKS = ("1d site mask", "2d", "2d gru", "3d", "3d gru")
DTYPES = (np.float32, np.float64)


def build(name: str, dtype: Any = np.float64, **options: Any) -> Case:
    """The case of this name, with options of the Spec that a layer always has.

    Raises:
        ValueError: its Spec cannot have these options.
    """
    spec, case = {**ORDINARY, **CASES}[name]
    built = make_case(make_spec(**spec | options), dtype=dtype, **case)
    if (
        "whole windows" in name and built.mask is not None
    ):  # kept events before event 4 are whole windows, so that law 7 has where to cut
        if built.lengths is not None:
            built.lengths[:] = [0, 8]
        built.mask[:, :4] = np.array([[1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]]).reshape(
            3, 4, *(1,) * (built.mask.ndim - 2)
        )
    return built
