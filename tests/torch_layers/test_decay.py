"""gap="decay" as users of the PyTorch layers meet it; what decays and how is in tests/laws."""

import re
import warnings

import numpy as np
import pytest

pytest.importorskip("torch", reason="these are tests of the torch layers")

import torch
from torch.nn.utils.rnn import pack_padded_sequence

from gapcell.torch import ConvGRU1d, ConvLSTM1d, ConvLSTM2d

pytestmark = (
    pytest.mark.filterwarnings(  # PyTorch's scan operator compiles its body, which its exporter says it will not
        "ignore:torch.compile is ignored when called inside torch.export region:UserWarning"
    )
)
DOUBLE = {"dtype": torch.float64}
DYNAMIC = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}


def refused(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def example(samples=3, steps=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, steps, 2, 4, generator=generator, **DOUBLE)
    mask = torch.rand(samples, steps, generator=generator) < 0.5
    mask[:, [0, -1]] = True
    return x.masked_fill(~mask[..., None, None], torch.nan), mask, torch.rand(samples, steps, generator=generator) * 5


def test_rates_are_parameters_that_start_apart_and_learn():
    layer = ConvLSTM1d(2, 3, 3, gap="decay", num_layers=2, bidirectional=True)
    assert {name for name, _ in layer.named_parameters() if "decay" in name} == {
        "decay_l0",
        "decay_l0_reverse",
        "decay_l1",
        "decay_l1_reverse",
    }
    torch.testing.assert_close(layer.decay_l1_reverse.detach(), torch.tensor([0.01, 0.1, 1.0]))
    x, mask, dt = example()
    layer(x.float(), mask=mask, dt=dt)[0].sin().sum().backward()
    assert (layer.decay_l0.grad != 0).all()
    assert not any("decay" in name for name, _ in ConvLSTM1d(2, 3, 3).named_parameters())


def test_a_state_decays_by_the_time_of_missing_steps():
    layer = ConvGRU1d(2, 3, 3, gap="decay", **DOUBLE)
    h = torch.randn(1, 2, 3, 4, **DOUBLE)
    dt = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]], **DOUBLE)
    x = torch.full((2, 3, 2, 4), torch.nan, **DOUBLE)
    _, last = layer(x, h, mask=torch.zeros(2, 3), dt=dt)
    torch.testing.assert_close(last[0, 0], h[0, 0] * torch.exp(-3.5 * layer.decay_l0)[:, None])
    assert torch.equal(last[0, 1], h[0, 1])


@pytest.mark.parametrize("masked_output", ["zero", "hold"])
def test_at_rates_of_0_it_is_hold_to_the_bit_and_the_rates_have_a_slope(masked_output):
    layer = ConvLSTM1d(2, 3, 3, gap="decay", masked_output=masked_output, **DOUBLE)
    torch.nn.init.zeros_(layer.decay_l0)
    hold = ConvLSTM1d(2, 3, 3, masked_output=masked_output, **DOUBLE)
    hold.load_state_dict({name: value for name, value in layer.state_dict().items() if "decay" not in name})
    x, mask, dt = example()
    y, (h, c) = layer(x, mask=mask, dt=dt)
    want, (want_h, want_c) = hold(x, mask=mask)
    assert torch.equal(y, want)
    assert torch.equal(h, want_h)
    assert torch.equal(c, want_c)
    y.sin().sum().backward()
    assert (layer.decay_l0.grad != 0).all()


def test_no_dt_is_a_dt_of_1_and_integers_will_do():
    layer = ConvLSTM1d(2, 3, 3, gap="decay", **DOUBLE)
    x, mask, _ = example()
    want = layer(x, mask=mask)[0]
    for dt in (torch.ones(3, 6), torch.ones(3, 6, dtype=torch.int64), np.ones((3, 6))):
        assert torch.equal(layer(x, mask=mask, dt=dt)[0], want)


def test_long_times_are_not_lost_in_the_sum():
    """Seconds since the step before, months of them: a running clock in float32 would be off by a second."""
    layer = ConvGRU1d(1, 2, 1, gap="decay", window=1)
    steps = 4000
    x, mask = torch.zeros(1, steps, 1), torch.zeros(1, steps)
    mask[:, ::2] = 1
    mask[:, -1] = 1
    dt = torch.full((1, steps), 1e4)
    dt[:, -2:] = 0.25
    y, _ = layer(x, mask=mask, dt=dt)
    wide = ConvGRU1d(1, 2, 1, gap="decay", window=1, **DOUBLE)
    wide.load_state_dict(layer.state_dict())
    want, _ = wide(x.double(), mask=mask, dt=dt)
    torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=1e-7)


# Other ways to call it ------------------------------------------------------------------------------------------------


def test_a_frozen_layer_and_a_stream_are_the_layer():
    layer = ConvLSTM1d(2, 3, 3, gap="decay")
    x, mask, dt = example()
    x = x.float()
    with torch.no_grad():
        want, want_state = layer(x, mask=mask, dt=dt)
    frozen, state, outputs = layer.freeze(), None, []
    for t in range(x.shape[1]):
        here = slice(t, t + 1)
        lengths = torch.ones(len(x), dtype=torch.int64)
        output, state = frozen(x[:, here], state, mask=mask[:, here], dt=dt[:, here], lengths=lengths)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, 1), want)
    torch.testing.assert_close(state, want_state)


