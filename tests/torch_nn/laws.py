"""The laws that every piece and every model obeys; each raises an AssertionError where it is broken."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torch_nn.pieces import Batch, Piece, over

FILLS = (torch.nan, 1e30, torch.inf)
TOLERANCE = 2e-6


@dataclass(frozen=True)
class Outcome:
    """What a module gives for a batch: values, mask, gradients and buffers."""

    y: Tensor
    mask: Tensor | None
    x_gradient: Tensor
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]


def cotangent(y: Tensor) -> Tensor:
    return torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(y.dtype)


def outcome(module: nn.Module, batch: Batch, dy: Tensor | None = None) -> Outcome:
    """The module stays as it is: a copy runs."""
    module = copy.deepcopy(module)
    x = batch.x.detach().clone().requires_grad_()
    options = {} if batch.domain is None else {"domain": batch.domain}
    y, mask = module(x, batch.mask, **options)
    y.backward(cotangent(y) if dy is None else dy)
    assert x.grad is not None
    assert all(p.grad is not None for p in module.parameters()), "a gradient is None"
    return Outcome(
        y.detach(),
        mask,
        x.grad,
        {name: p.grad for name, p in module.named_parameters() if p.grad is not None},
        {name: buffer.clone() for name, buffer in module.named_buffers()},
    )


def assert_same(got: Outcome, want: Outcome, what: str) -> None:
    """Bitwise."""
    assert torch.equal(got.y, want.y), f"{what}: outputs differ"
    assert_same_mask(got.mask, want.mask, what)
    assert torch.equal(got.x_gradient, want.x_gradient), f"{what}: the input's gradients differ"
    for name, gradient in want.gradients.items():
        assert torch.equal(got.gradients[name], gradient), f"{what}: gradients of {name} differ"
    for name, buffer in want.buffers.items():
        assert torch.equal(got.buffers[name], buffer), f"{what}: {name} differs"


def assert_same_mask(got: Tensor | None, want: Tensor | None, what: str) -> None:
    assert (got is None) == (want is None), f"{what}: the mask is gone"
    if got is not None and want is not None:
        assert got.dtype == torch.bool, f"{what}: the mask is {got.dtype}"
        assert torch.equal(got, want), f"{what}: masks differ"


def assert_close(got: Tensor, want: Tensor, what: str, scale: float = 1.0) -> None:
    got, want = got.detach(), want.detach()
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, expected {tuple(want.shape)}"
    assert got.isfinite().all(), f"{what}: not finite"
    if got.numel():
        tolerance = scale * (TOLERANCE if got.dtype == torch.float32 else 1e-12)
        limit = tolerance * max(1.0, float(want.abs().max()))
        assert (got - want).abs().max() <= limit, f"{what}: differs by {float((got - want).abs().max()):.2e}"


def assert_alike(got: Outcome, want: Outcome, what: str) -> None:
    """Parameter gradients and buffers, up to rounding."""
    for name, gradient in want.gradients.items():
        assert_close(got.gradients[name], gradient, f"{what}, gradient of {name}", 10)
    for name, buffer in want.buffers.items():
        assert_close(got.buffers[name], buffer, f"{what}, {name}")


def spoken_of(y: Tensor, mask: Tensor | None) -> Tensor:
    """A mask given on, for each element of y, be y a sequence, frames or vectors."""
    if mask is None:
        return torch.ones_like(y, dtype=torch.bool)
    if mask.ndim == y.ndim:
        return mask
    for channels in (2, 1):
        if mask.shape == (*y.shape[:channels], *y.shape[channels + 1 :]):
            return mask.unsqueeze(channels).expand_as(y)
    assert mask.shape == y.shape[: mask.ndim], f"a mask {tuple(mask.shape)} for {tuple(y.shape)}"
    return mask[(..., *(None,) * (y.ndim - mask.ndim))].expand_as(y)


# The laws -------------------------------------------------------------------------------------------------------------


def values_under_the_mask_change_nothing(module: nn.Module, piece: Piece, batch: Batch) -> None:
    """Neither they, nor what flows back into what is masked of the output."""
    assert not batch.observed.all(), "the batch has nothing under its mask"
    base = batch.filled(0)
    with torch.no_grad():
        y, mask = copy.deepcopy(module)(base.x, base.mask)
    observed = spoken_of(y, mask)
    assert not y[~observed].any(), "something stands where the mask given on is False"
    dy = cotangent(y)
    want = outcome(module, base, torch.where(observed, dy, 0))
    for fill in FILLS:
        got = outcome(module, batch.filled(fill), torch.where(observed, dy, torch.nan))
        assert_same(got, want, f"{fill} under the mask")
    assert not want.x_gradient[~batch.observed].any(), "a gradient under the mask is not 0"


def all_true_is_no_mask(module: nn.Module, piece: Piece, batch: Batch) -> None:
    want = outcome(module, batch.but(mask=None))
    assert want.mask is None
    shapes = {tuple(batch.x.shape[:2]), (*batch.x.shape[:2], *batch.x.shape[3:]), tuple(batch.x.shape)}
    for shape in shapes:
        got = outcome(module, batch.but(mask=torch.ones(shape)))
        assert got.mask is not None
        assert got.mask.all()
        assert_close(got.y, want.y, f"a mask of ones {shape}")
        assert_close(got.x_gradient, want.x_gradient, f"input gradient, a mask of ones {shape}", 10)
        assert_alike(got, want, f"a mask of ones {shape}")


def padding_in_time_is_absence(module: nn.Module, piece: Piece, batch: Batch) -> None:
    T = batch.x.shape[1]
    want = outcome(module, batch)
    for where, places in {"right": range(T), "left": range(2, T + 2), "inside": (0, *range(3, T + 2))}.items():
        place = torch.tensor([*places])
        longer = batch.but(x=_spread(batch.x, place, T + 2, torch.nan), mask=_spread(batch.mask, place, T + 2, False))
        dy = cotangent(want.y)
        got = outcome(module, longer, _spread(dy, place, T + 2, 0) if piece.steps else dy)
        y, mask = (got.y[:, place], _at(got.mask, place)) if piece.steps else (got.y, got.mask)
        what = f"padding {where}"
        assert_close(y, want.y, what)
        assert_same_mask(mask, want.mask, what)
        assert_close(got.x_gradient[:, place], want.x_gradient, f"input gradient, {what}", 10)
        assert_alike(got, want, what)


def _spread(values: Tensor | None, place: Tensor, steps: int, fill: float) -> Tensor:
    assert values is not None
    longer = values.new_full((len(values), steps, *values.shape[2:]), fill)
    longer[:, place] = values
    return longer


def _at(mask: Tensor | None, place: Tensor) -> Tensor | None:
    return None if mask is None else mask[:, place]


def dead_sites_are_a_narrower_input(module: nn.Module, piece: Piece, batch: Batch) -> None:
    """Appended on each site axis; said by the mask, or by the domain where a missing site is not an absent one."""
    if piece.dead is None:
        return
    mask = batch.mask
    assert mask is not None
    if mask.ndim == 2:
        mask = over(batch.x, mask)
    rank = batch.x.ndim - 3
    inside = torch.ones(batch.x.shape[3:], dtype=torch.bool)
    narrow = batch.but(mask=mask, domain=inside if piece.takes_domain else None)
    want = outcome(module, narrow)
    for axis in range(rank):
        left, right = (2, 1) if piece.dead == "both" else (0, 2)
        domain = _widen(inside, axis - rank, left, right, False) if piece.takes_domain else None
        x, wide_mask = (
            _widen(values, axis - rank, left, right, fill) for values, fill in ((batch.x, torch.nan), (mask, False))
        )
        wide = Batch(x, wide_mask, domain)
        size = piece.narrow(batch.x.shape[axis - rank])
        dy = cotangent(want.y)
        if size:
            with torch.no_grad():
                total = copy.deepcopy(module)(wide.filled(0).x, wide_mask)[0].shape[axis - rank]
            dy = _widen(dy, axis - rank, left, total - left - size, 0)
        got = outcome(module, wide, dy)
        y = got.y.narrow(axis - rank, left, size) if size else got.y
        assert_close(y, want.y, f"dead sites on axis {axis}")
        kept = got.x_gradient.narrow(axis - rank, left, batch.x.shape[axis - rank])
        assert_close(kept, want.x_gradient, f"input gradient, dead sites on axis {axis}", 10)
        assert_alike(got, want, f"dead sites on axis {axis}")
        if size:
            assert spoken_of(got.y, got.mask).sum() == spoken_of(want.y, want.mask).sum(), "the mask grew into them"


def _widen(values: Tensor, axis: int, left: int, right: int, fill: float) -> Tensor:
    shape = list(values.shape)
    shape[axis] += left + right
    wide = values.new_full(shape, fill)
    wide.narrow(axis, left, values.shape[axis]).copy_(values)
    return wide


def rows_do_not_depend_on_each_other(module: nn.Module, piece: Piece, batch: Batch) -> None:
    """In training, a batch norm's do: then only rows without any observation change nothing."""
    if module.training and not piece.rows:
        _masked_rows_change_nothing(module, batch)
        return
    want = outcome(module, batch)
    dy = cotangent(want.y)
    for rows in ([0], [1], [2, 0]):
        assert batch.mask is not None
        got = outcome(module, batch.but(x=batch.x[rows], mask=batch.mask[rows]), dy[rows])
        assert_close(got.y, want.y[rows], f"rows {rows}")
        assert_same_mask(got.mask, None if want.mask is None else want.mask[rows], f"rows {rows}")
        assert_close(got.x_gradient, want.x_gradient[rows], f"input gradient of rows {rows}", 10)


