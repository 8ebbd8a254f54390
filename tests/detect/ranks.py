"""One process of a training in several; test_distributed.py starts them, and imports this to compare.

Its arguments: what to do ("exchange", "fit", or both with a comma), the folder in which to leave what came of it, and
the epoch after which rank 1 kills itself, 0 for none. Who it is among the others is in the environment, where torchrun
puts it.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from safetensors.torch import save_file

from detect.conftest import QUICK, purchases
from gapcell.detect import FitOptions, fit, read_table
from gapcell.detect.batch import Batch
from gapcell.detect.distributed import Ranks, joined
from gapcell.detect.fitting import cut_time, material_of
from gapcell.detect.judging import HeldOut
from gapcell.detect.marginal import starting_point
from gapcell.detect.material import Material
from gapcell.detect.refusals import ProcessError
from gapcell.detect.series import batches
from gapcell.detect.streams import streams_of
from gapcell.detect.training import Course, class_balance, loss_of, train_epoch, training_chunks

OPTIONS = replace(QUICK, epochs=6, window=2)
CASES = {
    f"{encoder}{', labels' if supervised else ''}": replace(OPTIONS, encoder=encoder, supervised=supervised)
    for encoder in ("convlstm", "lstm")
    for supervised in (False, True)
}
BATCHES = (700, 64)  # places: whole series and some chunks beside each other; batches of one or two chunks


def ragged() -> pl.DataFrame:
    """Purchases with missing values, of customers with few or many; few of the labels are known."""
    few, many = purchases(customers=40, events=20), purchases(customers=2, events=400, seed=1)
    many = many.with_columns(customer=pl.format("many {}", "customer"))
    frame = pl.concat([few.sample(fraction=0.4, seed=2), many])
    draws = np.random.default_rng(3).random(frame.height)
    return frame.with_columns(fraud=pl.Series([draw < 0.1 if draw < 0.3 else None for draw in draws.tolist()]))


def material(options: FitOptions) -> Material:
    table = read_table(ragged(), label="fraud")
    known = ~np.isnan(table.label.cast(float).fill_null(np.nan).to_numpy()) if options.supervised else None
    return material_of(table, streams_of(table, None)[0], cut_time(table, options), options, known)


def course_of(its: Material, options: FitOptions) -> Course:
    return Course.start(its, starting_point(its.heads, its.targets.value), options.encoder, options)


def gradients(options: FitOptions, places: int, ranks: Ranks) -> dict[str, torch.Tensor]:
    """Of every batch of so many places, summed over ranks; what no rank has is left out."""
    its = material(options)
    course = course_of(its, options)
    chunks = training_chunks(its, options, course.network.window)
    found = {}
    for number, group in enumerate(batches(chunks, places)):
        batch = Batch.of(its, chunks.at(group), course.draws).share(ranks)
        course.network.zero_grad()
        if len(batch.chunks):
            loss_of(course.network, its, batch, class_balance(its, chunks))[0].backward()
        ranks.sum_gradients(list(course.network.parameters()))
        parameters = course.network.named_parameters()
        found |= {f"{number} {name}": each.grad for name, each in parameters if each.grad is not None}
    return found


def epoch(options: FitOptions, ranks: Ranks) -> list[float]:
    """What training and held-out events say of an epoch of batches that are smaller than there are ranks."""
    its = material(options)
    course = course_of(its, options)
    chunks = training_chunks(its, options, course.network.window)
    train = train_epoch(course, its, chunks, batches(chunks, BATCHES[1]), ranks)
    return [train, HeldOut.of(its, options).judge(course.network, its, ranks=ranks).value]


def refusal(ranks: Ranks) -> str:
    """What a rank says that was given other options than the first."""
    try:
        fit(read_table(ragged(), label="fraud"), replace(OPTIONS, seed=ranks.rank), ranks=ranks)
    except ProcessError as error:
        return str(error)
    return "nothing"


def exchange(folder: Path, ranks: Ranks) -> None:
    found = {
        f"{case}, {places}: {name}": gradient
        for case, options in CASES.items()
        for places in BATCHES
        for name, gradient in gradients(options, places, ranks).items()
    }
    save_file(found, folder / f"gradients-{ranks.rank}.safetensors")
    said = [repr(value) for value in epoch(CASES["convlstm"], ranks)]
    said += [ranks.from_first(f"from {ranks.rank}".encode()).decode(), refusal(ranks)]
    (folder / f"said-{ranks.rank}.txt").write_text("\n".join(said), encoding="utf-8")


def train(folder: Path, ranks: Ranks, killed_after: int) -> None:
    """Fit, and save what each rank has."""

    def watch(stage: str, done: int, total: int, message: str = "") -> None:
        if stage == "network":
            with (folder / f"epochs-{ranks.rank}.txt").open("a", encoding="utf-8") as file:
                file.write(f"{done}\n")
            if ranks.rank == 1 and done == killed_after:
                os.kill(os.getpid(), signal.SIGKILL)

    table = read_table(ragged().drop("fraud"))
    detector = fit(table, CASES["convlstm"], progress=watch, checkpoint=folder / "course", ranks=ranks)
    detector.save(folder / f"detector-{ranks.rank}")


def main(tasks: str, folder: Path, killed_after: int) -> None:
    torch.set_num_threads(1)
    with joined(60) as ranks:
        if "exchange" in tasks:
            exchange(folder, ranks)
        if "fit" in tasks:
            train(folder, ranks, killed_after)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
