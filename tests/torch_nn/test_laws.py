"""Every law, on every piece and on two whole models, in training and in eval mode."""

import pytest

pytest.importorskip("torch", reason="these are tests of gapcell.torch.nn")

import torch

from gapcell import arrays
from torch_nn.laws import LAWS, assert_alike, assert_close, assert_same_mask, outcome
from torch_nn.pieces import EVERY, KINDS, PIECES, make_batch


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("name", "rank"), EVERY)
def test_it_obeys(law, name, rank):
    piece = PIECES[name]
    module = piece.make(rank)
    for kind in KINDS if rank == 1 else ("sites",):
        for training in (True, False) if rank == 1 else (True,):
            law(module.train(training), piece, make_batch(rank, kind))


@pytest.mark.parametrize(("name", "rank"), EVERY)
def test_where_values_may_not_be_looked_at_the_result_is_the_same(name, rank, monkeypatch):
    module = PIECES[name].make(rank)
    for kind in KINDS if rank == 1 else ("steps",):
        batch = make_batch(rank, kind).filled(torch.nan)
        want = outcome(module, batch)
        with monkeypatch.context() as patch:
            patch.setattr(arrays, "is_concrete", lambda _: False)
            got = outcome(module, batch)
        assert_close(got.y, want.y, "dense")
        assert_same_mask(got.mask, want.mask, "dense")
        assert_close(got.x_gradient, want.x_gradient, "input gradient, dense", 10)
        assert_alike(got, want, "dense")


@pytest.mark.parametrize(("name", "rank"), [(n, r) for n, r in EVERY if PIECES[n].frames and n != "per step"])
def test_frames_are_sequences_of_one_step(name, rank):
    module = PIECES[name].make(rank)
    for kind in KINDS:
        batch = make_batch(rank, kind, T=1)
        with torch.no_grad():
            want, want_mask = module.eval()(batch.x, batch.mask)
            got, mask = module(batch.x[:, 0], batch.mask[:, 0])
        assert_close(got, want[:, 0], "frames")
        assert_same_mask(mask, want_mask[:, 0], "frames")


@pytest.mark.parametrize(("name", "rank"), [(n, r) for n, r in EVERY if n != "per step"])
def test_channels_last_is_the_same_elsewhere(name, rank):
    first, last = PIECES[name].make(rank), PIECES[name].make(rank, channels_last=True)
    if name != "layer norm":  # whose parameters have no reason to be alike
        last.load_state_dict(first.state_dict())
    for kind in KINDS:
        batch = make_batch(rank, kind)
        mask = batch.mask.movedim(2, -1) if kind == "elements" else batch.mask
        with torch.no_grad():
            want, want_mask = first(batch.x, batch.mask)
            got, got_mask = last(batch.x.movedim(2, -1), mask)
        leading = 2 if PIECES[name].steps or name == "autoencoder" else 1
        if name == "flatten":
            want = want.unflatten(2, (batch.x.shape[2], -1)).transpose(2, 3).flatten(2)
        if want_mask.ndim == want.ndim:
            want_mask = want_mask.movedim(leading, -1)
        want = want.movedim(leading, -1)
        assert_close(got, want, "channels last")
        assert_same_mask(got_mask, want_mask, "channels last")


GRADCHECKED = [name for name in PIECES if name not in ("max over time", "max over sites", "classifier")]


@pytest.mark.parametrize("name", GRADCHECKED)
def test_gradients_are_those_of_differences(name):
    module = PIECES[name].make(1).double()
    for kind in ("sites", "elements"):
        batch = make_batch(1, kind, N=2, T=2, dtype=torch.float64).filled(torch.nan)
        names = [name for name, _ in module.named_parameters()]

        def run(x, *values, names=names, batch=batch):
            x = torch.where(batch.observed, x, torch.nan)
            return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x, batch.mask))[0]

        values = [value.detach().clone().requires_grad_() for value in module.parameters()]
        assert torch.autograd.gradcheck(run, (batch.filled(0).x.requires_grad_(), *values), fast_mode=True)