def _masked_rows_change_nothing(module: nn.Module, batch: Batch) -> None:
    assert batch.mask is not None
    want = outcome(module, batch)
    x = torch.cat([batch.x, torch.full_like(batch.x, torch.nan)])
    more = batch.but(x=x, mask=torch.cat([batch.mask, torch.zeros_like(batch.mask)]))
    dy = cotangent(want.y)
    got = outcome(module, more, torch.cat([dy, dy]))
    assert_close(got.y[: len(want.y)], want.y, "masked batch mates")
    assert_alike(got, want, "masked batch mates")


def nothing_observed_is_zero(module: nn.Module, piece: Piece, batch: Batch) -> None:
    assert batch.mask is not None
    empty = batch.but(mask=torch.zeros_like(batch.mask)).filled(torch.nan)
    got = outcome(module, empty)
    assert got.mask is not None
    assert not got.mask.any()
    assert not got.y.any()
    assert not got.x_gradient.any()
    assert not any(gradient.any() for gradient in got.gradients.values()), "a gradient is not zero"
    for name, buffer in module.named_buffers():
        assert torch.equal(got.buffers[name], buffer), f"{name} has changed"


def inputs_are_left_as_they_are(module: nn.Module, piece: Piece, batch: Batch) -> None:
    spoilt = batch.filled(torch.nan)
    x, mask = spoilt.x.clone(), None if batch.mask is None else batch.mask.clone()
    outcome(module, spoilt)
    assert torch.equal(spoilt.x.nan_to_num(7), x.nan_to_num(7))
    if mask is not None:
        assert batch.mask is not None
        assert torch.equal(batch.mask, mask)


LAWS = (
    values_under_the_mask_change_nothing,
    all_true_is_no_mask,
    padding_in_time_is_absence,
    dead_sites_are_a_narrower_input,
    rows_do_not_depend_on_each_other,
    nothing_observed_is_zero,
    inputs_are_left_as_they_are,
)