def test_beside_a_packed_sequence_dt_is_padded():
    layer = ConvLSTM1d(2, 3, 3, gap="decay", bidirectional=True, **DOUBLE)
    x, _, dt = example()
    x, lengths = x.nan_to_num(), torch.tensor([2, 6, 4])
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    want, want_state = layer(x, lengths=lengths, dt=dt)
    dt[0, 2:] = torch.nan
    got, got_state = layer(packed, dt=dt)
    torch.testing.assert_close(
        got.data, pack_padded_sequence(want, lengths, batch_first=True, enforce_sorted=False).data
    )
    torch.testing.assert_close(got_state, want_state)
    with refused("`dt` is a PackedSequence, expected a tensor (N, T); pad it (torch.nn.utils.rnn.pad_packed_sequence)"):
        layer(packed, dt=pack_padded_sequence(dt, lengths, batch_first=True, enforce_sorted=False))


class AsModel(torch.nn.Module):
    """The exporter names positional arguments."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, mask, dt):
        return self.layer(x, mask=mask, dt=dt)


@pytest.mark.filterwarnings(r"ignore:`torch.jit.script(_method)?` is deprecated:DeprecationWarning")  # by its compiler
@pytest.mark.parametrize("options", [{}, {"window": 2, "masked_output": "hold"}])
def test_compiled_in_one_graph_it_is_the_same(options):
    layer = ConvLSTM1d(2, 3, 3, gap="decay", **options, **DOUBLE)
    compiled = torch.compile(AsModel(layer), fullgraph=True, backend="aot_eager")
    x, mask, dt = example()
    x = x[..., 0] if "window" in options else x
    want, got = layer(x, mask=mask, dt=dt), compiled(x, mask, dt)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    slopes = [torch.autograd.grad(output.sin().sum(), layer.parameters()) for output in (got[0], want[0])]
    torch.testing.assert_close(*slopes, rtol=0, atol=1e-11)


@pytest.mark.parametrize("options", [{}, {"window": 2, "masked_output": "hold"}])
def test_exported_once_it_runs_at_other_numbers_of_rows_and_steps(options):
    model = AsModel(ConvLSTM1d(2, 3, 3, gap="decay", **options, **DOUBLE)).eval()

    def given(*sizes):
        x, mask, dt = example(*sizes)
        return x[..., 0] if "window" in options else x, mask, dt

    with torch.no_grad():
        program = torch.export.export(model, given(3, 11), dynamic_shapes=(DYNAMIC,) * 3, strict=False)
        for sizes in ((3, 11), (5, 8)):
            torch.testing.assert_close(
                program.module()(*given(*sizes)), model(*given(*sizes)), rtol=0, atol=1e-12, equal_nan=True
            )


# Refusals -------------------------------------------------------------------------------------------------------------


def decaying():
    return ConvLSTM1d(2, 3, 3, gap="decay")


x = torch.zeros(2, 4, 2, 5)


@pytest.mark.parametrize("gap", ["hold", "predict"])
def test_dt_under_another_gap_rule(gap):
    with refused(f'`dt` is given, but `gap` is "{gap}": only gap="decay" looks at the time; leave it out'):
        ConvLSTM1d(2, 3, 3, gap=gap)(x, dt=torch.ones(2, 4))


@pytest.mark.parametrize("shape", [(4, 2), (2, 4, 1), (2,), (1, 4), (2, 4, 5)])
def test_dt_of_another_shape(shape):
    with refused(
        f"`dt` has shape {shape}, but the input has (2, 4) rows and steps: expected (2, 4), the time since the step "
        "before"
    ):
        decaying()(x, dt=torch.ones(shape))


@pytest.mark.parametrize(("value", "said"), [(-0.5, "-0.5"), (torch.nan, "nan"), (torch.inf, "inf")])
def test_dt_that_is_no_time(value, said):
    dt = torch.ones(2, 4)
    dt[1, 3] = value
    message = (
        f"`dt` holds {said} at a step that exists, expected finite times of at least 0; beyond `lengths` it may hold "
        "anything"
    )
    with refused(message):
        decaying()(x, dt=dt)
    assert decaying()(x, dt=dt, lengths=torch.tensor([4, 3]))[0].isfinite().all()


def test_dt_that_is_a_mask():
    with refused("`dt` has dtype torch.bool, expected floating point or integers, the time since the step before"):
        decaying()(x, dt=torch.ones(2, 4, dtype=torch.bool))


def test_a_mask_that_looks_like_padding_draws_a_warning_unless_time_or_lengths_say_otherwise():
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    said = (
        'gap="decay" lets the state decay in missing steps, and the mask of a row begins or ends in steps without any '
        "observation. If these are padding, say so with lengths=; if they are real, pass lengths to silence this"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(said)}$"):
        decaying()(x, mask=mask)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decaying()(x, mask=mask, dt=torch.ones(2, 4))
        decaying()(x, mask=mask, lengths=torch.tensor([4, 2]))
        decaying()(x, mask=torch.tensor([[1, 0, 0, 1], [1, 1, 1, 1]]))


def test_under_autocast_time_keeps_its_digits():
    layer = ConvLSTM2d(2, 3, 3, gap="decay")
    frames, state = torch.randn(2, 3, 2, 4, 4), (torch.randn(1, 2, 3, 4, 4), torch.randn(1, 2, 3, 4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        _, (h, _) = layer(frames, state, mask=torch.zeros(2, 3), dt=torch.full((2, 3), 1.003))
    torch.testing.assert_close(h, state[0] * torch.exp(-3.009 * layer.decay_l0)[:, None, None])
