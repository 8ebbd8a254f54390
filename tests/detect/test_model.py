"""Distributions far into their tails, heads, cutting and padding, and a network that reads only what came before."""

from __future__ import annotations

import math
from dataclasses import replace

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from gapcell.detect import distributions
from gapcell.detect.encoders import Calendar
from gapcell.detect.features import GAP, FeatureSpec, Scaling
from gapcell.detect.heads import (
    Head,
    Targets,
    candidate_heads,
    log_likelihood,
    log_likelihoods,
    log_probabilities,
    quantile,
    surprise,
)
from gapcell.detect.model import Network, Sequences, states_before
from gapcell.detect.options import ENCODERS
from gapcell.detect.scoring import combine
from gapcell.detect.series import batches, cut, gather, segments

MIXTURE = torch.tensor(
    [0.3, -1.0, 0.5, -2.0, 0.0, 3.0, 0.2, -1.5, 1.0], dtype=torch.float64
)  # 3 weights, means, scales
STUDENT = torch.tensor([0.5, 0.2, 1.0], dtype=torch.float64)


def exact_student(u: float, freedom: float) -> float:
    """log P(T >= u) with 60 digits."""
    with mpmath.workdps(60):
        x = mpmath.mpf(freedom) / (mpmath.mpf(freedom) + mpmath.mpf(u) ** 2)
        return float(mpmath.log(mpmath.betainc(mpmath.mpf(freedom) / 2, 0.5, 0, x, regularized=True) / 2))


@pytest.mark.parametrize("u", [0.0, 1e-12, 0.3, 1.0, 5.0, 40.0, 1e4, 1e12, 1e15])
@pytest.mark.parametrize("freedom", [2.0, 2.7, 5.0, 30.0, 400.0])
def test_the_tail_of_a_student_t_is_right_and_finite_however_far_out(u: float, freedom: float) -> None:
    got = distributions.log_far_tail(np.array([u]), np.array([freedom]))[0]
    assert got == pytest.approx(exact_student(u, freedom), rel=1e-10)


def test_both_tails_of_a_student_t() -> None:
    loc, scale, freedom = (float(part) for part in distributions.student_t(STUDENT))
    z = torch.linspace(-20, 20, 41, dtype=torch.float64)
    below, above = distributions.student_t_log_tails(STUDENT, z)
    np.testing.assert_allclose(below, stats.t.logcdf(z, freedom, loc, scale), rtol=1e-9)
    np.testing.assert_allclose(above, stats.t.logsf(z, freedom, loc, scale), rtol=1e-9)


