"""What stands around masked recurrent layers in PyTorch: every piece takes and returns values with their mask.

For example::

    model = MaskedSequential(
        MaskedConv1d(3, 16, kernel_size=3, padding=1), MaskedBatchNorm1d(16), nn.ReLU(),
        ConvLSTM1d(16, 32, 3), MaskedMeanPool("time"), MaskedMaxPool("sites", rank=1), nn.Linear(32, 5),
    )
    logits, seen = model(x, mask)  # x (N, T, 3, L), mask (N, T), (N, T, L) or x's shape, True where observed
    loss = MaskedCrossEntropyLoss()(logits, classes, seen)
    print(model.summary(x, mask))  # what happens to the mask, layer by layer

The equations are in docs/semantics.md, section 9.
"""

from gapcell.torch.nn.convolution import (
    MaskedConv1d,
    MaskedConv2d,
    MaskedConv3d,
    MaskedConvTranspose1d,
    MaskedConvTranspose2d,
    MaskedConvTranspose3d,
)
from gapcell.torch.nn.likelihoods import MaskedCrossEntropyLoss, MaskedGaussianNLLLoss, MaskedStudentTNLLLoss
from gapcell.torch.nn.losses import MaskedHuberLoss, MaskedL1Loss, MaskedMSELoss, global_count
from gapcell.torch.nn.module import MaskedModule
from gapcell.torch.nn.normalization import (
    MaskedBatchNorm1d,
    MaskedBatchNorm2d,
    MaskedBatchNorm3d,
    MaskedGroupNorm,
    MaskedInstanceNorm1d,
    MaskedInstanceNorm2d,
    MaskedInstanceNorm3d,
    MaskedLayerNorm,
)
from gapcell.torch.nn.pooling import AttentionPool, LastObserved, MaskedMaxPool, MaskedMeanPool, MaskedSumPool
from gapcell.torch.nn.sequential import MaskedSequential
from gapcell.torch.nn.shaping import MaskedFlatten, MaskedRepeat, MaskedUpsample
from gapcell.torch.nn.time_distributed import TimeDistributed

__all__ = [
    "AttentionPool",
    "LastObserved",
    "MaskedBatchNorm1d",
    "MaskedBatchNorm2d",
    "MaskedBatchNorm3d",
    "MaskedConv1d",
    "MaskedConv2d",
    "MaskedConv3d",
    "MaskedConvTranspose1d",
    "MaskedConvTranspose2d",
    "MaskedConvTranspose3d",
    "MaskedCrossEntropyLoss",
    "MaskedFlatten",
    "MaskedGaussianNLLLoss",
    "MaskedGroupNorm",
    "MaskedHuberLoss",
    "MaskedInstanceNorm1d",
    "MaskedInstanceNorm2d",
    "MaskedInstanceNorm3d",
    "MaskedL1Loss",
    "MaskedLayerNorm",
    "MaskedMSELoss",
    "MaskedMaxPool",
    "MaskedMeanPool",
    "MaskedModule",
    "MaskedRepeat",
    "MaskedSequential",
    "MaskedStudentTNLLLoss",
    "MaskedSumPool",
    "MaskedUpsample",
    "TimeDistributed",
    "global_count",
]
