"""Losses: the denominator, what is under the mask, and batches cut into pieces."""

import itertools

import pytest

pytest.importorskip("torch", reason="these are tests of gapcell.torch.nn")

import torch
from torch import nn

from gapcell.torch import nn as gnn
from torch_nn.laws import assert_close
from torch_nn.pieces import KINDS, make_batch, over

REGRESSION = {
    "mse": (gnn.MaskedMSELoss, nn.MSELoss()),
    "l1": (gnn.MaskedL1Loss, nn.L1Loss()),
    "huber": (lambda *a, **k: gnn.MaskedHuberLoss(*a, delta=0.7, **k), nn.HuberLoss(delta=0.7)),
    "gaussian": (lambda r="elements", **k: gnn.MaskedGaussianNLLLoss(full=True, reduction=r, **k), None),
    "student": (lambda r="elements", **k: gnn.MaskedStudentTNLLLoss(3.0, r, **k), None),
    "cross entropy": (lambda r="elements", **k: gnn.MaskedCrossEntropyLoss(r, 0.1, **k), None),
}


def example(name, kind="elements", rank=1, dtype=torch.float32):
    """Prediction, target, the other arguments, and the mask."""
    batch = make_batch(rank, kind, dtype=dtype)
    if name != "cross entropy":
        target = torch.randn_like(batch.x)
        more = [torch.rand_like(batch.x) + 0.5] if name in ("gaussian", "student") else []
        return batch.x, target, more, batch.mask
    mask = batch.mask.any(2) if batch.mask.ndim == batch.x.ndim else batch.mask
    return batch.x, torch.randint(4, (*batch.x.shape[:2], *batch.x.shape[3:])), [], mask


def elements_of(name, prediction, target, more):
    """The loss of each element, by torch's own."""
    if name == "gaussian":
        return nn.GaussianNLLLoss(full=True, reduction="none")(prediction, target, *more)
    if name == "student":
        return -torch.distributions.StudentT(3.0, prediction, *more).log_prob(target)
    if name == "cross entropy":
        return nn.functional.cross_entropy(prediction.movedim(2, -1).flatten(0, -2), target.flatten(), reduction="none",
                                           label_smoothing=0.1).view(target.shape)  # fmt: skip
    plain = REGRESSION[name][1]
    plain.reduction = "none"
    return plain(prediction, target)


@pytest.mark.parametrize("name", REGRESSION)
@pytest.mark.parametrize("kind", [*KINDS, None])
def test_each_reduction_is_its_definition(name, kind):
    prediction, target, more, mask = example(name, kind or "steps", dtype=torch.float64)
    losses = elements_of(name, prediction, target, more)
    e = torch.ones_like(losses, dtype=torch.bool)
    if kind is not None:
        e = over(prediction, mask) if name != "cross entropy" else over(prediction, mask).any(2)
    by_sample = [losses[n][e[n]].mean() for n in range(len(losses)) if e[n].any()]
    want = {
        "elements": losses[e].mean(),
        "samples": torch.stack(by_sample).mean(),
        "sum": losses[e].sum(),
        "none": torch.where(e, losses, 0),
    }
    for reduction, value in want.items():
        got = REGRESSION[name][0](reduction)(prediction, target, *more, mask if kind else None)
        assert_close(got, value, reduction)


@pytest.mark.parametrize("name", REGRESSION)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", ["elements", "samples", "sum", "none"])
def test_what_is_under_the_mask_has_no_say(name, kind, reduction):
    loss = REGRESSION[name][0](reduction)
    prediction, target, more, mask = example(name, kind)
    mask[1] = False

    def run(fill):
        values = []
        for value in (prediction, target, *more):
            channel = value.ndim == prediction.ndim
            seen = over(prediction, mask) if channel else over(prediction, mask).any(2)
            wrong = fill if value.is_floating_point() else {0.0: 0}.get(fill, -100 if fill != fill else 10**9)
            value = value.masked_fill(~seen, wrong)
            values.append(value.requires_grad_() if value.is_floating_point() else value)
        result = loss(*values, mask)
        result.sum().backward()
        return result.detach(), [value.grad for value in values if value.is_floating_point()]

    want, gradients = run(0.0)
    assert want.isfinite().all()
    for fill in (torch.nan, torch.inf, 1e30, -1e30):
        got, found = run(fill)
        assert torch.equal(got, want)
        for one, other in zip(found, gradients, strict=True):
            assert torch.equal(one, other)
            assert not one[~over(prediction, mask)].any()