def test_both_tails_of_a_mixture() -> None:
    weight, loc, scale = (part.numpy() for part in distributions.mixture(MIXTURE))
    z = np.linspace(-8, 8, 33)
    below = np.log((np.exp(weight) * stats.norm.cdf((z[:, None] - loc) / scale)).sum(1))
    above = np.log((np.exp(weight) * stats.norm.sf((z[:, None] - loc) / scale)).sum(1))
    got = distributions.mixture_log_tails(MIXTURE, torch.from_numpy(z))
    np.testing.assert_allclose(got[0], below, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(got[1], above, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("family", ["student-t", "mixture"])
@pytest.mark.parametrize("tail", ["two-sided", "upper", "lower"])
def test_a_score_grows_without_end_and_stays_finite(family: str, tail: str) -> None:
    head = Head(0, family, 0, 3 if family == "student-t" else 9)
    z = torch.tensor([3.0, 10.0, 1e3, 1e6, 1e10, 1e300], dtype=torch.float64) * (-1 if tail == "lower" else 1)
    scores = surprise(head, STUDENT if family == "student-t" else MIXTURE, alike(z[:, None]), tail)
    assert bool(scores.isfinite().all())
    assert bool((scores.diff()[:-1] > 0).all())
    assert scores[1] > 3


def alike(values: Tensor) -> Targets:
    return Targets(values, values, values)


def test_an_upper_tail_does_not_mind_small_values_and_two_sided_does() -> None:
    head = Head(0, "mixture", 0, 9)
    small = alike(torch.tensor([[-30.0]], dtype=torch.float64))
    assert surprise(head, MIXTURE, small, "upper").item() == pytest.approx(0, abs=1e-9)
    assert surprise(head, MIXTURE, small, "two-sided").item() > 50


def test_a_value_that_repeats_counts_itself_in_its_tail() -> None:
    """P(Z >= z) includes z: the commonest whole number is not surprising for lying on the edge."""
    head = Head(0, "student-t", 0, 3)
    one, below = torch.tensor([[1.0]], dtype=torch.float64), torch.tensor([[-3.0]], dtype=torch.float64)
    assert surprise(head, STUDENT, Targets(one, below, one), "upper") < surprise(head, STUDENT, alike(one), "upper")


@pytest.mark.parametrize("family", ["student-t", "mixture"])
@pytest.mark.parametrize("probability", [0.05, 0.5, 0.95])
def test_a_quantile_has_its_probability_below_it(family: str, probability: float) -> None:
    parameters = STUDENT if family == "student-t" else MIXTURE
    tails = distributions.student_t_log_tails if family == "student-t" else distributions.mixture_log_tails
    value = quantile(Head(0, family, 0, len(parameters)), parameters, probability)
    assert tails(parameters, value)[0].exp().item() == pytest.approx(probability, abs=1e-8)


@pytest.mark.parametrize("family", ["student-t", "mixture"])
def test_a_density_integrates_to_its_tail(family: str) -> None:
    parameters = STUDENT if family == "student-t" else MIXTURE
    head = Head(0, family, 0, len(parameters))
    z = torch.linspace(-400, 1, 400_001, dtype=torch.float64)
    (density,) = log_likelihoods([head], parameters.expand(len(z), -1), z[:, None])
    below = torch.trapezoid(density.exp(), z)
    tails = distributions.student_t_log_tails if family == "student-t" else distributions.mixture_log_tails
    assert below.item() == pytest.approx(
        tails(parameters, torch.tensor(1.0, dtype=torch.float64))[0].exp().item(), rel=1e-3
    )


EVERY_FAMILY = (
    Head(0, "student-t", 0, 3), Head(0, "mixture", 3, 15), Head(1, "zero-inflated", 15, 28, -0.5),
    Head(2, "categorical", 28, 32), Head(3, "bernoulli", 32, 33), Head(4, "student-t", 33, 36),
    Head(4, "mixture", 36, 48), Head(5, "categorical", 48, 52), Head(6, "categorical", 52, 55),
    Head(7, "zero-inflated", 55, 68, 0.25),
)  # fmt: skip


def drawn(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Parameters and values of `EVERY_FAMILY`, some of them missing."""
    draws = torch.Generator().manual_seed(0)
    parameters = torch.randn(*shape, EVERY_FAMILY[-1].stop, generator=draws, dtype=torch.float64)
    values = torch.randn(*shape, 8, generator=draws, dtype=torch.float64)
    values[..., [2, 3, 5, 6]] = torch.randint(0, 2, (*shape, 4), generator=draws).double()
    values[..., 1] = torch.where(values[..., 1] > 0, values[..., 1], -0.5)
    values[..., 7] = torch.where(values[..., 7] > 0.25, values[..., 7], 0.25)
    return parameters, values.masked_fill(torch.rand(values.shape, generator=draws) < 0.2, math.nan)


@pytest.mark.parametrize("heads", [EVERY_FAMILY, EVERY_FAMILY[1::3], EVERY_FAMILY[4:5]], ids=["all", "some", "one"])
def test_heads_that_are_worked_on_together_say_what_each_says_alone(heads: tuple[Head, ...]) -> None:
    parameters, values = drawn(5, 3)
    own, shared = (parameters.clone().requires_grad_() for _ in range(2))
    together = log_likelihoods(heads, shared, values)
    alone = [
        log_likelihood(head.family, head.of(own), values[..., head.feature], torch.tensor(head.zero)) for head in heads
    ]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-12, atol=1e-12)
    weight = torch.arange(1.0, together.numel() + 1, dtype=torch.float64).view_as(together)
    for likelihoods in (together, torch.stack(alone)):
        (weight * likelihoods).sum().backward()
    torch.testing.assert_close(shared.grad, own.grad, rtol=1e-12, atol=1e-12)


def test_one_prediction_stands_for_many_events() -> None:
    parameters, values = drawn(6)
    numeric = tuple(head for head in EVERY_FAMILY if head.family in ("student-t", "mixture", "zero-inflated"))
    one = log_likelihoods(numeric, parameters[:1], values)
    torch.testing.assert_close(one, log_likelihoods(numeric, parameters[:1].expand(6, -1), values))


def test_a_category_is_as_surprising_as_all_that_are_no_likelier() -> None:
    head = Head(0, "categorical", 0, 3)
    parameters = torch.log(torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64))
    came = alike(torch.tensor([[0.0], [1.0], [2.0], [math.nan]], dtype=torch.float64))
    scores = surprise(head, parameters.expand(4, -1), came, "two-sided")
    np.testing.assert_allclose(scores, [0.0, -math.log(0.3), -math.log(0.1), math.nan], atol=1e-12)


def test_a_boolean_is_surprising_when_it_is_the_rarer_one() -> None:
    head = Head(0, "bernoulli", 0, 1)
    parameters = torch.full((2, 1), math.log(0.02 / 0.98), dtype=torch.float64)
    scores = surprise(head, parameters, alike(torch.tensor([[1.0], [0.0]], dtype=torch.float64)), "two-sided")
    np.testing.assert_allclose(scores, [-math.log(0.02), 0.0], atol=1e-12)
    np.testing.assert_allclose(log_probabilities(head, parameters)[0].exp(), [0.98, 0.02])


def test_a_missing_value_has_no_likelihood_and_no_gradient() -> None:
    for head, parameters in ((Head(0, "mixture", 0, 9), MIXTURE), (Head(0, "student-t", 0, 3), STUDENT)):
        leaf = parameters.clone().requires_grad_()
        likelihood = log_likelihoods([head], leaf.expand(2, -1), torch.full((2, 1), math.nan, dtype=torch.float64))
        likelihood.sum().backward()
        assert likelihood.tolist() == [[0.0, 0.0]]
        assert leaf.grad is not None
        assert leaf.grad.abs().max() == 0


def test_parts_combine_by_the_largest_on_the_scale_of_one_part() -> None:
    parts = np.array(
        [
            [3.0, np.nan, np.nan, np.nan],
            [3.0, 0.1, 0.1, 0.1],
            [0.0, 0.0, np.nan, np.nan],
            [np.nan] * 4,
            [500.0, 1.0, 1.0, 1.0],
            [29.999, 29.0, 1.0, 1.0],
            [30.001, 29.0, 1.0, 1.0],
        ]
    )
    scores = combine(parts)
    p = 1 - (1 - math.exp(-3)) ** 4
    np.testing.assert_allclose(scores[:5], [3.0, -math.log(p), 0.0, np.nan, 500 - math.log(4)], rtol=1e-12)
    assert scores[6] - scores[5] == pytest.approx(0.002, abs=1e-6)  # no step where the formula changes


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_combined_scores_of_chance_alone_do_not_depend_on_the_number_of_parts(parts: int, seed: int) -> None:
    uniform = np.random.default_rng(seed).random((4000, parts))
    share = (combine(-np.log(uniform)) > math.log(20)).mean()
    assert 0.03 < share < 0.072


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 900), min_size=1, max_size=12), st.integers(1, 6))
def test_cut_counts_every_event_once_and_begins_at_window_borders(lengths: list[int], window: int) -> None:
    end = np.cumsum(lengths)
    begin = end - lengths
    chunks = cut(begin, end, window)
    counted = np.concatenate([np.arange(f, e) for f, e in zip(chunks.first, chunks.end, strict=True)] + [[]])
    np.testing.assert_array_equal(np.sort(counted), np.arange(end[-1]))
    owner = np.searchsorted(end, chunks.first, side="right")
    assert ((chunks.begin - begin[owner]) % window == 0).all()
    assert (chunks.end - chunks.begin <= 80 * window).all()
    assert ((chunks.first == chunks.begin) == (chunks.begin == begin[owner])).all()
    assert chunks.closes.sum() == sum(length > 0 for length in lengths)
    together = np.concatenate(batches(chunks, 500)) if len(chunks) else np.empty(0)
    np.testing.assert_array_equal(np.sort(together), np.arange(len(chunks)))


def test_gathered_places_are_padded_on_the_right_and_segments_walk_side_by_side() -> None:
    places, there = gather(np.array([3, 10]), np.array([6, 11]))
    assert places[there].tolist() == [3, 4, 5, 10]
    assert there.tolist() == [[True, True, True], [True, False, False]]
    walked = [(low.tolist(), high.tolist()) for low, high in segments(np.array([0, 7]), np.array([5, 8]), 2)]
    assert walked == [([0, 7], [2, 8]), ([2, 8], [4, 8]), ([4, 8], [5, 8])]


FEATURES = (
    FeatureSpec("amount", "numeric", Scaling(logarithmic=False, unit=1.0, centre=0.0, spread=1.0)),
    FeatureSpec(GAP, "gap", Scaling(logarithmic=True, unit=1.0, centre=0.0, spread=1.0)),
)
WINDOW = 4


CHANNELS, SUMS, EVENT = 5, 2, 9_000.0


def network_of(kind: type[Network] = Network, encoder: str = "convlstm") -> Network:
    torch.manual_seed(3)
    return kind(CHANNELS, SUMS, 6, WINDOW, candidate_heads(FEATURES, 3), encoder).double().eval()


def sequences_of(events: int, seed: int = 0) -> Sequences:
    draws = torch.Generator().manual_seed(seed)
    observed = torch.rand(events, CHANNELS, generator=draws) < 0.7
    observed[:, -2:] = True  # presence flags
    inputs = torch.randn(events, CHANNELS, generator=draws).double()
    seconds = EVENT * torch.arange(events).double()
    return Sequences(inputs, observed, seconds, torch.randn(events, SUMS, generator=draws).double())


def forward(network: Network, sequences: Sequences, places: list[list[int]], lengths: list[int]) -> Tensor:
    """Parameters (N, S + 1, all) of rows of places."""
    with torch.no_grad():
        return network(sequences, torch.tensor(places), torch.tensor(lengths))


def predicted(network: Network, sequences: Sequences, begin: list[int], end: list[int]) -> Tensor:
    """Parameters of all events, in their order; NaN for those of no series."""
    size = network.readout.parameters_of_heads.out_features
    found = torch.full((len(sequences.inputs), size), math.nan, dtype=torch.float64)
    for places, states in states_before(network, sequences, np.array(begin), np.array(end)):
        with torch.no_grad():
            found[places] = network.readout(states)
    return found


class ReadsTheEventItPredicts(Network):
    """Mutant: forgets to shift, so that event e is predicted from event e."""

    def states(self, sequences: Sequences, places: Tensor, lengths: Tensor) -> Tensor:
        output, _ = self.read(sequences, places, None, lengths)
        return torch.cat([output[:, :1], output], 1)


class LeaksPadding(Network):
    """Mutant: subtracts each row's mean over all steps, padding included."""

    def states(self, sequences: Sequences, places: Tensor, lengths: Tensor) -> Tensor:
        return super().states(sequences, places, lengths) - sequences.inputs[places].mean()


class IgnoresTheMask(Network):
    """Mutant: reads what stands under the mask."""

    def states(self, sequences: Sequences, places: Tensor, lengths: Tensor) -> Tensor:
        return super().states(replace(sequences, observed=torch.ones_like(sequences.observed)), places, lengths)


def reads_only_the_past(network: Network) -> bool:
    """Whether changing event e leaves the predictions of events 0..e as they are, and changes those after it."""
    sequences = sequences_of(13)
    sequences = replace(sequences, observed=torch.ones_like(sequences.observed))
    everything = [list(range(13))]
    before = forward(network, sequences, everything, [13])
    for event in range(13):
        changed = sequences.inputs.clone()
        changed[event] += 1.0
        moved = (forward(network, replace(sequences, inputs=changed), everything, [13]) != before).any(-1)[0]
        after = 1 if isinstance(network.encoder, Calendar) else WINDOW  # a calendar reads a day when it is over
        if moved[: event + 1].any() or not moved[event + 1 : event + 1 + after].all():
            return False
    return True


def ignores_padding(network: Network) -> bool:
    """Whether what stands beyond the length of a row, and how much of it, changes nothing."""
    sequences = sequences_of(15)
    alone = forward(network, sequences, [list(range(6))], [6])
    padded = forward(network, sequences, [list(range(15))], [6])
    return bool(torch.allclose(padded[:, :7], alone, rtol=0, atol=1e-12))


def ignores_what_is_masked(network: Network) -> bool:
    """Whether values under the mask change nothing."""
    sequences = sequences_of(9)
    one, other = (
        forward(
            network,
            replace(sequences, inputs=torch.where(sequences.observed, sequences.inputs, junk)),
            [list(range(9))],
            [9],
        )
        for junk in (0.0, math.nan)
    )
    return bool(torch.equal(one, other))


@pytest.mark.parametrize("encoder", ENCODERS[1:])
def test_the_network_reads_only_the_past_and_all_of_the_last_window(encoder: str) -> None:
    assert reads_only_the_past(network_of(encoder=encoder))


@pytest.mark.parametrize("encoder", ENCODERS[1:])
def test_padding_is_invisible(encoder: str) -> None:
    assert ignores_padding(network_of(encoder=encoder))


@pytest.mark.parametrize("encoder", ENCODERS[1:])
def test_what_is_missing_is_not_read(encoder: str) -> None:
    assert ignores_what_is_masked(network_of(encoder=encoder))


def test_broken_networks_are_caught() -> None:
    assert not reads_only_the_past(network_of(ReadsTheEventItPredicts))
    assert not ignores_padding(network_of(LeaksPadding))
    assert not ignores_what_is_masked(network_of(IgnoresTheMask))


@pytest.mark.parametrize("encoder", ENCODERS[1:])
def test_a_series_is_predicted_alike_alone_in_a_batch_and_in_pieces(
    encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, sequences = network_of(encoder=encoder), sequences_of(40)
    begin, end = [0, 3, 17], [3, 17, 40]
    together = predicted(network, sequences, begin, end)
    alone = (
        torch.stack([predicted(network, sequences, [b], [e]) for b, e in zip(begin, end, strict=True)])
        .nan_to_num()
        .sum(0)
    )
    assert torch.allclose(together, alone, rtol=0, atol=1e-12)
    monkeypatch.setattr("gapcell.detect.model.LONGEST_SEGMENT_IN_WINDOWS", 1)
    assert torch.allclose(predicted(network, sequences, begin, end), together, rtol=0, atol=1e-12)


@pytest.mark.parametrize("encoder", ENCODERS[1:])
def test_predictions_are_those_of_the_forward_pass(encoder: str) -> None:
    network, sequences = network_of(encoder=encoder), sequences_of(11)
    whole = forward(network, sequences, [list(range(11))], [11])[0, :-1]
    assert torch.allclose(predicted(network, sequences, [0], [11]), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("hours", [True, False])
def test_the_calendar_counts_every_event_of_the_steps_that_are_over(hours: bool) -> None:
    """The grid has every event but those of the last step, in the cell of its hour or weekday."""
    calendar = Calendar(2, 4, hours=hours)
    seconds = torch.tensor([[0.0, 3_600.0, 3_700.0, 90_000.0, 700_000.0, 1_400_000.0]], dtype=torch.float64)
    x = torch.arange(12.0).view(1, 6, 2)
    mask = torch.ones(1, 6, 2, dtype=torch.bool)
    mask[0, 1, 0] = False
    seen = {}

    def layer(grid: Tensor, *, mask: Tensor, lengths: Tensor) -> tuple[Tensor, None]:
        seen.update(grid=grid, mask=mask, steps=lengths)
        return torch.zeros(*grid.shape[:2], 4, grid.shape[-1]), None

    calendar.layer.forward = layer
    calendar(x, None, mask, torch.tensor([6]), seconds)
    counts = torch.expm1(seen["grid"][0, :, 0])
    if hours:
        assert counts.shape == (16, 24)
        assert counts[0, 0] == 1
        assert counts[0, 1].round() == 2
        assert seen["grid"][0, 0, 1, 1] == 4  # the one of two that is observed
        assert seen["grid"][0, 0, 2, 1] == 4  # the mean of 3 and 5
    else:
        assert counts.shape[1] == 7
        assert counts[0, 3].round() == 3  # 1970 began on a Thursday
        assert counts[0, 4].round() == 1
    assert round(float(counts.sum())) == 5
    assert bool(seen["mask"][0, :, 0].all())
    assert int(seen["mask"][0, :, 2].sum()) == (4 if hours else 3)


def test_every_parameter_belongs_to_one_head() -> None:
    heads = candidate_heads(FEATURES, 3)
    assert [(head.feature, head.family) for head in heads] == [(0, "student-t"), (0, "mixture"), (1, "mixture")]
    covered = sorted(number for head in heads for number in range(head.start, head.stop))
    assert covered == list(range(heads[-1].stop))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-1e15, 1e15), min_size=1, max_size=40),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_scaling_is_monotone_finite_and_goes_back(values: list[float], value: float) -> None:
    scaling = Scaling.fit(np.array(values))
    z = scaling.forward(np.array([value, value / 2, 0.0]))
    assert np.isfinite(z).all()
    assert (np.diff(z * np.sign(value)) <= 0).all()
    if abs(value) < 1e15:
        assert scaling.backward(z)[0] == pytest.approx(value, rel=1e-6, abs=1e-6 * scaling.unit)


def test_scaling_of_gaps_goes_back_and_knows_the_step() -> None:
    day = 86_400.0
    scaling = Scaling.fit(np.array([1, 2, 5, 30, 200]) * day, logarithmic=True)
    np.testing.assert_allclose(scaling.backward(scaling.forward(np.array([0.0, day, 1e9]))), [0, day, 1e9], atol=1e-3)
    assert scaling.step == day
    assert np.isfinite(scaling.forward(np.array([-0.5 * day]))).all()


def test_scaling_without_values_or_with_equal_ones_is_defined() -> None:
    for values in ([], [5.0] * 9, [0.0] * 9):
        assert np.isfinite(Scaling.fit(np.array(values)).forward(np.array([0.0, 5.0, 1e300]))).all()
