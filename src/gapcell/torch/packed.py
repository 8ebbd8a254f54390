"""PackedSequence in and out."""

from __future__ import annotations

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

__all__ = ["pack_like", "unpack"]


def unpack(packed: PackedSequence) -> tuple[Tensor, Tensor]:
    """The padded (N, T, ...) input in the caller's order, and its lengths (N,)."""
    return pad_packed_sequence(packed, batch_first=True)


def pack_like(output: Tensor, packed: PackedSequence) -> PackedSequence:
    """The padded output (N, T, ...) packed as the input was, its order of rows kept."""
    lengths = pad_packed_sequence(packed, batch_first=True)[1]
    if packed.sorted_indices is not None:
        output = output.index_select(0, packed.sorted_indices)
        lengths = lengths[packed.sorted_indices.cpu()]
    data = pack_padded_sequence(output, lengths, batch_first=True).data
    return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
