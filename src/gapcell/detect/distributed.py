"""Several processes that train one network: each carries a share of every batch, and their gradients are summed.

torch's DistributedDataParallel is not used: it takes the mean over processes, and waits for every one in every backward
pass. Here a loss is divided by what the whole batch observes, so that gradients are to be summed, and a process may
have no part of a batch. One sum of one flat buffer does both.
"""

from __future__ import annotations

import datetime
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import distributed, nn

from gapcell.detect.refusals import ProcessError

TIMEOUT = 600.0  # seconds
LAUNCHED_WITH = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells every process


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; alone it exchanges nothing.

    What is exchanged stays on its device: of a CPU by gloo, of a GPU by NCCL.

    Attributes:
        rank: number of this process, from 0.
        count: of the processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.count == 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and tells of progress."""
        return self.rank == 0

    def share(self, lengths: np.ndarray) -> np.ndarray:
        """This rank's part of sequences of these lengths (n,): their numbers, ascending, int64.

        Each is some rank's, and the sums of any two ranks' lengths differ by at most the longest.
        """
        # dealt from the longest down, there and back again: what a rank gets too much of in one round, it gets too
        # little of in the next
        longest_first = np.argsort(-lengths, kind="stable")
        deal, place = np.divmod(np.arange(len(lengths)), self.count)
        taker = np.where(deal % 2 == 0, place, self.count - 1 - place)
        return np.sort(longest_first[taker == self.rank])

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Put the sum of all ranks' gradients in the place of each; one that no rank has stays None."""
        if self.alone:
            return
        gradients = [parameter.grad for parameter in parameters]
        had = [float(gradient is not None) for gradient in gradients]
        parts = [
            (torch.zeros_like(parameter) if gradient is None else gradient).flatten()
            for parameter, gradient in zip(parameters, gradients, strict=True)
        ]
        flat = torch.cat([*parts, parts[0].new_tensor(had)])
        with self.together():
            distributed.all_reduce(flat)
        *totals, holders = flat.split([*(part.numel() for part in parts), len(parts)])
        for parameter, total, holder in zip(parameters, totals, holders.tolist(), strict=True):
            parameter.grad = total.view_as(parameter) if holder else None

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum over all ranks of arrays of one shape."""
        if self.alone:
            return values
        total = torch.from_numpy(values.copy())
        with self.together():
            distributed.all_reduce(total)
        return total.numpy()

    def from_first(self, contents: bytes) -> bytes:
        """The first rank's contents; what the others give is ignored."""
        if self.alone:
            return contents
        size = torch.tensor(len(contents))
        with self.together():
            distributed.broadcast(size, 0)
            # bytearray: torch warns of memory that cannot be written to
            given = torch.frombuffer(bytearray(contents), dtype=torch.uint8) if self.first and contents else None
            sent = torch.empty(int(size), dtype=torch.uint8) if given is None else given
            distributed.broadcast(sent, 0)
        return sent.numpy().tobytes()

    def check_same(self, contents: str, what: str) -> None:
        """Refuse to go on where another rank has other contents.

        Raises:
            ProcessError: on every rank, saying what differs.
        """
        if self.alone:
            return
        own = torch.frombuffer(bytearray(hashlib.sha256(contents.encode()).digest()), dtype=torch.uint8)
        every = [torch.empty_like(own) for _ in range(self.count)]
        with self.together():
            distributed.all_gather(every, own)
        other = next((rank for rank, digest in enumerate(every) if not torch.equal(digest, every[0])), None)
        if other is not None:
            raise ProcessError(f"rank {other} has not {what} of rank 0: start every process with the same table, "
                               "options and versions, on machines of one kind")  # fmt: skip

    @contextmanager
    def together(self) -> Iterator[None]:
        """Turns what torch raises where another process does not take part into a `ProcessError`."""
        try:
            yield
        except RuntimeError as error:  # gloo and NCCL have no class of their own for it
            raise ProcessError(f"rank {self.rank} of {self.count} lost the others, one of which ended or took too long "
                               f"({reason(error)})") from error  # fmt: skip


ALONE = Ranks()


@contextmanager
def joined(timeout: float = TIMEOUT) -> Iterator[Ranks]:
    """The processes that torchrun has started, this one among them; this one alone where it was started plainly.

    Args:
        timeout: seconds that a process waits for the others, in the beginning and in each exchange.

    Raises:
        ProcessError: when the environment is not as torchrun makes it, or not all processes come in time.
    """
    ranks = launched()
    if ranks.alone:
        yield ranks
        return
    carrier = backend()
    try:
        distributed.init_process_group(carrier, timeout=datetime.timedelta(seconds=timeout))
    except RuntimeError as error:
        raise ProcessError(f"rank {ranks.rank} of {ranks.count} could not join the others within {timeout:g} seconds "
                           f"({reason(error)}): see that all are started, and that {os.environ['MASTER_ADDR']}:"
                           f"{os.environ['MASTER_PORT']} can be reached") from error  # fmt: skip
    try:
        yield ranks
    finally:
        distributed.destroy_process_group()


def launched() -> Ranks:
    """What the environment says of this process, without a word to the others.

    Raises:
        ProcessError: when it says only a part, or nonsense.
    """
    missing = [name for name in LAUNCHED_WITH if name not in os.environ]
    if "RANK" in missing and "WORLD_SIZE" in missing:
        return ALONE
    if missing:
        raise ProcessError(f"the environment says nothing of {' and '.join(missing)}: start the processes with "
                           f"torchrun, which sets {', '.join(LAUNCHED_WITH)}")  # fmt: skip
    said = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE")}
    rank, count = (int(value) if value.isdecimal() else -1 for value in said.values())
    if not 0 <= rank < count:
        raise ProcessError(f"RANK={said['RANK']} and WORLD_SIZE={said['WORLD_SIZE']} of the environment are no process "
                           "of several: start the processes with torchrun")  # fmt: skip
    return Ranks(rank, count)


def backend() -> str:
    """What carries the exchanges: a tensor of a CPU by gloo, and of a GPU, where there is one, by NCCL.

    Raises:
        ProcessError: when this PyTorch cannot.
    """
    if not distributed.is_available() or not distributed.is_gloo_available():
        raise ProcessError("this PyTorch is built without torch.distributed and gloo: train in one process, or install "
                           "a build that has them")  # fmt: skip
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and distributed.is_nccl_available() else "gloo"


def reason(error: RuntimeError) -> str:
    """The first line of what torch says, without the place in its sources."""
    line = str(error).partition("\n")[0]
    return line.rpartition("] ")[2].rstrip(".")
