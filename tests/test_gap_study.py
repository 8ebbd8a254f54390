"""The study behind docs/choosing.md: its tasks are what they say, and nothing that is hidden reaches a forecast."""

import copy

import pytest

from benchmarks import document
from benchmarks.gaps import findings
from benchmarks.gaps.findings import Findings
from benchmarks.gaps.plan import METHODS, REMOVALS, REPEAT_LAST, SEEDS, SHARES, TITLES
from benchmarks.results import Results

torch = pytest.importorskip("torch", reason="the study trains networks in PyTorch")


def networks():
    from benchmarks.gaps.network import Forecaster

    for name, method in METHODS.items():
        torch.manual_seed(0)
        yield name, Forecaster(method, rank=1).eval()


def clip(samples=4, steps=6, sites=7):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, steps, 1, sites, generator=generator)
    return x, torch.rand(samples, steps, sites, generator=generator) > 0.4


def test_documents_are_what_the_study_found():
    for path, text in document.with_figures(Results.read(), Findings.read()).items():
        assert path.read_text(encoding="utf-8") == text


def test_every_network_was_trained():
    found = Findings.read()
    for task in TITLES:
        for removal in REMOVALS:
            for share in SHARES:
                for method in (*METHODS, REPEAT_LAST):
                    assert len(found.errors(task, removal, share, method)) == SEEDS


def test_the_tables_change_with_what_was_found():
    found = Findings.read()
    changed = Findings(copy.deepcopy(found.content))
    changed.content["runs"][0]["errors"][f"{SHARES[0]:g}"] = 0.0
    assert findings.figures(changed) != findings.figures(found)


def test_no_method_sees_what_was_removed():
    x, mask = clip()
    for name, network in networks():
        want = network(x, mask)
        for secret in (torch.nan, 1e30):
            got = network(x.masked_fill(~mask.unsqueeze(2), secret), mask)
            torch.testing.assert_close(got, want, msg=name)


def test_no_method_sees_the_future():
    x, mask = clip()
    for name, network in networks():
        changed, other = x.clone(), mask.clone()
        changed[:, 4:], other[:, 4:] = 7.0, ~mask[:, 4:]
        torch.testing.assert_close(network(changed, other)[:, :4], network(x, mask)[:, :4], msg=name)
        assert not torch.equal(network(changed, other), network(x, mask)), name


def test_methods_differ_where_there_are_gaps_and_nowhere_else():
    x, mask = clip()
    forecasts = {name: network(x, mask) for name, network in networks()}
    names = [name for name in METHODS if METHODS[name].fill != "indicator"]  # which has a wider kernel
    for one in names:
        for other in names:
            assert (one == other) == torch.equal(forecasts[one], forecasts[other]), (one, other)
    full = [network(x, torch.ones_like(mask)) for name, network in networks() if name in names and name != "decay"]
    for forecast in full:
        torch.testing.assert_close(forecast, full[0])


def test_the_share_that_is_removed_is_the_share_that_is_missing():
    from benchmarks.gaps.tasks import observed

    x = torch.zeros(200, 10, 1, 6)
    x[:, :, 0, 0] = torch.nan
    for share in SHARES:
        sites = observed(x, "sites", share, seed=0)
        assert not sites[..., 0].any()
        assert sites[..., 1:].float().mean() == pytest.approx(1 - share, abs=0.02)
        steps = observed(x, "steps", share, seed=0)[..., 1:]
        assert torch.equal(steps.all(-1), steps.any(-1))
        assert steps.float().mean() == pytest.approx(1 - share, abs=0.04)


def test_the_last_value_is_carried_on():
    from benchmarks.gaps.network import last_observed

    x, mask = clip()
    want, latest = torch.zeros_like(x), torch.zeros_like(x[:, 0])
    for step in range(x.shape[1]):
        latest = torch.where(mask[:, step].unsqueeze(1), x[:, step], latest)
        want[:, step] = latest
    assert torch.equal(last_observed(x.masked_fill(~mask.unsqueeze(2), torch.nan), mask), want)


def test_digits_move_through_the_frame_and_do_not_change():
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    from benchmarks.gaps.tasks import moving_digits

    train, test = moving_digits(0)
    assert torch.equal(train, moving_digits(0).train)
    assert not torch.equal(train, moving_digits(1).train)
    for clips in (train, test):
        ink = clips.flatten(2).sum(-1)
        torch.testing.assert_close(ink, ink[:, :1].expand_as(ink))  # never cut off by an edge
        assert (clips[:, 1:] != clips[:, :-1]).flatten(2).any(-1).float().mean() > 0.9


def test_the_error_of_the_mean_is_one():
    from benchmarks.gaps.study import relative

    truth = torch.randn(3, 8, 1, 5, generator=torch.Generator().manual_seed(0))
    truth[0, 5, 0, 2] = torch.nan
    mean = torch.tensor(0.3)
    assert relative(mean.expand(3, 7, 1, 5), truth, mean) == 1
    assert relative(truth[:, 1:], truth, mean) == 0
