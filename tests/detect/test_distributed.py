"""Training in several processes: what is shared out, what adds up, and what happens when one of them ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import distributed, nn

import gapcell
from gapcell.cli import main
from gapcell.detect import Detector, ProcessError, fit, read_table, selection
from gapcell.detect.batch import Batch
from gapcell.detect.distributed import ALONE, Ranks, joined
from gapcell.detect.judging import HeldOut
from gapcell.detect.material import known_by_head, log_survival, mean_over_features, summed_likelihoods, weighted
from gapcell.detect.results import silent
from gapcell.detect.series import Chunks, batches, gather
from gapcell.detect.training import (
    LARGEST_GRADIENT,
    VALUES_BESIDE_LABELS,
    Course,
    class_balance,
    loss_of,
    train_epoch,
    training_chunks,
)

from . import ranks as script
from .ranks import BATCHES, CASES, course_of, epoch, gradients, material, ragged

GLOO = distributed.is_available() and distributed.is_gloo_available()
needs_gloo = pytest.mark.skipif(not GLOO, reason="this PyTorch is built without torch.distributed and gloo")
TESTS = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(Path(gapcell.__file__).parents[1]), str(TESTS)]),
    "OMP_NUM_THREADS": "1",
}
CLOSE = 1e-6  # of the largest


# Shares ---------------------------------------------------------------------------------------------------------------


def broken(shares: list[np.ndarray], lengths: np.ndarray) -> str:
    """What is wrong with shares of sequences of these lengths; empty where nothing is."""
    if sorted(np.concatenate(shares)) != list(range(len(lengths))):
        return "not each once"
    loads = [int(lengths[share].sum()) for share in shares]
    if max(loads) - min(loads) > lengths.max(initial=0):
        return "more than the longest apart"
    numbers = [len(share) for share in shares]
    return "numbers differ" if max(numbers) - min(numbers) > 1 else ""


@given(st.lists(st.integers(1, 500), max_size=60), st.integers(1, 8))
def test_shares_differ_by_at_most_the_longest_sequence(lengths: list[int], count: int) -> None:
    every = np.array(lengths, dtype=np.int64)
    assert broken([Ranks(rank, count).share(every) for rank in range(count)], every) == ""


def test_an_uneven_share_is_found() -> None:
    lengths = np.array([1, 2, 3, 4, 5, 6])
    assert broken([np.array([0, 1, 2]), np.array([3, 4, 5])], lengths) == "more than the longest apart"
    assert broken([np.array([0, 1, 2, 5]), np.array([3, 4, 5])], lengths) == "not each once"
    assert broken([np.array([0, 1, 2, 3]), np.array([4, 5])], lengths) == "numbers differ"


def test_alone_a_process_has_the_whole_batch_and_exchanges_nothing() -> None:
    _, batch = batch_of("lstm")
    assert batch.share(ALONE) is batch
    np.testing.assert_array_equal(ALONE.share(np.array([5, 1, 9])), [0, 1, 2])
    assert ALONE.from_first(b"own") == b"own"
    ALONE.check_same("own", "anything")


# Gradients ------------------------------------------------------------------------------------------------------------


def batch_of(case: str) -> tuple[script.Material, Batch]:
    """A batch of sequences of many lengths, with missing values."""
    its = material(CASES[case])
    course = course_of(its, CASES[case])
    chunks = training_chunks(its, CASES[case], course.network.window)
    return its, Batch.of(its, chunks.at(max(batches(chunks, 2000), key=len)), np.random.default_rng(0))


def sum_of_parts(case: str, parts: list[Batch]) -> torch.Tensor:
    """The summed gradients of the losses of batches, as one flat vector."""
    its, _ = batch_of(case)
    network = course_of(its, CASES[case]).network
    for part in parts:
        loss_of(network, its, part, 3.0)[0].backward()
    return nn.utils.parameters_to_vector([parameter.grad for parameter in network.parameters()])


def difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference of gradients, in parts of the largest gradient."""
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("count", [2, 3])
def test_the_gradients_of_shares_add_up_to_that_of_the_batch(case: str, count: int) -> None:
    _, batch = batch_of(case)
    lengths = batch.chunks.end - batch.chunks.begin
    assert len(set(lengths)) > 5
    assert bool(torch.isnan(batch.values[batch.counts]).any())
    assert bool(batch.labels) == CASES[case].supervised
    parts = [batch.share(Ranks(rank, count)) for rank in range(count)]
    assert sum(int(part.counts.sum()) for part in parts) == batch.events
    assert difference(sum_of_parts(case, parts), sum_of_parts(case, [batch])) <= CLOSE