@pytest.mark.parametrize("name", REGRESSION)
@pytest.mark.parametrize("reduction", ["elements", "samples", "sum"])
def test_padding_and_masked_rows_change_nothing(name, reduction):
    loss = REGRESSION[name][0](reduction)
    prediction, target, more, mask = example(name, "sites")
    want = loss(prediction, target, *more, mask)
    longer = [torch.cat([each, each], 1) for each in (prediction, target, *more)]
    padded = torch.cat([mask, torch.zeros_like(mask)], 1)
    assert_close(loss(*longer, padded), want, "padded")
    rows = [torch.cat([each, each]) for each in (prediction, target, *more)]
    assert_close(loss(*rows, torch.cat([mask, torch.zeros_like(mask)])), want, "masked rows")


@pytest.mark.parametrize("name", REGRESSION)
@pytest.mark.parametrize("reduction", ["elements", "samples", "sum", "none"])
def test_nothing_observed_is_zero_with_zero_gradients(name, reduction):
    loss = REGRESSION[name][0](reduction)
    prediction, target, more, mask = example(name)
    prediction = torch.full_like(prediction, torch.nan, requires_grad=True)
    result = loss(prediction, target, *more, torch.zeros_like(mask))
    result.sum().backward()
    assert not result.any()
    assert torch.equal(prediction.grad, torch.zeros_like(prediction))


@pytest.mark.parametrize("name", REGRESSION)
@pytest.mark.parametrize("reduction", ["elements", "samples"])
def test_micro_batches_of_unequal_counts_are_the_whole_batch(name, reduction):
    loss = REGRESSION[name][0](reduction)
    prediction, target, more, mask = example(name, dtype=torch.float64)
    mask[0] = False
    mask[1] = True
    prediction.requires_grad_()
    loss(prediction, target, *more, mask).backward()
    want, prediction.grad = prediction.grad, None
    cuts = [slice(0, 1), slice(1, 2), slice(2, 3)]
    total = gnn.global_count(*(loss.count(target[cut], mask[cut]) for cut in cuts))
    for cut in cuts:
        loss(prediction[cut], target[cut], *(each[cut] for each in more), mask[cut], count=total).backward()
    assert_close(prediction.grad, want, "accumulated")
    assert gnn.global_count(loss.count(target)) == (target.numel() if reduction == "elements" else len(target))


@pytest.mark.parametrize("name", REGRESSION)
def test_gradients_are_those_of_differences(name):
    prediction, target, more, mask = example(name, dtype=torch.float64)
    loss = REGRESSION[name][0]()
    inputs = [prediction.requires_grad_(), *(each.requires_grad_() for each in more)]
    assert torch.autograd.gradcheck(lambda p, *m: loss(p, target, *m, mask), inputs, fast_mode=True)


def test_shapes_without_sites_and_channels_last():
    """Vectors (N, C) and (N,), frames with rank, and channels last."""
    for shape, mask_shape, options in [
        ((5,), (5,), {}),
        ((5, 3), (5,), {}),
        ((5, 3), (5, 3), {}),
        ((5, 3, 4), (5, 4), {"rank": 1}),
        ((5, 3, 4), (5,), {"rank": 1}),
        ((5, 3, 7, 4), (5, 3, 7), {"channels_last": True}),
    ]:
        prediction, target = torch.randn(2, *shape)
        mask = torch.rand(mask_shape) < 0.6
        seen = mask
        if mask_shape != shape:
            channel = 1 if "rank" in options and mask.ndim > 1 else mask.ndim
            seen = mask.unsqueeze(channel) if mask.ndim == len(shape) - 1 else mask[:, None, None]
        seen = seen.expand(shape)
        want = (prediction - target).square()[seen].mean()
        assert_close(gnn.MaskedMSELoss(**options)(prediction, target, mask), want, f"{shape}")
    logits, classes, mask = torch.randn(5, 3), torch.randint(3, (5,)), torch.rand(5) < 0.6
    want = nn.CrossEntropyLoss()(logits[mask], classes[mask])
    assert_close(gnn.MaskedCrossEntropyLoss()(logits, classes, mask), want, "vectors")
    logits, classes, mask = torch.randn(5, 2, 4, 3), torch.randint(3, (5, 2, 4)), torch.rand(5, 2) < 0.6
    want = nn.CrossEntropyLoss()(logits[mask].flatten(0, 1), classes[mask].flatten())
    assert_close(gnn.MaskedCrossEntropyLoss(channels_last=True)(logits, classes, mask), want, "channels last")


