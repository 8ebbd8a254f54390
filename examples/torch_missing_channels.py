"""How to mask single features of a ConvLSTM's input in PyTorch: a sensor that failed while the others went on.

32 series of 10 events, 3 features each, and a mask of the same shape. An event with any feature observed is read, its
missing features as zeros; an event with none is skipped.
"""

import torch

from gapcell.torch import ConvLSTM1d

torch.manual_seed(0)
x = torch.randn(32, 10, 3)
mask = torch.rand(32, 10, 3) < 0.5  # True: observed
x[~mask] = torch.nan  # as missing values often come

convlstm = ConvLSTM1d(input_size=3, hidden_size=64, kernel_size=3, window=8)
output, (h, c) = convlstm(x, mask=mask)
print("output", tuple(output.shape))
print("state", tuple(h.shape), tuple(c.shape))

# An event without any observed feature gives zeros; masked_output="hold" would repeat the output before it.
skipped = ~mask.any(-1)
print("events without any feature:", int(skipped.sum()))
print("their outputs are zero:", not output[skipped].any())

# What stands under the mask does not matter.
same, _ = convlstm(x.nan_to_num(1e30), mask=mask)
print("the same with 1e30 under the mask:", torch.equal(same, output))

# A missing feature reads as zero. To let the layer tell it from an observed zero, give it the mask as features too.
told = ConvLSTM1d(input_size=6, hidden_size=64, kernel_size=3, window=8)
presence = torch.ones_like(mask)  # the mask itself is always observed ...
presence[skipped] = False  # ... but an event without any feature stays skipped
output, _ = told(torch.cat([x, mask.float()], -1), mask=torch.cat([mask, presence], -1))
print("output with presence flags", tuple(output.shape))
