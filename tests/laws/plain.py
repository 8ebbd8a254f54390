"""A masked ConvLSTM and ConvGRU as one would write them by hand in PyTorch, with bugs that can be switched on.

Without a bug it is the definition with autograd gradients: the yardstick of law 13. Each bug is one that such code has
in the wild; every one of them must break a law (test_mutants_torch.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from gapcell.laws.adapter import Gradients
from gapcell.laws.cases import Case, like, parts
from gapcell.spec import Spec

CONVOLUTIONS = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}


class PlainLayer:
    """Step by step, every site computed, masked by selects. `bug` names one mistake, or is None."""

    takes_params = True

    def __init__(self, bug: str | None = None) -> None:
        self.bug = bug

    def __repr__(self) -> str:
        return f"PlainLayer({self.bug or 'no bug'})"

    def run(self, case: Case) -> tuple[np.ndarray, Any]:
        with torch.no_grad():
            y, state = self._forward(case, *_tensors(case))
        return y.numpy(), like(case_state(case, state), [part.numpy() for part in state])

    def grad(self, case: Case, dy: np.ndarray, dstate: Any) -> Gradients:
        params, x, start = _tensors(case)
        leaves = [*(leaf for cell in params for leaf in cell.values()), x, *start]
        for leaf in leaves:
            leaf.requires_grad_()
        y, state = self._forward(case, params, x, start)
        assert y.requires_grad, "the output has no gradients"
        torch.autograd.backward([y, *state], [torch.tensor(a) for a in (dy, *parts(dstate))])
        assert all(leaf.grad is not None for leaf in leaves), "a gradient is None"
        return Gradients(
            y=y.detach().numpy(),
            last=like(case.state, [part.detach().numpy() for part in state]),
            params=[{name: leaf.grad.numpy() for name, leaf in cell.items()} for cell in params],
            x=x.grad.numpy(),
            state=like(case.state, [part.grad.numpy() for part in start]),
        )

    def _forward(self, case: Case, params: Any, x: Tensor, start: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        spec, bug = case.spec, self.bug
        check_shapes(case if bug != "mask of any shape broadcast" else case.but(mask=None))
        observed, kept = torch.tensor(self._observed(case)), torch.tensor(self._kept(case))
        if bug == "skips a wholly masked batch" and not kept.any():
            return x.new_zeros(*x.shape[:-1], spec.filters), start
        if bug == "fills the mask's places in x":
            with torch.no_grad():
                x[~observed] = 0
        if bug == "product instead of select":
            x = x * observed
        elif bug == "gaps filled from the next step" and x.shape[1]:
            filled = [torch.where(observed[:, -1], x[:, -1], 0.0)]
            for t in reversed(range(x.shape[1] - 1)):
                filled.insert(0, torch.where(observed[:, t], x[:, t], filled[0]))
            x = torch.stack(filled, dim=1)
        else:
            x = torch.where(observed, x, 0.0)
        if case.domain is not None and spec.window is None and bug != "state kept outside the domain":
            within = torch.tensor(np.broadcast_to(case.domain, (len(case.x), *case.x.shape[2:-1])))
            start = [torch.where(through_conv(within, spec)[..., None], part, 0.0) for part in start]
        times = [torch.tensor(array) for array in self._times(case)]
        y, steps, last = x, kept, []
        for index in range(spec.num_layers):
            outputs = []
            for direction in range(spec.directions):
                slot = index * spec.directions + direction
                flip = (lambda a: a.flip(1)) if direction else (lambda a: a)
                seen = steps if bug == "backward mask not reversed" else flip(steps)
                run = self._run_sites if spec.window is None else self._run_series
                before = [part[slot] for part in start]
                out, moved, state = run(params[slot], flip(x), seen, flip(times[direction]), spec.layer(index), before)
                outputs.append(flip(out))
                last.append(state)
            y, steps = torch.cat(outputs, dim=-1), flip(moved)
            x = torch.where(steps[..., None], y, 0.0)
        return y, [torch.stack(part) for part in zip(*last, strict=True)]

    def _observed(self, case: Case) -> np.ndarray:
        mask, shape = case.mask, case.x.shape
        if mask is None:
            return case.observed
        if self.bug == "mask of any shape broadcast":
            return case.but(mask=np.broadcast_to(mask, shape[: mask.ndim])).observed
        if self.bug == "mask broadcast over the wrong axis" and mask.ndim == 2 and shape[0] == shape[1]:
            return case.but(mask=mask.T).observed
        if self.bug == "integer mask negated bitwise" and mask.dtype.kind == "i":
            return case.but(mask=(~mask) == 0).observed
        return case.observed

    def _kept(self, case: Case) -> np.ndarray:
        if case.spec.gap != "predict":
            return self._observed(case).any(axis=-1)
        return np.ones_like(case.exists) if self.bug == "predicting beyond the lengths" else case.exists

    def _times(self, case: Case) -> tuple[np.ndarray, np.ndarray]:
        """Eq. (24): the time before each step, forwards and backwards."""
        exists = np.ones_like(case.existing_steps) if self.bug == "decaying beyond the lengths" else case.existing_steps
        dt = np.ones(exists.shape, case.x.dtype) if case.dt is None or self.bug == "dt not looked at" else case.dt
        ahead = np.where(exists, dt, 0)
        back, time = np.zeros_like(ahead), np.zeros(len(ahead), ahead.dtype)
        for t in reversed(range(ahead.shape[1])):
            back[:, t] = np.where(exists[:, t], time, 0)
            time = np.where(exists[:, t], ahead[:, t], time)
        return ahead, back

    def _decay(self, params: dict[str, Tensor], state: list[Tensor], time: Tensor) -> list[Tensor]:
        if "decay" not in params:
            return state
        rates = params["decay"] if self.bug == "rates below 0 grow" else params["decay"].clamp(min=0)
        left = torch.exp(-rates * time.reshape(-1, *(1,) * (state[0].ndim - 1)))
        whole = self.bug == "c does not decay"
        return [part if whole and index else part * left for index, part in enumerate(state)]

    def _run_sites(
        self,
        params: dict[str, Tensor],
        x: Tensor,
        steps: Tensor,
        times: Tensor,
        spec: Spec,
        state: list[Tensor],
        wraps: bool = False,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        moved = [through_conv(steps[:, t], spec) for t in range(x.shape[1])]
        y = []
        if self.bug == "initial c ignored":
            state = [state[0], *(0 * part for part in state[1:])]
        for t, u in enumerate(moved):
            if self.bug != "decay behind the step":
                state = self._decay(params, state, times[:, t])
            a = convolve(x[:, t], params["kernel"], spec.input_padding(x.shape[2:-1]), spec) + params.get("bias", 0.0)
            new = cell(a, self._recurrent(state[0], params, spec, wraps), params.get("recurrent_bias", 0.0), state)
            held = torch.where(self._updates(u, moved, t)[..., None], torch.stack(new), torch.stack(self._old(state)))
            state = list(held)
            if self.bug == "decay behind the step":
                state = self._decay(params, state, times[:, t])
            dead = state[0] if spec.masked_output == "hold" else torch.zeros_like(state[0])
            if self.bug == "output masked by a product":
                y.append(new[0] * u[..., None])
            else:
                y.append(torch.where(u[..., None], new[0], dead))
        sites = state[0].shape[1:]
        if not y:
            return x.new_zeros(x.shape[0], 0, *sites), steps.new_zeros(x.shape[0], 0, *sites[:-1]), state
        return torch.stack(y, dim=1), torch.stack(moved, dim=1), state

    def _old(self, state: list[Tensor]) -> list[Tensor]:
        if self.bug == "state not held":
            return [torch.zeros_like(part) for part in state]
        return [part.detach() for part in state] if self.bug == "gradient cut at masked steps" else state

    def _updates(self, u: Tensor, moved: list[Tensor], t: int) -> Tensor:
        """Where the state steps: u itself, but for the bugs."""
        if self.bug == "bias running on in masked steps":
            return torch.ones_like(u)
        if self.bug == "mask off by one step":
            return moved[max(t - 1, 0)]
        if self.bug == "hidden state leaking at dead sites":
            return u.flatten(1).any(dim=1).reshape(-1, *(1,) * (u.ndim - 1)).expand_as(u)
        if self.bug == "row steps while any row does":
            return u.any(dim=0, keepdim=True).expand_as(u)
        return u

    def _recurrent(self, h: Tensor, params: dict[str, Tensor], spec: Spec, wraps: bool) -> Tensor:
        kernel, (W, padding) = params["recurrent_kernel"], (h.shape[1], spec.recurrent_padding())
        if not wraps or self.bug == "window border not read":
            return convolve(h, kernel, padding)
        ((left, right),) = padding
        before = h[:, W - min(left, W) :]
        return convolve(torch.cat([before, h], dim=1), kernel, ((left - before.shape[1], right),))

    def _run_series(
        self, params: dict[str, Tensor], x: Tensor, kept: Tensor, times: Tensor, spec: Spec, state: list[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        (N, S, C), W = x.shape, state[0].shape[1]
        T, hold = -(-S // W), spec.masked_output == "hold"
        row, place = kept.nonzero(as_tuple=True)
        if self.bug == "events left where they are":
            event, exists = place, pad(kept, (0, T * W - S))
        else:
            event = (kept.cumsum(dim=1) - 1)[row, place]
            exists = torch.arange(T * W) < kept.sum(dim=1, keepdim=True)
        windows = x.new_zeros(N, T * W, C).index_put((row, event), x[row, place]).reshape(N, T, W, C)
        clock = times.double().cumsum(dim=1)
        arrived = x.new_zeros(N, T * W, dtype=torch.float64).index_put((row, event), clock[row, place])
        before = torch.cat([torch.zeros(N, 1), arrived[:, :-1]], dim=1)
        waited = ((arrived - before) * exists).to(x.dtype)[:, ::W]
        latest = torch.cat([torch.zeros(N, 1), (clock * kept)], dim=1).cummax(dim=1).values
        done, _, last = self._run_sites(params, windows, exists.reshape(N, T, W), waited, spec, state, wraps=True)
        if S:
            last = self._decay(params, last, (clock[:, -1] - latest[:, -1]).to(x.dtype))
        done = torch.cat([state[0][:, W - 1 :], done.reshape(N, T * W, -1)], dim=1)
        if not hold:
            done = torch.cat([torch.zeros_like(done[:, :1]), done[:, 1:]], dim=1)
        at = kept.cumsum(dim=1) if hold else kept.cumsum(dim=1) * kept  # 0: before the first kept event
        if self.bug == "events left where they are":
            at = torch.arange(1, S + 1) * kept
        y = done[torch.arange(N)[:, None], at]
        if hold and "decay" in params:
            y = y * torch.exp(-params["decay"].clamp(min=0) * (clock - latest[:, 1:]).to(x.dtype)[..., None])
        return y, kept, last


def check_shapes(case: Case) -> None:
    spec, shape = case.spec, case.x.shape
    if len(shape) != (spec.rank + 3 if spec.window is None else 3) or shape[-1] != spec.in_channels:
        raise ValueError(f"x has shape {shape}, expected (N, ..., {spec.in_channels})")
    sites = shape[2:-1] if spec.window is None else shape[1:2]
    inside = spec.output_sites(sites) if spec.window is None else (spec.window,)
    state = (spec.num_layers * spec.directions, shape[0], *inside, spec.filters)
    given = [("mask", case.mask, (shape[:2], shape[:-1], shape))]
    given += [("lengths", case.lengths, (shape[:1], (shape[0], 2)))]
    given += [("domain", case.domain, (sites, (shape[0], *sites))), ("dt", case.dt, (shape[:2],))]
    given += [("state", part, (state,)) for part in ([] if case.state is None else parts(case.state))]
    for name, array, wanted in given:
        if array is not None and array.shape not in wanted:
            raise ValueError(f"{name} has shape {array.shape}, expected one of {wanted}")


def case_state(case: Case, state: list[Tensor]) -> Any:
    """Something of the form the state has: a pair for the LSTM, one array for the GRU."""
    return tuple(state) if case.spec.cell == "lstm" else state[0]


def _tensors(case: Case) -> tuple[list[dict[str, Tensor]], Tensor, list[Tensor]]:
    params = [{name: torch.tensor(array) for name, array in cell.items()} for cell in case.params]
    x = torch.from_numpy(case.x)
    if case.state is not None:
        return params, x, [torch.tensor(part) for part in parts(case.state)]
    spec = case.spec
    sites = (spec.window,) if spec.window is not None else spec.output_sites(case.x.shape[2:-1])
    shape = (spec.num_layers * spec.directions, case.x.shape[0], *sites, spec.filters)
    return params, x, [torch.zeros(shape, dtype=x.dtype) for _ in ("hc" if spec.cell == "lstm" else "h")]


def cell(a: Tensor, r: Tensor, recurrent_bias: Tensor | float, state: list[Tensor]) -> list[Tensor]:
    """Equations (7) and (8)."""
    if len(state) == 2:
        i, f, g, o = (a + r).chunk(4, dim=-1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return [o.sigmoid() * c.tanh(), c]
    (a_r, a_z, a_n), (r_r, r_z, r_n) = a.chunk(3, dim=-1), r.chunk(3, dim=-1)
    z = (a_z + r_z).sigmoid()
    n = (a_n + (a_r + r_r).sigmoid() * (r_n + recurrent_bias)).tanh()
    return [(1 - z) * n + z * state[0]]


def convolve(x: Tensor, kernel: Tensor, padding: tuple[tuple[int, int], ...], spec: Spec | None = None) -> Tensor:
    """Channels last; negative padding crops."""
    x = pad(x.movedim(-1, 1), [side for pair in reversed(padding) for side in pair])
    options = {} if spec is None else {"stride": spec.stride, "dilation": spec.dilation}
    return CONVOLUTIONS[kernel.ndim - 2](x, kernel.movedim((-1, -2), (0, 1)), **options).movedim(1, -1)


def through_conv(mask: Tensor, spec: Spec) -> Tensor:
    """Section 1: the rule in force, axis by axis, by counting with a kernel of ones."""
    sites = mask.shape[1:]
    geometry = zip(
        *(spec.sizes(name) for name in ("kernel_size", "stride", "dilation")),
        spec.input_padding(sites),
        spec.output_sites(sites),
        strict=True,
    )
    for axis, (taps, stride, dilation, (left, right), outputs) in enumerate(geometry, start=1):
        span = dilation * (taps - 1)
        middle = (span if spec.causal else span // 2) - left
        centre = mask.index_select(axis, middle + torch.arange(outputs) * stride)
        if spec.rule == "centre":
            mask = centre
            continue
        lines = torch.stack([mask, torch.ones_like(mask)]).movedim(axis + 1, -1)
        ones = torch.ones(1, 1, taps, dtype=torch.float64)
        padded = pad(lines.double().flatten(0, -2), (left, right))[:, None]
        counts = torch.conv1d(padded, ones, stride=stride, dilation=dilation).round()
        seen, inside = counts.reshape(*lines.shape[:-1], outputs).movedim(-1, axis + 1)
        decided = seen > 0 if spec.rule == "any" else seen == inside
        mask = torch.where(inside > 0, decided, centre)
    return mask
