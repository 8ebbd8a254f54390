"""The laws of docs/semantics.md, section 8, as functions of a layer and a case; a broken law is an AssertionError.

Under `gap="predict"` padding and dead sites are said by lengths and domain, under hold by the mask. Under "decay"
padding is said by lengths, as a masked step takes time.
"""

from __future__ import annotations

from collections.abc import Callable

from laws import laws_of_masks, laws_of_shapes, laws_of_time
from laws.cases import Case
from laws.laws_of_time import may_cut
from laws.layers import Layer

LAWS: dict[int, Callable[..., None]] = {
    int(name.split("_")[1]): function
    for module in (laws_of_masks, laws_of_time, laws_of_shapes)
    for name, function in vars(module).items()
    if name.startswith("law_")
}


def check(law: int, layer: Layer, case: Case, plain: Layer) -> None:
    """Raise an AssertionError if the layer breaks the law; `plain` is the yardstick of law 13."""
    LAWS[law](layer, case, *([plain] if law == 13 else []))


def applies(law: int, case: Case) -> bool:
    """Whether docs/semantics.md claims the law for this case."""
    spec = case.spec
    if law == 1:
        return not case.observed.all()
    if law == 4:
        return spec.window is None and (spec.padding == "same" or spec.rule == "all") and spec.mask_rule is None
    if law in (7, 8):
        return not spec.bidirectional and (spec.window is None or (spec.causal and (law == 8 or _cuttable(case))))
    if law == 9:
        return spec.bidirectional
    if law in (15, 16):
        return spec.gap == "decay"
    return True


def _cuttable(case: Case) -> bool:
    return sum(may_cut(case, cut) for cut in range(case.x.shape[1] + 1)) > 2
