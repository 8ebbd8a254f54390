"""A fitted detector on Apache Spark: tables that are larger than one machine, and streams with a state for each entity.

>>> from gapcell import spark as gapcell_spark                            # doctest: +SKIP
>>> gapcell_spark.score_table(events, "model", keep=["id"]).where("alert")
"""

from __future__ import annotations

from gapcell import extras

try:
    import pyspark as _pyspark  # noqa: F401 # for its absence to be said here
except ModuleNotFoundError as error:
    raise extras.answered(error, "gapcell.spark", "spark") from None

from gapcell.spark.stream import score_stream
from gapcell.spark.table import score_table

__all__ = ["score_stream", "score_table"]
