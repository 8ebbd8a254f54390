"""A file appears whole or not at all; JSON is JSON."""

import os
from pathlib import Path

import pytest

from gapcell.files import check_writable, parse_json, replacing


def test_a_file_takes_its_name_when_the_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".csv"
        assert temporary.parent == tmp_path  # on the same file system, or renaming would be copying
        assert not path.exists()
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.csv"]


def write_half(path: Path, error: type[BaseException]) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_what_was_there_survives_a_failure(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")
    with pytest.raises(error):
        write_half(path, error)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.csv"]


def test_a_link_goes_on_pointing_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    real, link = tmp_path / "elsewhere" / "real.csv", tmp_path / "link.csv"
    real.write_text("old")
    link.symlink_to(real)
    with replacing(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_a_new_file_has_the_permissions_of_new_files(tmp_path: Path) -> None:
    with replacing(tmp_path / "out.csv") as temporary:
        temporary.write_text("new")
    (tmp_path / "plain.csv").write_text("new")
    assert (tmp_path / "out.csv").stat().st_mode == (tmp_path / "plain.csv").stat().st_mode


def test_places_that_cannot_be_written_are_refused_beforehand(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        check_writable(tmp_path / "nowhere" / "out.csv")
    with pytest.raises(FileExistsError, match="it is not a file"):
        check_writable(tmp_path / "folder")
    with pytest.raises(FileExistsError, match="it is not a file"):
        check_writable(os.devnull)  # renaming a file to it would take the device away
    with pytest.raises(FileExistsError, match="it is not a file"), replacing(os.devnull):
        raise AssertionError("the block must not be entered")


def test_json_is_read_as_text_or_bytes() -> None:
    assert parse_json('{"a": [1, 2.5, null, "\u00e9"]}') == parse_json('{"a": [1, 2.5, null, "\u00e9"]}'.encode())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ('{"a": NaN}', "NaN is no number of JSON"),
        ("-Infinity", "-Infinity is no number of JSON"),
        ("[" * 100_000, "it is nested too deep"),
        (b"\xff", "invalid start byte"),
        ("1" * 10_000, "integer string conversion"),
    ],
)
def test_what_is_no_json_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)
