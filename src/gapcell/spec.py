"""What a layer is: its options, the names and shapes of its parameters, and what it refuses."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral
from typing import Any, Literal

__all__ = ["Spec"]

_CHOICES: dict[str, tuple[str | None, ...]] = {
    "cell": ("lstm", "gru"),
    "padding": ("same", "valid"),
    "same_padding": ("torch", "keras"),
    "gap": ("hold", "predict", "decay"),
    "masked_output": ("zero", "hold"),
    "mask_rule": ("centre", "all", "any", None),
}
_PROBABILITIES = ("dropout", "input_dropout", "recurrent_dropout")
_FLAGS = ("bias", "bidirectional", "go_backwards", "causal")
_COUNTS = ("in_channels", "filters", "num_layers")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Every option of a masked convolutional recurrent layer, frozen and hashable.

    Sizes may be given as one int or as one int a site axis; they are kept as tuples. The meaning of each option is
    in docs/semantics.md, whose sections and equations are named below.

    Attributes:
        cell: "lstm" (7) or "gru" (8).
        rank: number of site axes, 1 to 3.
        in_channels: C, channels of the input.
        filters: F, channels of the hidden state.
        kernel_size: taps of the input convolution (12).
        recurrent_kernel_size: taps of the recurrent convolution; None takes kernel_size.
        num_layers: layers stacked on each other.
        bias: whether (6) and (8) have biases.
        bidirectional: whether each layer also runs backwards (13).
        go_backwards: run backwards only, output in the order of processing (13).
        stride: of the first layer's input convolution.
        padding: "same" or "valid", of the first layer's input convolution.
        same_padding: where "same" places its zeros: as "torch" or as "keras" does (section 4).
        dilation: of the first layer's input convolution.
        window: W, events a recurrent step, for a series (N, S, C) (section 6); None for an input with sites.
        causal: both convolutions look back only (rank 1).
        gap: what a missing value does: "hold", "predict" or "decay" (section 3).
        masked_output: what a held place gives: "zero" or "hold" (10).
        mask_rule: how a mask passes the input convolution: "centre", "all", "any"; None chooses (section 1).
        dropout: probability between layers.
        input_dropout: probability on the input (section 2).
        recurrent_dropout: probability on the recurrent input (section 2).

    Raises:
        ValueError: an option is out of range, or two options do not go together.
    """

    cell: Literal["lstm", "gru"] = "lstm"
    rank: int
    in_channels: int
    filters: int
    kernel_size: int | tuple[int, ...]
    recurrent_kernel_size: int | tuple[int, ...] | None = None
    num_layers: int = 1
    bias: bool = True
    bidirectional: bool = False
    go_backwards: bool = False
    stride: int | tuple[int, ...] = 1
    padding: Literal["same", "valid"] = "same"
    same_padding: Literal["torch", "keras"] = "torch"
    dilation: int | tuple[int, ...] = 1
    window: int | None = None
    causal: bool = False
    gap: Literal["hold", "predict", "decay"] = "hold"
    masked_output: Literal["zero", "hold"] = "zero"
    mask_rule: Literal["centre", "all", "any"] | None = None
    dropout: float = 0.0
    input_dropout: float = 0.0
    recurrent_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check every option and spread single sizes over the site axes."""
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}, expected one of {_listed(allowed)}")
        if _whole("rank", self.rank) not in (1, 2, 3):
            raise ValueError(f"`rank` is {self.rank}, expected 1, 2 or 3 site axes")
        for name in _COUNTS:
            object.__setattr__(self, name, _whole(name, getattr(self, name)))
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"`{name}` is {getattr(self, name)!r}, expected True or False")
        for name in _PROBABILITIES:
            _check_probability(name, getattr(self, name))
        if self.recurrent_kernel_size is None:
            object.__setattr__(self, "recurrent_kernel_size", self.kernel_size)
        for name in ("kernel_size", "recurrent_kernel_size", "stride", "dilation"):
            object.__setattr__(self, name, _spread(name, getattr(self, name), self.rank))
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.bidirectional and self.go_backwards:
            raise ValueError("`bidirectional` already runs backwards; drop `go_backwards`")
        if self.bidirectional and self.causal:
            raise ValueError("`causal` with `bidirectional`: the backward direction reads the future; drop one of them")
        if self.causal and self.rank != 1:
            raise ValueError(f"`causal` needs one ordered site axis, but `rank` is {self.rank}; use rank 1")
        if self.causal and self.padding == "valid":
            raise ValueError('`causal` pads on the left, so `padding` must be "same", but it is "valid"')
        if self.window is None:
            return
        object.__setattr__(self, "window", _whole("window", self.window))
        if self.rank != 1:
            raise ValueError(f"`window` cuts a series (N, S, C) and needs rank 1, but `rank` is {self.rank}")
        if self.stride != (1,) or self.padding == "valid":
            raise ValueError(
                f'`window` keeps every event\'s place, so it needs stride 1 and padding "same", but stride is '
                f'{self.stride} and padding is "{self.padding}"'
            )
        if self.mask_rule in ("all", "any"):
            raise ValueError(
                f'`window` keeps every event\'s place, so `mask_rule` must be "centre" or None, but it is '
                f'"{self.mask_rule}"'
            )

    @property
    def directions(self) -> int:
        """2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def gates(self) -> int:
        """Blocks of F channels in a weight: 4 for the LSTM (i, f, g, o), 3 for the GRU (r, z, n)."""
        return 4 if self.cell == "lstm" else 3

    @property
    def rule(self) -> Literal["centre", "all", "any"]:
        """The mask rule in force: the one named, else "all" under "valid" and "centre" otherwise."""
        return self.mask_rule or ("all" if self.padding == "valid" else "centre")

    def layer(self, index: int) -> Spec:
        """One direction of layer `index` as a Spec of its own, dropout between layers left out.

        Layers above the first read both directions of the one below and use "same", stride 1 and dilation 1.
        """
        single = replace(self, num_layers=1, bidirectional=False, dropout=0.0)
        if index == 0:
            return single
        above: dict[str, Any] = {"padding": "same", "stride": 1, "dilation": 1, "mask_rule": None, "input_dropout": 0.0}
        return replace(single, in_channels=self.filters * self.directions, **above)

    def parameter_shapes(self, index: int = 0) -> dict[str, tuple[int, ...]]:
        """Names and shapes of one direction's parameters of layer `index`, channels last.

        Returns:
            kernel (*k, C, gates*F), recurrent_kernel (*k, F, gates*F), bias (gates*F,) and, for the GRU,
            recurrent_bias (F,), the bias bhn of (8). Without `bias` only the kernels. With gap="decay" also decay (F,),
            the rates of (24).
        """
        layer, width = self.layer(index), self.gates * self.filters
        shapes: dict[str, tuple[int, ...]] = {
            "kernel": (*layer.sizes("kernel_size"), layer.in_channels, width),
            "recurrent_kernel": (*layer.sizes("recurrent_kernel_size"), self.filters, width),
        }
        if self.bias:
            shapes["bias"] = (width,)
            if self.cell == "gru":
                shapes["recurrent_bias"] = (self.filters,)
        if self.gap == "decay":
            shapes["decay"] = (self.filters,)
        return shapes

    def sizes(self, name: Literal["kernel_size", "recurrent_kernel_size", "stride", "dilation"]) -> tuple[int, ...]:
        """The sizes of one option, one a site axis."""
        return getattr(self, name)

    def output_sites(self, sites: tuple[int, ...]) -> tuple[int, ...]:
        """Sites after the first layer's input convolution (section 4).

        Raises:
            ValueError: a site axis is empty, or the kernel is larger than the input under "valid".
        """
        if 0 in sites:
            raise ValueError(
                f"the input has sites {tuple(sites)}, expected at least one on each of the {self.rank} axes"
            )
        if self.padding == "same":
            return tuple(-(-size // stride) for size, stride in zip(sites, self.sizes("stride"), strict=True))
        spans = self._spans()
        if any(span > size for span, size in zip(spans, sites, strict=True)):
            raise ValueError(
                f"`kernel_size` {self.kernel_size} with dilation {self.dilation} covers {spans} sites, but the input "
                f'has only {tuple(sites)} under padding="valid"; use padding="same" or a smaller kernel'
            )
        strides = self.sizes("stride")
        return tuple((size - span) // stride + 1 for size, span, stride in zip(sites, spans, strides, strict=True))

    def input_padding(self, sites: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        """Zeros (left, right) a site axis for the input convolution over `sites`, each right side exact (12)."""
        result = []
        for size, out, span, stride in zip(
            sites, self.output_sites(sites), self._spans(), self.sizes("stride"), strict=True
        ):
            needed = (out - 1) * stride + span - size
            if self.padding == "valid":
                left = 0
            elif self.causal:
                left = span - 1
            elif self.same_padding == "keras":
                left = max(needed, 0) // 2
            else:
                left = (span - 1) // 2
            result.append((left, needed - left))
        return tuple(result)

    def recurrent_padding(self) -> tuple[tuple[int, int], ...]:
        """Zeros (left, right) a site axis for the recurrent convolution: "same", stride 1, or causal."""
        pads = []
        for size in self.sizes("recurrent_kernel_size"):
            left = size - 1 if self.causal else (size - 1) // 2
            pads.append((left, size - 1 - left))
        return tuple(pads)

    def _spans(self) -> tuple[int, ...]:
        return tuple(d * (k - 1) + 1 for k, d in zip(self.sizes("kernel_size"), self.sizes("dilation"), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """The options as plain values (tuples as lists), for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> Spec:
        """The Spec written by `to_dict`.

        Raises:
            ValueError: an option is unknown, missing, or not accepted by Spec.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(options) - known):
            raise ValueError(f"unknown options {unknown}; Spec has {sorted(known)}")
        if missing := sorted({"rank", "in_channels", "filters", "kernel_size"} - set(options)):
            raise ValueError(f"options {missing} are missing; Spec cannot be made without them")
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}
        return cls(**values)


def _listed(allowed: tuple[str | None, ...]) -> str:
    return ", ".join(repr(choice) for choice in allowed)


def _whole(name: str, value: object) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`{name}` is {value!r}, expected an integer of at least 1")
    return int(value)


def _check_probability(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < 1.0:
        raise ValueError(f"`{name}` is {value!r}, expected a probability in [0, 1)")


def _spread(name: str, value: object, rank: int) -> tuple[int, ...]:
    sizes = (value,) * rank if isinstance(value, Integral) else value
    if not isinstance(sizes, tuple | list) or len(sizes) != rank:
        raise ValueError(f"`{name}` is {value!r}, expected an integer or {rank} of them (rank {rank})")
    return tuple(_whole(name, size) for size in sizes)
