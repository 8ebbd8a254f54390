"""The laws of docs/semantics.md, section 8, as functions of a layer and a case; a broken law is a `LawBroken`.

Under `gap="predict"` padding and dead sites are said by lengths and domain, under hold by the mask. Under "decay"
padding is said by lengths, as a masked step takes time. Law 14, on the cost, is not among them: a count of what a layer
computes is its framework's to give, and a clock on arrays this small measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from gapcell.laws import of_masks, of_shapes, of_time
from gapcell.laws.adapter import Adapter
from gapcell.laws.cases import Case
from gapcell.laws.of_time import may_cut

LAWS: dict[int, Callable[..., None]] = {
    int(name.split("_")[1]): function
    for module in (of_masks, of_time, of_shapes)
    for name, function in vars(module).items()
    if name.startswith("law_")
}
NAMES = {
    1: "values under the mask change nothing",
    2: "a mask of ones is no mask",
    3: "padding is absence",
    4: "dead sites are a narrower input",
    5: "rows do not depend on each other",
    6: "a row without an observation keeps its state",
    7: "a split with carried state is the whole",
    8: "no output depends on the future",
    9: "backwards is forwards on the reversed sequence",
    10: "no accidents of shape",
    11: "wrong shapes are refused, with both shapes",
    12: "inputs are not changed",
    13: "values and gradients are the reference's",
    14: "the cost follows the observed steps",
    15: "under decay, missing steps are their time",
    16: "under decay, rates of 0 are hold",
}
NOT_ASKED = {14: "not asked: it takes a count of operations or a clock; gapcell counts those of its own layers"}


def ask(law: int, layer: Adapter, case: Case, plain: Adapter | None = None) -> None:
    """Asks the layer one law in one case; `plain` is the yardstick of laws 10 and 13.

    Raises:
        LawBroken: the layer breaks the law.
        CannotBeAsked: the layer cannot be given what the law asks.
    """
    LAWS[law](layer, case, *([plain] if law in (10, 13) else []))


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
