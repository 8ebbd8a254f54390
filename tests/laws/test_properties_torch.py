"""gapcell.torch equals the oracle on whatever shapes, options and masks Hypothesis thinks of."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="these are properties of the torch layer")

from gapcell.laws.adapters.torch import TorchLayer
from gapcell.laws.cases import Case, make_case, make_spec
from gapcell.laws.comparison import assert_close
from gapcell.laws.suite import applies, ask
from gapcell.laws.table import DTYPES
from gapcell.reference import conv_rnn
from laws.plain import PlainLayer

SIZES = {1: 7, 2: 4, 3: 3}  # the largest size of a site axis


def examples(count):
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=quiet)


@st.composite
def specs(draw, rank, series=False):
    sizes = st.tuples(*[st.integers(1, {1: 9, 2: 4, 3: 3}[rank])] * rank)
    options = {
        "rank": rank,
        "cell": draw(st.sampled_from(["lstm", "gru"])),
        "in_channels": draw(st.integers(1, 4)),
        "filters": draw(st.integers(1, 4)),
        "kernel_size": draw(sizes),
        "recurrent_kernel_size": draw(st.none() | sizes),
        "num_layers": draw(st.sampled_from([1, 1, 2])),
        "bias": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
        "dilation": draw(st.tuples(*[st.sampled_from([1, 1, 2, 3])] * rank)),
        "gap": draw(st.sampled_from(["hold", "predict", "decay"])),
        "masked_output": draw(st.sampled_from(["zero", "hold"])),
    }
    if rank == 1 and not options["bidirectional"]:
        options["causal"] = draw(st.booleans())
    if series:
        return make_spec(window=draw(st.integers(1, 5)), **options)
    if not options.get("causal"):
        options["padding"] = draw(st.sampled_from(["same", "same", "valid"]))
    options["stride"] = draw(st.tuples(*[st.sampled_from([1, 1, 2, 3])] * rank))
    options["mask_rule"] = draw(st.sampled_from([None, None, "centre", "all", "any"]))
    return make_spec(**options)


@st.composite
def cases(draw, rank, series=False, dtype=np.float64):
    spec = draw(specs(rank, series))
    sites = tuple(draw(st.integers(1, SIZES[rank])) for _ in range(rank))
    N, T = draw(st.integers(1, 4)), draw(st.integers(1, 14 if series else 7))
    if draw(st.booleans()):  # all sizes equal: nothing tells the axes apart
        n = draw(st.integers(1, 3))
        sites, N, T, spec = (n,) * rank, n, n, replace(spec, in_channels=n, filters=n)
    if spec.padding == "valid":
        spans = (d * (k - 1) + 1 for k, d in zip(spec.sizes("kernel_size"), spec.sizes("dilation"), strict=True))
        sites = tuple(max(size, span) for size, span in zip(sites, spans, strict=True))
    case = make_case(
        spec,
        draw(st.sampled_from(["step", "site", "element", None])),
        N=N,
        T=T,
        sites=None if series else sites,
        lengths=spec.gap != "hold" or draw(st.booleans()),
        domain=draw(st.sampled_from([None, None, "shared", "row"])),
        dtype=dtype,
        seed=draw(st.integers(0, 2**32 - 1)),
        share=draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])),
    )
    return draw_mask_dtype(draw, case)


def draw_mask_dtype(draw, case: Case) -> Case:
    if case.mask is None:
        return case
    case.mask[draw(st.sets(st.integers(0, len(case.mask) - 1)).map(list))] = False  # rows with nothing observed
    return case.but(
        mask=draw(
            st.sampled_from(
                [
                    case.mask,
                    case.mask.astype(np.uint8),
                    case.mask.astype(np.float32),
                    np.where(case.mask, 1.0, np.nan),  # NaN is not observed
                ]
            )
        )
    )


def obey(case):
    """Law 13 includes the gradients; law 1 fills what is not observed with NaN and infinities."""
    for law in (1, 13):
        if applies(law, case):
            ask(law, TorchLayer(channels_last=True), case, PlainLayer())


@examples(150)
@given(case=cases(rank=1))
def test_1d(case):
    obey(case)


@examples(50)
@given(case=cases(rank=2))
def test_2d(case):
    obey(case)


@examples(30)
@given(case=cases(rank=3))
def test_3d(case):
    obey(case)


@examples(120)
@given(case=cases(rank=1, series=True))
def test_series(case):
    obey(case)


@examples(60)
@given(case=cases(rank=1), series=cases(rank=1, series=True))
def test_padding_is_absence(case, series):
    for some in (case, series):
        ask(3, TorchLayer(channels_last=True), some, PlainLayer())


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@examples(40)
@given(data=st.data())
def test_without_an_initial_state_in_either_layout(dtype, data):
    case = data.draw(st.sampled_from([1, 2]).flatmap(lambda rank: cases(rank, dtype=dtype))).but(state=None)
    want, want_last = conv_rnn(case.params, case.x, case.spec, **case.arguments)
    for channels_last in (False, True):
        got = TorchLayer(channels_last).run(case)
        wide = [[np.asarray(array, np.float64) for array in (y, *last)] for y, last in (got, (want, want_last))]
        assert_close(*wide, "no initial state", scale=1 if dtype == np.float64 else 2e7)


@pytest.mark.parametrize("series", [False, True])
@pytest.mark.parametrize(("N", "T"), [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("gap", ["hold", "predict", "decay"])
def test_no_rows_and_no_steps(N, T, gap, series):
    for options in ({}, {"cell": "gru", "bidirectional": True, "num_layers": 2}):
        spec = make_spec(gap=gap, window=4 if series else None, **options)
        for mask in ("step", "element", None):
            case = make_case(spec, mask, N=N, T=T, lengths=False)
            want, want_last = conv_rnn(case.params, case.x, spec, **case.arguments)
            for channels_last in (False, True):
                got, got_last = TorchLayer(channels_last).run(case)
                assert got.shape == want.shape
                np.testing.assert_array_equal(got_last, want_last)
