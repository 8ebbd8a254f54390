"""Which columns of a data frame of Spark's a detector reads, which are handed on, and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    BinaryType,
    BooleanType,
    DataType,
    DateType,
    DayTimeIntervalType,
    DoubleType,
    NullType,
    NumericType,
    StringType,
    StructField,
    StructType,
    TimestampNTZType,
    TimestampType,
)

from gapcell.detect import Detector, TableError
from gapcell.detect.columns import as_kind, kind_of, require, require_fitted
from gapcell.detect.events import entity_column
from gapcell.detect.frames import as_polars
from gapcell.detect.score_frame import SCORE
from gapcell.detect.state import Schema
from gapcell.detect.times import parse_times

SESSION_ZONE, UTC = "spark.sql.session.timeZone", ("UTC", "Etc/UTC", "GMT", "Z", "+00:00")

POLARS: dict[type[DataType], pl.datatypes.DataTypeClass] = {  # beside numbers; what is not here no detector reads
    BinaryType: pl.Binary,
    BooleanType: pl.Boolean,
    DateType: pl.Date,
    DayTimeIntervalType: pl.Duration,
    NullType: pl.String,
    StringType: pl.String,
    TimestampNTZType: pl.Datetime,
    TimestampType: pl.Datetime,
}


@dataclass(frozen=True)
class Layout:
    """The columns that go to the workers, which are called by their numbers there.

    Names are the caller's and may hold dots or other signs that Spark reads as something else.

    Attributes:
        carried: names of the columns, in the order of their numbers.
        read: (the detector's name, number) of each column that the detector reads.
        entity: number of the column of the entities.
        time: of the times.
        kept: of the columns that are handed on.
        order: of those by which events of one moment are ordered.
    """

    carried: tuple[str, ...]
    read: tuple[tuple[str, int], ...]
    entity: int
    time: int
    kept: tuple[int, ...]
    order: tuple[int, ...]

    @classmethod
    def of(
        cls,
        df: DataFrame,
        detector: Detector,
        roles: dict[str, str | None],
        keep: str | Sequence[str] = (),
        order: str | Sequence[str] = (),
    ) -> Layout:
        """What of `df` a detector reads.

        Args:
            df: the events.
            detector: the fitted one.
            roles: the columns of `df` that are entity, time and label; named as in the fit where None.
            keep: columns to hand on.
            order: columns by which events of one moment are ordered.

        Raises:
            TableError: a column is missing, is named twice, or is of a type that the detector cannot read.
            ValueError: the detector cannot be run entity by entity, or a column that is kept has a name of the result.
        """
        refuse_further_keys(detector.schema)
        sources = sources_of(detector, roles)
        keep, order = ((names,) if isinstance(names, str) else tuple(names) for names in (keep, order))
        refuse_missing(df.columns, detector.schema, sources, (*keep, *order))
        refuse_types(df, detector.schema, sources)
        refuse_names(keep, detector)
        carried = tuple(dict.fromkeys([*sources.values(), *keep, *order]))
        number = {name: place for place, name in enumerate(carried)}
        return cls(
            carried=carried,
            read=tuple((name, number[source]) for name, source in sources.items()),
            entity=number[sources[detector.schema.entity]],
            time=number[sources[detector.schema.time]],
            kept=tuple(number[name] for name in keep),
            order=tuple(number[name] for name in order),
        )

    def select(self, df: DataFrame) -> DataFrame:
        """The columns of `df` that go to the workers, called as `column` says."""
        return df.select(*(quoted(name).alias(column(number)) for number, name in enumerate(self.carried)))

    def result(self, df: DataFrame, detector: Detector) -> StructType:
        """The columns of the result: those of `score_frame`, entity and time as `df` has them, and what is kept."""
        types = {field.name: field.dataType for field in df.schema.fields}
        return StructType([
            StructField("entity", types[self.carried[self.entity]]),
            StructField("time", types[self.carried[self.time]]),
            StructField("score", DoubleType()),
            StructField("alert", BooleanType()),
            *(StructField(name, DoubleType()) for name in part_names(detector)),
            StructField("not_scored", StringType()),
            *(StructField(self.carried[number], types[self.carried[number]]) for number in self.kept),
        ])  # fmt: skip

    def events(self, frame: Any, schema: Schema) -> pl.DataFrame:
        """The events as a detector reads them.

        Args:
            frame: the carried columns, of pyarrow or pandas.
            schema: the columns the detector was fitted on.
        """
        carried = as_polars(frame)
        found = carried.select(pl.col(column(number)).alias(name) for name, number in self.read)
        categories = [value.name for value in schema.columns if value.kind == "categorical"]
        text = [name for name in categories if found[name].dtype == pl.String]
        # Text that is nearly all numbers is refused as mistyped: a guess about a whole column, for which a part of it
        # is no ground, and which is not made of categories.
        found = found.with_columns(pl.col(text).cast(pl.Categorical))
        if isinstance(found[schema.time].dtype, pl.Datetime):
            found = found.with_columns(pl.col(schema.time).dt.replace_time_zone(None))  # as the session shows it
        return found


def column(number: int) -> str:
    """What a carried column is called at the workers."""
    return f"column_{number}"


def quoted(name: str) -> Column:
    """A column of this very name, whatever signs it holds."""
    return F.col("`" + name.replace("`", "``") + "`")


def part_names(detector: Detector) -> list[str]:
    """Names of the columns with each feature's surprise, as `score_frame` has them."""
    return [SCORE + feature.name for feature in detector.features if feature.scored]


def sources_of(detector: Detector, roles: dict[str, str | None]) -> dict[str, str]:
    """The detector's name of each column that it reads, and the data frame's."""
    schema = detector.schema
    sources = {schema.entity: roles["entity"] or schema.entity, schema.time: roles["time"] or schema.time}
    if detector.options.label_delay is not None and schema.label is not None:
        sources[schema.label] = roles["label"] or schema.label
    return sources | {value.name: value.name for value in schema.columns}


def refuse_further_keys(schema: Schema) -> None:
    """Refuse a detector whose scores need more than the events of one entity."""
    if schema.others:
        raise ValueError(
            f"the detector also groups events by {schema.others[0]!r}: their scores need events of other entities, "
            f"which lie in other partitions where events are parted by {schema.entity!r}. Fit a detector with one "
            "entity column for Spark, or score this one's table on one machine"
        )


def refuse_missing(has: list[str], schema: Schema, sources: dict[str, str], others: tuple[str, ...]) -> None:
    """Refuse a data frame that lacks a column, or in which one is named twice."""
    frame = pl.DataFrame(schema=has)
    roles = {schema.entity: "entity", schema.time: "time", schema.label: "label"}
    for name, source in sources.items():
        if name in roles:
            require(frame, source, roles[name])
    require_fitted([value.name for value in schema.columns], has)
    for name in others:
        require(frame, name, "further")
    twice = [source for source in sources.values() if list(sources.values()).count(source) > 1]
    if twice:
        raise TableError(f"column {twice[0]!r} is named twice among entity, time, label and values: each needs its own")


def refuse_types(df: DataFrame, schema: Schema, sources: dict[str, str]) -> None:
    """Refuse columns that cannot be read whatever they hold; what they hold is looked at where it is scored."""
    types = {field.name: field.dataType for field in df.schema.fields}
    entity_column(empty(sources[schema.entity], types))
    parse_times(empty(sources[schema.time], types))
    for value in schema.columns:
        kind_of(empty(value.name, types))
        as_kind(empty(value.name, types), value.kind)
    zone = df.sparkSession.conf.get(SESSION_ZONE)
    instants = isinstance(types[sources[schema.time]], TimestampType)
    if instants and schema.time_form.endswith("turned into UTC") and zone not in UTC:
        raise TableError(
            f"the detector was fitted on times turned into UTC, and this session shows those of column "
            f"{sources[schema.time]!r} in {zone}: spark.conf.set({SESSION_ZONE!r}, 'UTC')"
        )


def empty(name: str, types: dict[str, DataType]) -> pl.Series:
    """A column without rows, of the type that a worker sees."""
    number = pl.Float64 if isinstance(types[name], NumericType) else pl.Object
    return pl.Series(name, [], dtype=POLARS.get(type(types[name]), number))


def refuse_names(keep: tuple[str, ...], detector: Detector) -> None:
    """Refuse kept columns that would stand beside a column of the result of the same name."""
    taken = {"entity", "time", "score", "alert", "not_scored", *part_names(detector)}
    for place, name in enumerate(keep):
        if name in taken or name in keep[:place]:
            raise ValueError(f"keep (={list(keep)!r}) names {name!r}, which the result has already: rename it before "
                             "(df.withColumnRenamed)" )  # fmt: skip
