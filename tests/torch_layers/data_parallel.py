"""One process of a DistributedDataParallel run; tests/torch_layers/test_parallel.py starts two.

Its arguments: the folder where the processes meet and leave their gradients, its rank, the number of processes.
"""

import datetime
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from gapcell.torch import ConvLSTM1d


def batch(rank):
    """This rank's rows; on rank 1 nothing is observed, and NaN says so."""
    torch.manual_seed(100 + rank)
    x, mask = torch.randn(3, 5, 2, 4), torch.rand(3, 5) < 0.6
    mask &= rank != 1
    return x.masked_fill(~mask[..., None, None], torch.nan), mask


def make_layer():
    torch.manual_seed(0)
    return ConvLSTM1d(2, 3, 3, num_layers=2, bidirectional=True)


def loss_of(layer, x, mask):
    output, (h, c) = layer(x, mask=mask)
    return output.square().sum() + h.sin().sum() + c.sin().sum()


def main(folder, rank, world_size):
    torch.set_num_threads(1)
    timeout = datetime.timedelta(seconds=60)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size, timeout=timeout)
    layer = DistributedDataParallel(make_layer())
    for _ in range(2):  # a rank whose gradients did not come would hang in the second pass at the latest
        layer.zero_grad()
        loss_of(layer, *batch(rank)).backward()
    gradients = {name: parameter.grad for name, parameter in layer.module.named_parameters()}
    torch.save(gradients, Path(folder, f"gradients-{rank}.pt"))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