def refused(make, *arguments, **options):
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 # the texts are compared below
        make(*arguments, **options)
    return str(refusal.value)


X = torch.zeros(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: gnn.MaskedMSELoss("mean"),
            '`reduction` is \'mean\', expected one of elements, samples, sum, none; torch\'s "mean" is "elements" here',
        ),
        (
            lambda: gnn.MaskedMSELoss()(X, X[:, :2]),
            "`input` has shape (2, 3, 4, 5), but `target` (2, 2, 4, 5): expected the same",
        ),
        (
            lambda: gnn.MaskedMSELoss()(X, X, torch.ones(2, 4)),
            "`mask` has shape (2, 4), but the input has shape (2, 3, 4, 5): expected (2, 3) or (2, 3, 5) or (2, 3, 4, "
            "5); a mask is matched exactly and never broadcast",
        ),
        (
            lambda: gnn.MaskedMSELoss("sum")(X, X, count=3),
            "`count` beside reduction 'sum'; it replaces the denominator of a mean",
        ),
        (lambda: gnn.MaskedMSELoss("sum").count(X), "`reduction` is 'sum', which has no denominator to count"),
        (lambda: gnn.MaskedHuberLoss(delta=0), "`delta` is 0, expected a positive number"),
        (lambda: gnn.MaskedStudentTNLLLoss(df=-1), "`df` is -1, expected a positive number"),
        (lambda: gnn.MaskedGaussianNLLLoss(eps=0), "`eps` is 0, expected a positive number"),
        (
            lambda: gnn.MaskedGaussianNLLLoss()(X, X, X - 1),
            "`var` holds -1 at an observed place, expected no negative number; take softplus or exp of the layer's "
            "output",
        ),
        (
            lambda: gnn.MaskedStudentTNLLLoss()(X, X, X),
            "`scale` holds 0 at an observed place, expected positive numbers; take softplus or exp of the layer's "
            "output",
        ),
        (lambda: gnn.MaskedCrossEntropyLoss(label_smoothing=2), "`label_smoothing` is 2, expected 0 to 1"),
        (
            lambda: gnn.MaskedCrossEntropyLoss()(X, X),
            "`target` has dtype torch.float32, expected integers, the class numbers; for probabilities take their "
            "argmax",
        ),
        (
            lambda: gnn.MaskedCrossEntropyLoss()(X, torch.zeros(2, 3, 4, dtype=torch.long)),
            "`target` has shape (2, 3, 4), but `input` (2, 3, 4, 5) with its classes on axis 2: expected (2, 3, 5)",
        ),
        (
            lambda: gnn.MaskedCrossEntropyLoss()(X, torch.full((2, 3, 5), -100)),
            "`target` holds class -100 at an observed place, but `input` has 4 classes: expected 0 to 3; where there "
            "is no target, let the mask say so",
        ),
        (
            lambda: gnn.MaskedCrossEntropyLoss()(X, torch.zeros(2, 3, 5, dtype=torch.long), torch.ones(2, 3, 5, 1)),
            "`mask` has shape (2, 3, 5, 1), but `target` (2, 3, 5): a mask of the target has no class axis",
        ),
        (lambda: gnn.global_count(), "no counts came, expected loss.count(target, mask) of each micro-batch"),
        (
            lambda: gnn.global_count([1, 2]),
            "`counts` is one list, expected them one by one: global_count(*counts)",
        ),
    ],
)
def test_refusals(call, said):
    assert refused(call) == said


def test_the_representation_says_the_reduction():
    assert repr(gnn.MaskedMSELoss("samples")) == "MaskedMSELoss(reduction='samples')"


def test_every_reduction_of_every_loss_was_tried():
    tried = set(itertools.product(REGRESSION, ["elements", "samples", "sum", "none"]))
    exported = {name for name in gnn.__all__ if name.endswith("Loss")}
    assert len(tried) == 4 * len(exported)
