"""Losses that are negative log-likelihoods, eq. (23): Gaussian, Student's t, and categories."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gapcell import arrays
from gapcell.torch.nn.losses import MaskedLoss, Reduction, positive, select, unframe
from gapcell.torch.nn.module import fit

__all__ = ["MaskedCrossEntropyLoss", "MaskedGaussianNLLLoss", "MaskedStudentTNLLLoss"]


class MaskedGaussianNLLLoss(MaskedLoss):
    """nn.GaussianNLLLoss: forward(input, target, var, mask=None, *, count=None); shapes are those of MaskedLoss.

    `var` has the target's shape, and may be anything where the target is not observed.

    Args:
        full: whether the constant log(2 pi)/2 is added.
        eps: the least variance.
        reduction: see MaskedLoss.
        rank: see MaskedLoss.
        channels_last: see MaskedLoss.
    """

    def __init__(
        self,
        full: bool = False,
        eps: float = 1e-6,
        reduction: Reduction = "elements",
        *,
        rank: int | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__(reduction, rank=rank, channels_last=channels_last)
        self.full, self.eps = full, positive("eps", eps)

    def forward(  # pyrefly: ignore[bad-override] # torch.nn's own loss has one argument more, too
        self,
        input: Tensor,  # noqa: A002 # torch.nn's name
        target: Tensor,
        var: Tensor,
        mask: Tensor | None = None,
        *,
        count: Tensor | float | None = None,
    ) -> Tensor:
        """The loss; shapes are in the class docstring.

        Args:
            input: the predicted mean.
            target: what was to be predicted.
            var: the predicted variance, positive.
            mask: where the target is observed; None: everywhere.
            count: the denominator in place of this batch's own.

        Returns:
            a scalar, or the target's shape with reduction "none".
        """
        self._check_alike(target, input=input, var=var)
        observed = self._observed(target, mask)
        mean, wanted, var = select(observed, input), select(observed, target), select(observed, var, 1)
        _check_positive("var", var, strictly=False)
        # The limit has no gradient, as in torch.nn's.
        var = var + (var.clamp(min=self.eps) - var).detach()
        losses = (torch.log(var) + (mean - wanted).square() / var) / 2
        if self.full:
            losses = losses + math.log(2 * math.pi) / 2
        return self._reduce(losses, observed, count)


class MaskedStudentTNLLLoss(MaskedLoss):
    """The negative log-likelihood of Student's t: forward(input, target, scale, mask=None, *, count=None).

    Heavier tails than a Gaussian's: an outlier counts with its logarithm. Equal to
    -torch.distributions.StudentT(df, input, scale).log_prob(target). `scale` has the target's shape, and may be
    anything where the target is not observed; shapes are those of MaskedLoss.

    Args:
        df: degrees of freedom, positive; small ones have heavy tails.
        reduction: see MaskedLoss.
        rank: see MaskedLoss.
        channels_last: see MaskedLoss.
    """

    def __init__(
        self,
        df: float = 4.0,
        reduction: Reduction = "elements",
        *,
        rank: int | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__(reduction, rank=rank, channels_last=channels_last)
        self.df = positive("df", df)

    def forward(  # pyrefly: ignore[bad-override] # as in MaskedGaussianNLLLoss
        self,
        input: Tensor,  # noqa: A002 # torch.nn's name
        target: Tensor,
        scale: Tensor,
        mask: Tensor | None = None,
        *,
        count: Tensor | float | None = None,
    ) -> Tensor:
        """The loss; shapes are in the class docstring.

        Args:
            input: the predicted location.
            target: what was to be predicted.
            scale: the predicted scale, positive.
            mask: where the target is observed; None: everywhere.
            count: the denominator in place of this batch's own.

        Returns:
            a scalar, or the target's shape with reduction "none".
        """
        self._check_alike(target, input=input, scale=scale)
        observed, df = self._observed(target, mask), self.df
        location, wanted, scale = select(observed, input), select(observed, target), select(observed, scale, 1)
        _check_positive("scale", scale, strictly=True)
        constant = math.log(df * math.pi) / 2 + math.lgamma(df / 2) - math.lgamma((df + 1) / 2)
        deviation = (wanted - location) / scale
        losses = (df + 1) / 2 * torch.log1p(deviation.square() / df) + torch.log(scale) + constant
        return self._reduce(losses, observed, count)


class MaskedCrossEntropyLoss(MaskedLoss):
    r"""nn.CrossEntropyLoss: classes on the channel axis, class numbers as targets.

    Shapes (N samples, T steps, \*S sites, K classes):
        input: logits (N, T, K, \*S), with `rank` also frames (N, K, \*S), or (N, K); K last with `channels_last`.
        target: integers 0..K-1, the input's shape without its class axis; where not observed anything, -100 too.
        mask: True where the target is observed: steps (N, T) or sites (N, T, \*S); of frames (N,) or (N, \*S). None:
            everywhere.

    Args:
        reduction: see MaskedLoss; an element is one target.
        label_smoothing: 0 to 1, the part of the target spread over all classes.
        rank: see MaskedLoss.
        channels_last: see MaskedLoss.
    """

    def __init__(
        self,
        reduction: Reduction = "elements",
        label_smoothing: float = 0.0,
        *,
        rank: int | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__(reduction, rank=rank, channels_last=channels_last)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"`label_smoothing` is {label_smoothing}, expected 0 to 1")
        self.label_smoothing = label_smoothing

    def forward(
        self,
        input: Tensor,  # noqa: A002 # torch.nn's name
        target: Tensor,
        mask: Tensor | None = None,
        *,
        count: Tensor | float | None = None,
    ) -> Tensor:
        """The loss; shapes are in the class docstring.

        Args:
            input: logits.
            target: class numbers.
            mask: where the target is observed; None: everywhere.
            count: the denominator in place of this batch's own.

        Returns:
            a scalar, or the target's shape with reduction "none".
        """
        logits = self._classes_last(input, target)
        observed = self._observed(target, mask)
        chosen = select(observed, target).to(torch.int64)
        logits = select(None if observed is None else observed.unsqueeze(-1), logits)
        _check_classes(chosen, logits.shape[-1])
        losses = F.cross_entropy(
            logits.flatten(0, -2), chosen.flatten(), reduction="none", label_smoothing=self.label_smoothing
        )
        return self._reduce(losses.view(chosen.shape), observed, count)

    def _classes_last(self, logits: Tensor, target: Tensor) -> Tensor:
        if not arrays.is_integer(target):
            raise ValueError(
                f"`target` has dtype {target.dtype}, expected integers, the class numbers; for probabilities take "
                "their argmax"
            )
        frames = logits.ndim == 2 or (self.rank is not None and logits.ndim == self.rank + 2)
        axis = -1 if self.channels_last or logits.ndim < 3 else 1 if frames else 2
        wanted = list(logits.shape)
        del wanted[axis]
        if logits.ndim < 2 or list(target.shape) != wanted:
            raise ValueError(
                f"`target` has shape {tuple(target.shape)}, but `input` {tuple(logits.shape)} with its classes on axis "
                f"{axis}: expected {tuple(wanted)}"
            )
        return logits.movedim(axis, -1)

    def _observed(self, target: Tensor, mask: Tensor | None) -> Tensor | None:
        """The target as one channel: an element mask of it is one of sites."""
        if mask is None:
            return None
        like = target.new_empty((), dtype=torch.float32).expand(*target.shape, 1)
        rank = 0 if target.ndim == 1 else self.rank
        if mask.shape == like.shape:
            raise ValueError(
                f"`mask` has shape {tuple(mask.shape)}, but `target` {tuple(target.shape)}: a mask of the target has "
                "no class axis"
            )
        observed = unframe(fit(like, mask, rank=rank, channels_last=True))
        return None if observed is None else observed.squeeze(-1)


def _check_positive(name: str, value: Tensor, *, strictly: bool) -> None:
    if not arrays.is_concrete(value):
        return
    wrong = (value <= 0) if strictly else (value < 0)
    if bool(wrong.any()):
        raise ValueError(
            f"`{name}` holds {float(value[wrong][0]):.6g} at an observed place, expected "
            f"{'positive numbers' if strictly else 'no negative number'}; take softplus or exp of the layer's output"
        )


def _check_classes(chosen: Tensor, classes: int) -> None:
    # On an accelerator looking at values waits for it, and it reports a wrong class itself.
    if not arrays.is_concrete(chosen) or chosen.device.type != "cpu":
        return
    wrong = (chosen < 0) | (chosen >= classes)
    if bool(wrong.any()):
        raise ValueError(
            f"`target` holds class {int(chosen[wrong][0])} at an observed place, but `input` has {classes} classes: "
            f"expected 0 to {classes - 1}; where there is no target, let the mask say so"
        )
