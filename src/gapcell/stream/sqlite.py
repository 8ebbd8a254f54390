"""The store of `gapcell stream`: one SQLite file in WAL mode, held by one process at a time."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gapcell.stream.store import Batch, Fetched, Standing, StoreError

FORMAT = "gapcell store, version 1"
TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE series (stream INTEGER, key TEXT, row BLOB, checksum INTEGER, PRIMARY KEY (stream, key)) WITHOUT ROWID;
CREATE TABLE scored (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE damaged (stream INTEGER, key TEXT, row BLOB, checksum INTEGER, noticed TEXT);
"""
PRAGMAS = """
PRAGMA trusted_schema = OFF;
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA temp_store = MEMORY;
"""  # with NORMAL a batch outlives the process at once, and the machine from the next checkpoint on


class SQLiteStore:
    """A `Store` in one file, beside which SQLite keeps a log while it is in use.

    Every row of a series carries a checksum over its key and contents. A damaged one is put into the table `damaged`.

    Args:
        path: the file; made when it is not there, but not its folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.connection: sqlite3.Connection | None = None

    def begin(self, model: str) -> Standing | None:
        """See `Store.begin`."""
        if not self.path.parent.is_dir():
            raise StoreError(f"there is no folder {str(self.path.parent)!r} for the store {self.path.name!r}: make it")
        with self.told():
            self.connection = sqlite3.connect(self.path, timeout=0, isolation_level=None)
            for pragma in PRAGMAS.strip().split("\n"):
                self.connection.execute(pragma)
            with self.transaction() as connection:
                tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
                if not tables:
                    for statement in TABLES.strip().split("\n"):
                        connection.execute(statement)
                    about = {"format": FORMAT, "model": model}
                    connection.executemany("INSERT INTO about VALUES (?, ?)", about.items())
                    return None
                return self.standing(connection, model)

    def standing(self, connection: sqlite3.Connection, model: str) -> Standing | None:
        """Where an old store stands; None where no batch was kept yet, so that nothing can have been written."""
        about = dict(connection.execute("SELECT name, value FROM about"))
        if about.get("format") != FORMAT:
            raise StoreError(f"{self.path} is of {str(about.get('format'))[:40]!r}, and this gapcell keeps {FORMAT!r}: "
                             "give another name")  # fmt: skip
        if about.get("model") != model:
            raise StoreError(f"{self.path} belongs to the model {str(about.get('model'))[:12]}, and this one is "
                             f"{model[:12]}: give that model, or the name of a new store")  # fmt: skip
        if "at" not in about:
            return None
        output, at = about.get("output"), about["at"]
        if not (isinstance(output, bytes) and isinstance(at, int)):
            raise StoreError(f"{self.path} is damaged: it does not say where the output stands")
        return Standing(output, at)

    def fetch(self, ids: Sequence[str], keys: Sequence[Sequence[str]]) -> Fetched:
        """See `Store.fetch`."""
        rows, damaged = [], []
        with self.transaction() as connection:
            wanted = "SELECT value FROM json_each(?)"
            found = connection.execute(f"SELECT id FROM scored WHERE id IN ({wanted})", [as_json(ids)])  # noqa: S608  # no text of the caller's is in it
            seen = frozenset(row[0] for row in found)
            for stream, names in enumerate(keys):
                query = f"SELECT key, row, checksum FROM series WHERE stream = ? AND key IN ({wanted})"  # noqa: S608  # likewise
                sound = {}
                for key, row, checksum in connection.execute(query, [stream, as_json(names)]).fetchall():
                    if isinstance(row, bytes) and checksum == checksum_of(stream, key, row):
                        sound[key] = row
                    else:
                        damaged.append((stream, key))
                rows.append(sound)
            for pair in damaged:
                connection.execute("INSERT INTO damaged SELECT stream, key, row, checksum, datetime() FROM series "
                                   "WHERE stream = ? AND key = ?", pair)  # fmt: skip
                connection.execute("DELETE FROM series WHERE stream = ? AND key = ?", pair)
        return Fetched(seen, tuple(rows), tuple(damaged))

    def commit(self, batch: Batch) -> None:
        """See `Store.commit`."""
        states = (
            (stream, key, row, checksum_of(stream, key, row))
            for stream, rows in enumerate(batch.rows)
            for key, row in rows.items()
        )
        about = {"output": batch.standing.output, "at": batch.standing.at}
        with self.transaction() as connection:
            connection.executemany("INSERT INTO scored VALUES (?)", ((each,) for each in batch.ids))
            connection.executemany("INSERT OR REPLACE INTO series VALUES (?, ?, ?, ?)", states)
            connection.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", about.items())

    def close(self) -> None:
        """See `Store.close`."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is executed in the block, or nothing."""
        connection = self.connection
        if connection is None:
            raise StoreError(f"{self.path} is not begun, or is closed")
        with self.told():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def told(self) -> Iterator[None]:
        """Turns what SQLite refuses into a `StoreError`."""
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise StoreError(f"another process works with {self.path}: wait for its end, or give another name"
                                 ) from None  # fmt: skip
            raise StoreError(f"the store {self.path} cannot be used: {error}; nothing of the last batch is kept, and "
                             "the same command goes on where it ended") from None  # fmt: skip


def as_json(texts: Sequence[str]) -> str:
    """Texts as SQLite's json_each takes them."""
    return json.dumps(list(texts), ensure_ascii=False)


def checksum_of(stream: int, key: str, row: bytes) -> int:
    """CRC-32 of a row and of whose it is."""
    return zlib.crc32(row, zlib.crc32(f"{stream} {key}".encode()))
