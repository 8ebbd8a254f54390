"""A fitted detector on Apache Spark: tables that are larger than one machine, and streams with a state for each entity.

>>> from gapcell import spark as gapcell_spark                            # doctest: +SKIP
>>> gapcell_spark.score_table(events, "model", keep=["id"]).where("alert")
"""

from __future__ import annotations

try:
    import pyspark as _pyspark  # noqa: F401 # for its absence to be said here
except ModuleNotFoundError as error:
    if error.name != "pyspark":
        raise
    raise ImportError("gapcell.spark needs Spark for Python: pip install 'gapcell[spark]', and Java 17") from error

from gapcell.spark.stream import score_stream
from gapcell.spark.table import score_table

__all__ = ["score_stream", "score_table"]
