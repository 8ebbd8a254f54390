"""The command that makes up a table."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from gapcell.commands.words import told
from gapcell.refusal import MISUSED, Refusal, check_outputs

if TYPE_CHECKING:
    import polars as pl


def simulate(
    out: Path,
    /,
    *,
    customers: int = 1000,
    days: int = 120,
    seed: int = 0,
    fraud_rate: float = 0.003,
    missing_rate: float = 0.03,
    withholding_rate: float = 0.15,
    silence_rate: float = 0.05,
) -> None:
    """Make up a labelled table of card transactions with fraud and gaps, of any size.

    About half an event a customer and day. The same numbers give the same file. To try the detector on it, leave out
    the kind of fraud, which gives the label away:
    gapcell detect cards.parquet --label label --value amount category distance online

    Example: gapcell simulate cards.parquet --customers 5000 --days 90

    Args:
        out: the table, .parquet or .csv. Replaced when it exists.
        customers: number of customers.
        days: days from 2024-01-01 on, 30 to 3650.
        seed: another seed is another population.
        fraud_rate: share of the transactions that are fraud, up to 0.1.
        missing_rate: share of values missing at random, up to 0.9.
        withholding_rate: share of customers whose bank often withholds values.
        silence_rate: share of regular customers who fall silent once.
    """
    check_outputs({"OUT": out}, inputs=[], model=None)
    with told():
        from gapcell.detect.simulate import CUSTOMERS_PER_CHUNK, Simulation
        from gapcell.terminal import progress, say, show_files

        try:
            simulation = Simulation(customers, days, seed, fraud_rate, missing_rate, withholding_rate, silence_rate)
        except ValueError as error:
            raise Refusal(str(error).replace("`", ""), MISUSED) from None
        written = Counter()
        with progress() as shown:

            def count(chunk: pl.DataFrame) -> None:
                written.update(chunks=1, events=chunk.height, labelled=int(chunk["label"].sum()))
                shown("simulation", written["chunks"], -(-customers // CUSTOMERS_PER_CHUNK))

            simulation.write(out, on_chunk=count)
        say(f"{written['events']:,} events, {written['labelled']:,} of them labelled")
    show_files({"events": str(out)})
