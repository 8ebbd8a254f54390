"""What a mask becomes behind a convolution, by loops over output sites and what they read."""

import itertools

import numpy as np


def through_conv(mask, rule, kernel, stride=1, dilation=1, padding="same"):
    """mask (N, *S) behind a convolution with the same geometry on every axis, as Keras places "same"."""
    sizes = mask.shape[1:]
    span = dilation * (kernel - 1) + 1
    outs, lefts = [], []
    for size in sizes:
        out = (size - span) // stride + 1 if padding == "valid" else -(-size // stride)
        around = {"valid": 0, "causal": span - 1, "same": max((out - 1) * stride + span - size, 0) // 2}
        outs.append(out)
        lefts.append(around[padding])
    found = np.zeros((len(mask), *outs), bool)
    for row, *at in np.ndindex(found.shape):
        firsts = [site * stride - left for site, left in zip(at, lefts, strict=True)]
        middle = span - 1 if padding == "causal" else (span - 1) // 2
        axes = []
        for first, size in zip(firsts, sizes, strict=True):
            taps = [first + tap * dilation for tap in range(kernel)]
            inside = [tap for tap in taps if 0 <= tap < size]
            axes.append([first + middle] if rule == "centre" or not inside else inside)
        read = [mask[(row, *site)] for site in itertools.product(*axes)]
        found[(row, *at)] = any(read) if rule == "any" else all(read)
    return found


def through_conv_transpose(mask, rule, kernel, stride=1, outs=None, left=0):
    """mask (N, *S) behind a transposed convolution with `outs` output sites that are cut by `left` on the left."""
    sizes = mask.shape[1:]
    found = np.zeros((len(mask), *outs), bool)
    for row, *at in np.ndindex(found.shape):
        axes = []
        for site, size in zip(at, sizes, strict=True):
            reach = [i for i in range(size) if 0 <= site + left - i * stride < kernel]
            apart = [abs(i * stride + (kernel - 1) / 2 - left - site) for i in range(size)]
            axes.append([int(np.argmin(apart))] if rule == "centre" or not reach else reach)
        read = [mask[(row, *site)] for site in itertools.product(*axes)]
        found[(row, *at)] = any(read) if rule == "any" else all(read)
    return found


def expanded(mask, shape):
    """A mask with fewer axes over all places of an array of this shape without its channels."""
    mask = mask.any(-1) if mask.ndim == len(shape) else mask
    return np.broadcast_to(mask.reshape(*mask.shape, *(1,) * (len(shape) - 1 - mask.ndim)), shape[:-1])
