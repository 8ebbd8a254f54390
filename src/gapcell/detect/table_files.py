"""CSV and Parquet files into polars frames; whatever is wrong with a file becomes one sentence."""

from __future__ import annotations

import io
from importlib import metadata
from pathlib import Path

import polars as pl

from gapcell.detect.refusals import TableError, shown

CSV_SUFFIXES = {".csv": None, ".tsv": "\t", ".txt": None}
PARQUET_SUFFIXES = {".parquet", ".pq"}
MISSING = ["", "NA", "N/A", "n/a", "null", "NULL", "None", "NaN", "nan"]
COMPRESSED = {
    b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz",
}  # fmt: skip
MOST_ROWS = 50_000_000  # a small Parquet file can claim billions of equal rows
LIFETIMES = "pip install --no-deps lifetimes==0.11.3"


def read_frame(path: Path) -> pl.DataFrame:
    """Read a .csv, .tsv, .txt or .parquet file.

    Raises:
        TableError: when it is not there, is damaged, or is not of this kind.
    """
    suffix = path.suffix.lower()
    if suffix not in CSV_SUFFIXES and suffix not in PARQUET_SUFFIXES:
        raise TableError(f"{path} ends in {shown(suffix)}: give a .csv, .tsv or .parquet file")
    try:
        return read_parquet(path) if suffix in PARQUET_SUFFIXES else read_csv(path, CSV_SUFFIXES[suffix])
    except FileNotFoundError:
        raise TableError(f"there is no file {path}") from None
    except OSError as error:
        raise TableError(f"{path} cannot be read: {error.strerror or error}") from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise TableError(f"{path} cannot be read as {suffix[1:].upper()}: {first_line(error)}") from None


def first_line(error: BaseException) -> str:
    """What polars says, without its advice."""
    return str(error).strip().split("\n")[0].rstrip(".")[:200] or type(error).__name__


def read_parquet(path: Path) -> pl.DataFrame:
    """Read Parquet, after a look at how many rows it claims."""
    with path.open("rb"):  # polars' own message for a missing file is a page long
        pass
    rows = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
    if rows > MOST_ROWS:
        raise TableError(f"{path} holds {rows:,} rows: give at most {MOST_ROWS:,} at a time")
    return pl.read_parquet(path, glob=False, hive_partitioning=False)


def read_csv(path: Path, separator: str | None) -> pl.DataFrame:
    """Read CSV in UTF-8 with a header; the separator is the commonest of comma, semicolon and tab in the header."""
    contents = path.read_bytes()
    for magic, name in COMPRESSED.items():
        if contents.startswith(magic):
            raise TableError(f"{path} is compressed with {name}: unpack it first")
    try:
        header = contents.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0].decode("utf-8")
    except UnicodeDecodeError:
        raise TableError(f"{path} is not UTF-8 text: save it as UTF-8") from None
    if separator is None:
        separator = max(",;\t", key=header.count)
    try:
        refuse_doubled(path, contents, separator)
        return pl.read_csv(
            io.BytesIO(contents), separator=separator, infer_schema_length=None, null_values=MISSING, encoding="utf8"
        )
    except pl.exceptions.NoDataError:
        raise TableError(f"{path} is empty: a header and at least one row were expected") from None
    except pl.exceptions.ComputeError as error:
        if "utf-8" in str(error):
            raise TableError(f"{path} is not UTF-8 text: save it as UTF-8") from None
        raise


def refuse_doubled(path: Path, contents: bytes, separator: str) -> None:
    """Refuse two columns of one name, which polars would rename in silence."""
    if not contents.strip():
        return
    header = pl.read_csv(io.BytesIO(contents), separator=separator, has_header=False, infer_schema=False, n_rows=1)
    names = list(header.row(0)) if header.height else []
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise TableError(f"{path} has two columns named {shown(twice)}: rename one")


def read_cdnow() -> pl.DataFrame:
    """The CDNOW purchases in the installed wheel of `lifetimes`: customer_id, date, number_of_cds, dollar_value.

    Raises:
        TableError: when the wheel is not installed; the text carries the pip line.
    """
    try:
        files = metadata.files("lifetimes") or []
    except metadata.PackageNotFoundError:
        files = []
    path = next((Path(str(file.locate())) for file in files if file.name == "CDNOW_master.txt"), None)
    if path is None or not path.is_file():
        raise TableError(f"the table of the demo comes with the package lifetimes, which is not installed: {LIFETIMES}")
    text = path.read_text(encoding="ascii").replace("\x1a", "")  # DOS files may end in this character
    header, *lines = (line.split() for line in text.splitlines() if line.strip())
    if header != ["customer_id", "date", "number_of_cds", "dollar_value"] or any(len(line) != 4 for line in lines):
        raise TableError(f"the table of the demo is not as lifetimes 0.11.3 has it, reinstall it: {LIFETIMES}")
    frame = pl.DataFrame(lines, schema=header, orient="row")
    return frame.with_columns(pl.col("date", "number_of_cds").cast(pl.Int64), pl.col("dollar_value").cast(pl.Float64))
