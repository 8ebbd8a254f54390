"""What is left of a stream after kills, a full disk, damaged rows and slow readers: every event once, none lost."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from pathlib import Path

import polars as pl
import pytest

from benchmarks.stream import faults
from benchmarks.stream.worker import SCORES, STORE
from gapcell.detect import Detector
from gapcell.stream import FileTarget, PipeTarget, Policy, SQLiteStore, run
from gapcell.stream.sources import BLOCK, BLOCKS_AHEAD, Descriptor
from gapcell.stream.store import Batch

from .conftest import purchases
from .streams_of_events import Place, as_lines

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are killed as POSIX has it")


@pytest.fixture(scope="module")
def events() -> pl.DataFrame:
    frame = purchases().sort("time")
    return frame.with_columns(id=pl.format("e{}", pl.int_range(frame.height)))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, detector: Detector, events: pl.DataFrame) -> list[dict]:
    """The scores of an undisturbed run."""
    place = Place(tmp_path_factory.mktemp("undisturbed"), detector)
    place.run(as_lines(events), id_column="id")
    return place.scores()


@pytest.fixture
def folder(tmp_path: Path, detector: Detector, events: pl.DataFrame) -> Path:
    faults.prepared(tmp_path, events, detector)
    return tmp_path


def test_kills_and_a_full_disk_lose_and_double_nothing(folder: Path, expected: list[dict]) -> None:
    with faults.worker(folder) as process:  # one for both, as it takes seconds to start
        assert faults.killed(process, folder, kills=8, seed=1) > 0
        assert faults.wrong(folder, expected) == []
        faults.fresh(folder)
        for said in faults.starved(process, folder, [20_000, 60_000, 90_000, 200_000]):
            assert "the same command goes on" in said
        assert faults.wrong(folder, expected) == []


@pytest.mark.parametrize("broken", ["doubled", "lost", "cut", "scored otherwise", "mixed"])
def test_what_is_wrong_is_found(folder: Path, detector: Detector, expected: list[dict], broken: str) -> None:
    Place(folder, detector).run_on(folder / "events.jsonl", id_column="id")
    lines = (folder / SCORES).read_bytes().splitlines(keepends=True)
    changed = {
        "doubled": [*lines, lines[-1]],
        "lost": lines[1:],
        "cut": [*lines[:-1], lines[-1][:5]],
        "scored otherwise": [lines[0].replace(b'"score":', b'"score":7'), *lines[1:]],
        "mixed": [lines[1], lines[0], *lines[2:]],
    }[broken]
    (folder / SCORES).write_bytes(b"".join(changed))
    if broken == "cut":
        with pytest.raises(ValueError, match=r"Expecting|Unterminated|delimiter"):
            faults.wrong(folder, expected)
    else:
        assert faults.wrong(folder, expected)


def test_a_store_that_keeps_its_batch_after_it_is_written_doubles_events(
    folder: Path, expected: list[dict], detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: scores are written first, and a kill comes before they are kept."""
    kept = SQLiteStore.commit

    def late(store: SQLiteStore, batch: Batch) -> None:
        with (folder / SCORES).open("ab") as file:
            file.write(batch.standing.output)
        raise KeyboardInterrupt

    source = Place(folder, detector)
    monkeypatch.setattr(SQLiteStore, "commit", late)
    with pytest.raises(KeyboardInterrupt):
        source.run_on(folder / "events.jsonl", id_column="id")
    monkeypatch.setattr(SQLiteStore, "commit", kept)
    monkeypatch.setattr(FileTarget, "begin", lambda target, standing: os.lseek(target.descriptor, 0, os.SEEK_END))
    source.run_on(folder / "events.jsonl", id_column="id")
    assert any("came twice" in problem for problem in faults.wrong(folder, expected))


def test_damaged_rows_are_put_aside_and_named_and_the_rest_goes_on(
    tmp_path: Path, detector: Detector, events: pl.DataFrame, expected: list[dict]
) -> None:
    place, lines = Place(tmp_path, detector), as_lines(events)
    place.run(lines[:600], id_column="id")
    connection = sqlite3.connect(place.store)
    row = bytearray(connection.execute("SELECT row FROM series WHERE key = 'c007'").fetchone()[0])
    row[40] ^= 1
    connection.execute("UPDATE series SET row = ? WHERE key = 'c007'", [bytes(row)])
    connection.commit()
    connection.close()
    counts = place.run(lines, id_column="id")
    assert [notice for notice in counts.notices if "'c007' is damaged" in notice and "begins anew" in notice]
    assert len(counts.notices) == 1
    entity = dict(zip(events["id"], events["customer"], strict=True))
    for found, wanted in zip(place.scores(), expected, strict=True):
        if entity[found["id"]] != "c007":
            assert faults.alike(found["score"], wanted["score"])
    connection = sqlite3.connect(place.store)
    assert connection.execute("SELECT key, row FROM damaged").fetchall() == [("c007", bytes(row))]
    connection.close()


