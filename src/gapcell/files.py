"""Files that appear whole or not at all, and JSON of files that nobody vouches for."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

__all__ = ["check_writable", "parse_json", "replacing"]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside `path` to write to, and renames it to `path` when the block ends well.

    When the block raises, or is interrupted, the temporary file is deleted and what `path` held before stays as it was.
    The temporary name has the same suffix; a link is followed, so that it goes on pointing to the file.

    Raises:
        OSError: as `check_writable`.
    """
    check_writable(path)
    target = Path(path).resolve()
    temporary = target.with_name(f".{target.stem}-{secrets.token_hex(4)}{target.suffix}")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: str | Path) -> None:
    """Refuses, before any work is done, a path that no file can be renamed to.

    Raises:
        FileNotFoundError: its folder does not exist.
        FileExistsError: there is something other than a file, such as a folder or a device.
        PermissionError: its folder cannot be written to.
    """
    target = Path(path).resolve()
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {str(path)!r}: there is no folder {str(target.parent)!r}; make it first")
    if target.exists() and not target.is_file():
        raise FileExistsError(f"cannot write {str(path)!r}: it is not a file; give the name of a file")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write {str(path)!r}: no permission to write in {str(target.parent)!r}")


def parse_json(contents: bytes | str) -> object:
    """The value of a JSON text in UTF-8, NaN and infinity refused.

    Raises:
        ValueError: it is not JSON, is nested too deep, or has numbers that JSON has not.
    """

    def refuse(word: str) -> NoReturn:
        raise ValueError(f"{word} is no number of JSON")

    try:
        text = contents.decode("utf-8") if isinstance(contents, bytes) else contents
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
