"""How to mask the input of a ConvLSTM in PyTorch: missing events in a batch of series.

32 series of 10 events, 3 features each. Events that were not observed are False in a (32, 10) mask; what stands in the
tensor in their place does not matter, not even NaN.
"""

import torch

from gapcell.torch import ConvLSTM1d

torch.manual_seed(0)
x = torch.randn(32, 10, 3)
mask = torch.rand(32, 10) < 0.7  # True: observed

# window=8: a series has no sites of its own, so each 8 events in a row are the sites of one recurrent step.
convlstm = ConvLSTM1d(input_size=3, hidden_size=64, kernel_size=3, window=8)
output, _ = convlstm(x, mask=mask)
print("output", tuple(output.shape))

# What a masked event holds is never read ...
nan_gapped = x.masked_fill(~mask[..., None], torch.nan)
same, _ = convlstm(nan_gapped, mask=mask)
print("the same with NaN under the mask:", torch.equal(same, output))

# ... nor does it reach a gradient.
same.square().mean().backward()
print("gradients finite:", all(bool(weight.grad.isfinite().all()) for weight in convlstm.parameters()))

# Not so with the usual advice of multiplying the input by the mask: 0 * NaN is NaN.
leaked, _ = convlstm(nan_gapped * mask[..., None])
print("NaN in the output of x * mask:", bool(leaked.isnan().any()))