def test_a_row_that_stands_under_another_key_is_damaged(
    tmp_path: Path, detector: Detector, events: pl.DataFrame
) -> None:
    place = Place(tmp_path, detector)
    place.run(as_lines(events)[:600], id_column="id")
    connection = sqlite3.connect(place.store)
    connection.execute("UPDATE series SET (row, checksum) = (SELECT row, checksum FROM series WHERE key = 'c001') "
                       "WHERE key = 'c002'")  # fmt: skip
    connection.commit()
    connection.close()
    store = SQLiteStore(place.store)
    store.begin(detector.identity)
    fetched = store.fetch(["e1", "new"], [["c001", "c002", "c003"]])
    store.close()
    assert fetched.damaged == ((0, "c002"),)
    assert set(fetched.rows[0]) == {"c001", "c003"}
    assert fetched.seen == {"e1"}


def test_nothing_of_a_batch_that_cannot_be_kept_is_kept(
    tmp_path: Path, detector: Detector, events: pl.DataFrame
) -> None:
    place, lines = Place(tmp_path, detector), as_lines(events)
    place.run(lines[:300], id_column="id")
    store = SQLiteStore(place.store)
    standing = store.begin(detector.identity)
    assert standing is not None
    with pytest.raises(Exception, match="UNIQUE constraint failed"):
        store.commit(Batch(["new", "e1"], [{"c001": b"something"}], standing))
    fetched = store.fetch(["new", "e1"], [["c001"]])
    store.close()
    assert fetched.seen == {"e1"}
    assert fetched.rows[0]["c001"] != b"something"


def test_a_slow_reader_stops_the_reading(tmp_path: Path, detector: Detector, events: pl.DataFrame) -> None:
    """Nobody takes the scores: of a long input only so much is read as a bounded queue holds."""
    lines = ("\n".join(as_lines(events)) + "\n").encode()
    source = tmp_path / "long"
    copies = 60 * BLOCKS_AHEAD * BLOCK // len(lines)
    source.write_bytes(lines * copies)
    descriptor = os.open(source, os.O_RDONLY)
    reading, writing = os.pipe()
    stop = threading.Event()
    policy = Policy(id_column=None, most=100, wait=0.0)
    work = threading.Thread(target=quietly, args=(
        detector, SQLiteStore(tmp_path / STORE), Descriptor(descriptor), PipeTarget(writing), policy, stop,
    ))  # fmt: skip
    work.start()
    before = -1
    while (now := os.lseek(descriptor, 0, os.SEEK_CUR)) != before or now == 0:
        before = now
        threading.Event().wait(0.5)
    assert now <= (BLOCKS_AHEAD + 8) * BLOCK < len(lines) * copies / 20
    stop.set()
    os.close(reading)
    work.join(20)
    assert not work.is_alive()
    os.close(writing)


def quietly(detector: Detector, store: SQLiteStore, source: Descriptor, target: PipeTarget, policy: Policy,
            stop: threading.Event) -> None:  # fmt: skip
    """A run whose reader goes away at the end."""
    from gapcell.stream import TargetError

    with pytest.raises(TargetError):
        run(detector, store, source, target, policy, stop=stop)


def test_another_process_is_refused_until_the_first_has_ended(folder: Path, expected: list[dict]) -> None:
    import subprocess

    holder = (
        "import sys; from gapcell.stream import SQLiteStore; store = SQLiteStore(sys.argv[1]); "
        "store.begin(sys.argv[2]); print('held', flush=True); sys.stdin.read()"
    )
    detector = Detector.load(folder / "model")
    process = subprocess.Popen([sys.executable, "-c", holder, str(folder / STORE), detector.identity],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert process.stdout.readline() == "held\n"
    with pytest.raises(Exception, match="another process works with"):
        Place(folder, detector).run_on(folder / "events.jsonl", id_column="id")
    process.kill()
    process.communicate()
    Place(folder, detector).run_on(folder / "events.jsonl", id_column="id")
    assert faults.wrong(folder, expected) == []