@pytest.mark.parametrize("case", ["lstm", "lstm, labels"])
def test_a_loss_divided_by_what_a_rank_itself_observes_is_found(case: str) -> None:
    _, batch = batch_of(case)
    parts = [batch.share(Ranks(rank, 2)) for rank in range(2)]
    own = [replace(part, events=int(part.counts.sum())) for part in parts]
    assert difference(sum_of_parts(case, own), sum_of_parts(case, [batch])) > 0.1
    if CASES[case].supervised:
        half = [replace(part, labels=batch.labels // 2) for part in parts]
        assert difference(sum_of_parts(case, half), sum_of_parts(case, [batch])) > 0.1


def test_every_event_has_the_draw_that_it_has_in_the_whole_batch() -> None:
    _, batch = batch_of("lstm")
    of_place = dict(zip(batch.places[batch.counts].tolist(), batch.values[batch.counts].tolist(), strict=True))
    for rank in range(3):
        part = batch.share(Ranks(rank, 3))
        assert part.places.shape[1] == int((part.chunks.end - part.chunks.begin).max())
        for place, values in zip(part.places[part.counts].tolist(), part.values[part.counts].tolist(), strict=True):
            np.testing.assert_array_equal(values, of_place[place])


def epoch_of_one(course: Course, its: script.Material, chunks: Chunks, groups: list[np.ndarray]) -> float:
    """An epoch as it was before there were ranks, restated: every batch in one piece, labels by their own mean."""
    network, draws = course.network.train(), course.draws
    total, counted = np.zeros(len(its.heads)), np.zeros(len(its.heads))
    for number in draws.permutation(len(groups)):
        chunk = chunks.at(groups[number])
        places, there = gather(chunk.begin, chunk.end)
        lengths = torch.from_numpy(chunk.end - chunk.begin)
        states = network.states(its.sequences, places, lengths)
        parameters = network.readout(states)
        counts = there & (places >= torch.from_numpy(chunk.first)[:, None]) & its.happens[places]
        values = torch.where(counts.unsqueeze(-1), its.values(places, draws), torch.nan)
        likelihoods = summed_likelihoods(its.heads, parameters[:, :-1], values)
        closing = torch.from_numpy(np.flatnonzero(chunk.closes))
        gaps = its.open_gaps(chunk.end[chunk.closes] - 1)
        survival = log_survival(its.gap_head, parameters[closing, lengths[closing]], gaps).sum()
        loss = -(weighted(its.heads, likelihoods) + survival) / max(int(counts.sum()), 1)
        if network.label_head is not None:
            known = counts & ~torch.isnan(its.labels[places])
            at, balance = places[known], torch.tensor(class_balance(its, chunks))
            odds = network.label_head(states[:, :-1][known], its.sequences.inputs[at], its.sequences.observed[at])
            entropy = nn.functional.binary_cross_entropy_with_logits
            labels = entropy(odds, its.labels[at], pos_weight=balance) if len(at) else torch.zeros(())
            loss = VALUES_BESIDE_LABELS * loss + labels
        course.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
        course.optimiser.step()
        total -= likelihoods.detach().double().numpy()
        counted += known_by_head(its.heads, values)
    return mean_over_features(its.heads, total / np.maximum(counted, 1))


@pytest.mark.parametrize("case", CASES)
def test_one_process_trains_bit_by_bit_as_it_did_before_there_were_several(case: str) -> None:
    its = material(CASES[case])
    one, other = (course_of(its, CASES[case]) for _ in range(2))
    chunks = training_chunks(its, CASES[case], one.network.window)
    groups = batches(chunks, BATCHES[0])
    for _ in range(2):
        assert train_epoch(one, its, chunks, groups) == epoch_of_one(other, its, chunks, groups)
    for name, tensor in other.network.state_dict().items():
        assert torch.equal(one.network.state_dict()[name], tensor), name


# Several processes ----------------------------------------------------------------------------------------------------


def run(task: str, folder: Path, count: int, killed_after: int = 0) -> list[tuple[int, str]]:
    """Exit status and what was said on standard error, of so many processes; none lives longer than two minutes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, script.__file__, task, str(folder), str(killed_after)]
    running = []
    for rank in range(count):
        who = {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        running.append(subprocess.Popen(command, env=ENVIRONMENT | who, stderr=subprocess.PIPE, text=True))
    try:
        said = [process.communicate(timeout=120)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    return [(process.returncode, words) for process, words in zip(running, said, strict=True)]


def all_ended_well(ended: list[tuple[int, str]]) -> bool:
    assert [status for status, _ in ended] == [0] * len(ended), ended
    return True


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes left their gradients and their detectors."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert all_ended_well(run("exchange,fit", folder, 2))
    return folder


@needs_gloo
@pytest.mark.parametrize("count", [2, 3])
def test_processes_have_the_gradients_of_one_on_the_same_batches(count: int, undisturbed: Path, tmp_path: Path) -> None:
    """Also of batches of fewer sequences than there are ranks, and of those without a label."""
    if count == 2:
        tmp_path = undisturbed
    else:
        assert all_ended_well(run("exchange", tmp_path, count))
    found = [load_file(tmp_path / f"gradients-{rank}.safetensors") for rank in range(count)]
    for case, options in CASES.items():
        for places in BATCHES:
            wanted = gradients(options, places, ALONE)
            here = {name.partition(": ")[2]: name for name in found[0] if name.startswith(f"{case}, {places}: ")}
            assert here.keys() == wanted.keys()
            largest = max(float(gradient.abs().max()) for gradient in wanted.values())
            for name, gradient in wanted.items():
                every = [gradients_of[here[name]] for gradients_of in found]
                assert all(torch.equal(one, every[0]) for one in every)
                assert float((every[0] - gradient).abs().max()) <= CLOSE * largest, f"{case} {places} {name}"
    said = [(tmp_path / f"said-{rank}.txt").read_text(encoding="utf-8").splitlines() for rank in range(count)]
    assert said == [said[0]] * count
    *values, first, refused = said[0]
    assert [float(value) for value in values] == pytest.approx(epoch(CASES["convlstm"], ALONE), rel=1e-4)
    assert first == "from 0"
    assert refused == ("rank 1 has not the events and options of rank 0: start every process with the same table, "
                       "options and versions, on machines of one kind")  # fmt: skip


def weights(folder: Path) -> bytes:
    return (folder / "detector.safetensors").read_bytes() + (folder / "detector.json").read_bytes()


@needs_gloo
def test_a_rank_that_is_killed_costs_one_epoch_and_changes_nothing(undisturbed: Path, tmp_path: Path) -> None:
    (first, said), (killed, _) = run("fit", tmp_path, 2, killed_after=2)
    assert killed == -signal.SIGKILL
    assert first == 1
    assert "ProcessError: rank 0 of 2 lost the others, one of which ended or took too long (" in said
    assert not (tmp_path / "detector-0").exists()
    alone = shutil.copytree(tmp_path / "course", tmp_path / "course of one")
    assert all_ended_well(run("fit", tmp_path, 2))
    for rank in range(2):
        epochs = [(folder / f"epochs-{rank}.txt").read_text(encoding="utf-8") for folder in (undisturbed, tmp_path)]
        assert epochs[0] == epochs[1]  # none was trained twice, on no rank
        assert weights(tmp_path / f"detector-{rank}") == weights(undisturbed / "detector-0")
    whole = Detector.load(undisturbed / "detector-0").epochs
    one = fit(read_table(ragged().drop("fraud")), CASES["convlstm"], checkpoint=alone).epochs
    assert one[:2] == whole[:2]  # another number of processes goes on too
    np.testing.assert_allclose([epoch.held_out for epoch in one], [epoch.held_out for epoch in whole], rtol=1e-4)


@needs_gloo
def test_torchrun_starts_the_command_and_one_rank_speaks_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ragged().write_parquet(tmp_path / "events.parquet")
    words = ["fit", "events.parquet", "--value", "amount", "channel", "--encoder", "lstm", "--epochs", "2"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "gapcell"]
    several = [*launcher, *words, "--model", "several", "--checkpoint", "course"]
    ran = subprocess.run(
        several, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--model", "alone"]) == 0
    out, err = capsys.readouterr()
    assert (out, ran.stdout) == ("model    alone\n", "model    several\n")
    for said in (err, ran.stderr):
        assert said.count("reading the table") == 1
        assert said.count("training: 2 of 2") == 1
    assert len(list((tmp_path / "course").iterdir())) == 1
    detectors = [Detector.load(tmp_path / name) for name in ("alone", "several")]
    values = [[epoch.held_out for epoch in detector.epochs] for detector in detectors]
    np.testing.assert_allclose(*values, rtol=1e-4)


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"RANK": "0"},
            "says nothing of WORLD_SIZE and MASTER_ADDR and MASTER_PORT: start the processes with torchrun",
        ),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}, "says nothing of MASTER_PORT: start"),
        (dict.fromkeys(("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"), "2"), "RANK=2 and WORLD_SIZE=2 of the en"),
        (dict.fromkeys(("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"), "x"), "RANK=x and WORLD_SIZE=x of the en"),
    ],
)
def test_half_an_environment_is_refused(said: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ProcessError, match=message), joined():
        pass


def test_the_command_says_what_is_wrong_with_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["fit", "events.parquet", "--model", "model"]) == 1
    assert capsys.readouterr().err.startswith(
        "gapcell: the environment says nothing of RANK and MASTER_ADDR and MASTER"
    )
    for timeout in ("0", "nan", "inf"):
        assert main(["fit", "events.parquet", "--model", "model", "--timeout", timeout]) == 2
        assert f"--timeout (={timeout}) must be a number of seconds above 0, of a week" in capsys.readouterr().err


def test_without_torchrun_a_process_is_alone() -> None:
    with joined() as ranks:
        assert ranks == ALONE


@needs_gloo
def test_a_process_that_does_not_come_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ProcessError, match="rank 0 of 2 could not join the others within 1 seconds"), joined(1):
        pass


def test_an_interruption_of_several_leaves_nothing_half_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(selection, "fit_network", interrupt)
    its, options = material(CASES["lstm"]), CASES["lstm"]
    population, held_out = torch.zeros(its.heads[-1].stop), HeldOut.of(its, options)
    alone = selection.Trainer(its, population, held_out, silent, None)
    assert alone.train("lstm", options, "network") is None
    assert alone.interrupted
    with pytest.raises(KeyboardInterrupt):
        selection.Trainer(its, population, held_out, silent, None, Ranks(0, 2)).train("lstm", options, "network")
