"""`gapcell stream` as a process: lines in, lines out, stopped by a signal, and gone on with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the detector runs on PyTorch")
pytest.importorskip("polars", reason="the detector reads tables with polars")

from gapcell.cli import main
from gapcell.detect import FitOptions, fit, read_table
from gapcell.detect.simulate import Simulation

VALUES = ["amount", "category"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and events for it with ids."""
    folder = tmp_path_factory.mktemp("stream")
    frame = Simulation(40, 30).frame().sort("time").with_row_index("id").select("id", "customer", "time", *VALUES)
    fit(read_table(frame, entity="customer", time="time", values=VALUES), FitOptions(epochs=1, encoder="lstm")).save(
        folder / "model"
    )
    frame.write_ndjson(folder / "events.jsonl")
    frame.write_csv(folder / "events.csv")
    return folder


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_signal_ends_the_work_after_its_batch_and_the_same_command_goes_on(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    command = [sys.executable, "-m", "gapcell", "stream", str(folder / "model"), "--id", "id", "--store",
               str(tmp_path / "state.sqlite")]  # fmt: skip
    scores = tmp_path / "scores.jsonl"
    with scores.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.PIPE, text=True)
        process.stdin.writelines(lines[:100])
        process.stdin.flush()
        until = time.monotonic() + 60
        while len(scores.read_bytes().splitlines()) < 100:
            assert time.monotonic() < until
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 0, said
        assert "100 events, " in said
        again = subprocess.run(
            command, input="".join(lines), stdout=output, stderr=subprocess.PIPE, text=True, check=True
        )
    assert "100 that came again" in again.stderr
    assert ids(scores) == [str(number) for number in range(len(lines))]


def test_a_file_of_csv_becomes_a_file_of_csv(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["stream", str(folder / "model"), str(folder / "events.csv"), "--id", "id", "--store",
                 str(tmp_path / "s.sqlite"), "--output", str(tmp_path / "scores.csv")]  # fmt: skip
    assert main(arguments) == 0
    rows = (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith("id,entity,time,score,alert,score_amount,score_category,score_time_since_last,not_scored")
    assert len(rows) == len((folder / "events.csv").read_text(encoding="utf-8").splitlines())
    assert main(arguments) == 0
    assert "that came again" in capsys.readouterr().err
    assert len((tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()) == len(rows)


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--follow"], 2, "--follow goes with a file of events"),
        (["EVENTS", "--batch", "0"], 2, "batch (=0) must be at least 1"),
        (["EVENTS", "--lateness", "-1"], 2, "lateness (=-1.0) must be at least 0"),
        (["nowhere.jsonl"], 1, "No such file or directory: 'nowhere.jsonl'"),
        (["EVENTS", "--store", "nowhere/s.sqlite"], 1, "there is no folder 'nowhere' for the store"),
        (["EVENTS", "--output", "nowhere/scores.jsonl"], 1, "cannot write 'nowhere/scores.jsonl'"),
        (["EVENTS", "--reasons", "some"], 2, "see gapcell stream --help"),
    ],
)
def test_misuse_is_one_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    words: list[str], status: int, says: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    words = [str(folder / "events.jsonl") if word == "EVENTS" else word for word in words]
    assert main(["stream", str(folder / "model"), *words]) == status
    said = capsys.readouterr().err
    assert says in said
    assert said.startswith("gapcell: ")
    assert said.count("\n") == 1


def test_the_store_of_another_model_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "s.sqlite"
    words = [str(folder / "events.jsonl"), "--id", "id", "--store", str(store), "--output", str(tmp_path / "a.jsonl")]
    assert main(["stream", str(folder / "model"), *words]) == 0
    description = json.loads((folder / "model" / "detector.json").read_text(encoding="utf-8"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "detector.safetensors").write_bytes((folder / "model" / "detector.safetensors").read_bytes())
    (other / "detector.json").write_text(json.dumps(description | {"threshold": 3.0}), encoding="utf-8")
    capsys.readouterr()
    assert main(["stream", str(other), *words]) == 1
    assert "belongs to the model" in capsys.readouterr().err
    assert (tmp_path / "a.jsonl").stat().st_size
