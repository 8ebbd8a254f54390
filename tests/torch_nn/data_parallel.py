"""One process of a DistributedDataParallel run; tests/torch_nn/test_parallel.py starts two.

Its arguments: the folder where the processes meet and leave what they found, its rank, the number of processes.
"""

import datetime
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gapcell.torch import ConvLSTM1d
from gapcell.torch import nn as gnn

ROWS = (3, 2)  # of each rank


def batch():
    """Everybody's rows: much observed on rank 0, little on rank 1, nothing in the second of its micro-batches."""
    generator = torch.Generator().manual_seed(100)
    x, target = torch.randn(2, sum(ROWS), 4, 2, 5, generator=generator, dtype=torch.float64)
    mask = torch.rand(x.shape, generator=generator) < 0.8
    mask[ROWS[0] :] &= torch.rand(mask[ROWS[0] :].shape, generator=generator) < 0.3
    mask[-1] = False
    return x.masked_fill(~mask, torch.nan), target.masked_fill(~mask, torch.nan), mask


def part(rank):
    return slice(sum(ROWS[:rank]), sum(ROWS[: rank + 1]))


def make_model(synchronize=True):
    torch.manual_seed(0)
    options = {"synchronize": synchronize, "dtype": torch.float64}
    return gnn.MaskedSequential(
        gnn.MaskedConv1d(2, 3, 3, padding=1, renormalize=True, dtype=torch.float64),
        gnn.MaskedBatchNorm1d(3, **options),
        nn.Tanh(),
        gnn.MaskedInstanceNorm1d(3, track_running_stats=True, **options),
        ConvLSTM1d(3, 3, 3, dtype=torch.float64),
        gnn.MaskedBatchNorm1d(3, momentum=None, **options),
        gnn.MaskedConv1d(3, 2, 1, dtype=torch.float64),
    )


def train(model, x, target, mask, count):
    """One pass; what it gives, what stands in the gradients and in the buffers."""
    y, _ = model(x, mask)
    gnn.MaskedMSELoss()(y, target, mask, count=count).backward()
    plain = getattr(model, "module", model)
    found = {f"gradient of {name}": parameter.grad for name, parameter in plain.named_parameters()}
    return {"y": y.detach(), **found, **{name: buffer.clone() for name, buffer in plain.named_buffers()}}


def accumulate(model, x, target, mask):
    """Row by row in eval mode, where no row reads another: the gradients after all of them."""
    loss = gnn.MaskedMSELoss("samples")
    model.eval()
    model.zero_grad()
    rows = [slice(row, row + 1) for row in range(len(x))]
    total = gnn.global_count(*(loss.count(target[row], mask[row]) for row in rows))
    for row in rows:
        loss(model(x[row], mask[row])[0], target[row], mask[row], count=total).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    for gradient in gradients:  # what DistributedDataParallel does
        dist.all_reduce(gradient)
        gradient /= dist.get_world_size()
    return gradients


def main(folder, rank, world_size):
    torch.set_num_threads(1)
    timeout = datetime.timedelta(seconds=60)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size, timeout=timeout)
    x, target, mask = (values[part(rank)] for values in batch())
    count = gnn.global_count(gnn.MaskedMSELoss().count(target, mask))
    found = {
        name: train(DistributedDataParallel(make_model(synchronize)), x, target, mask, count)
        for name, synchronize in (("together", True), ("alone", False))
    }
    found["accumulated"] = accumulate(make_model(), x, target, mask)
    torch.save(found, Path(folder, f"found-{rank}.pt"))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
