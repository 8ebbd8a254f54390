"""A ConvLSTM encoder-decoder in PyTorch on ragged clips with gaps: it reconstructs what it read, and forecasts.

As in Shi et al. 2015 the decoder starts from the encoder's last state and reads nothing but that; as in Srivastava et
al. 2015 one decoder goes back over the clip and another goes on after its end. Clips are 6 to 10 frames of a moving
square; a fifth of the frames and a fifth of the others' pixels are missing, in what is read and in what is learnt from.
"""

import torch
from torch import nn

from gapcell import masks
from gapcell.torch import ConvLSTM2d
from gapcell.torch.nn import MaskedConv2d, MaskedConvTranspose2d, MaskedMSELoss

STEPS, AHEAD, SIDE, SQUARE = 10, 3, 12, 4


class EncoderDecoder(nn.Module):
    """Reads a clip, and gives it again with what comes after it."""

    def __init__(self, hidden_size=16):
        super().__init__()
        # Half the resolution; a place is observed where any pixel under the kernel is, and weighed by how many are.
        self.shrink = MaskedConv2d(1, 8, 3, stride=2, padding=1, mask_rule="any", renormalize=True)
        self.encoder = ConvLSTM2d(8, hidden_size, 3, gap="predict")
        self.backward_decoder = ConvLSTM2d(1, hidden_size, 3)
        self.forward_decoder = ConvLSTM2d(1, hidden_size, 3)
        self.enlarge = MaskedConvTranspose2d(hidden_size, 1, 4, stride=2, padding=1)

    def forward(self, x, mask, lengths):
        """The clip's frames (N, STEPS, 1, H, W), and the AHEAD frames after its end."""
        z, mask = self.shrink(x, mask)
        _, state = self.encoder(torch.relu(z), mask=mask, lengths=lengths)
        nothing = z.new_zeros(len(x), STEPS, 1, *z.shape[3:])
        # The reconstruction begins with each clip's last frame: clips of different lengths start at different steps.
        back = torch.stack([STEPS - lengths, torch.full_like(lengths, STEPS)], 1)
        reconstruction, _ = self.backward_decoder(nothing, state, lengths=back)
        forecast, _ = self.forward_decoder(nothing[:, :AHEAD], state)
        return self.enlarge(reconstruction.flip(1))[0], self.enlarge(forecast)[0]


def draw_clips(count, generator):
    """Clips (count, STEPS + AHEAD, 1, SIDE, SIDE), their lengths, and what is observed of them."""
    start, speed = torch.rand(2, count, 2, 1, generator=generator)
    room = SIDE - SQUARE
    place = room * (start + (speed - 0.5) * torch.arange(STEPS + AHEAD) / 3)
    place = (place % (2 * room) - room).abs()  # back and forth between two edges
    pixel = torch.arange(SIDE)
    row, column = ((pixel >= at[..., None]) & (pixel < at[..., None] + SQUARE) for at in place.unbind(1))
    clips = (row[..., None] & column[..., None, :]).float().unsqueeze(2)
    lengths = torch.randint(6, STEPS + 1, (count,), generator=generator)
    frames = torch.rand(clips.shape[:2], generator=generator) > 0.2
    pixels = torch.rand(clips[:, :, 0].shape, generator=generator) > 0.2
    return clips, lengths, frames[..., None, None] & pixels


def split(clips, lengths, observed):
    """What each clip is read from, and the frames after its end; each with what is observed of it."""
    first = torch.arange(len(clips))[:, None]
    after = lengths[:, None] + torch.arange(AHEAD)
    exists = masks.from_lengths(lengths, STEPS)[..., None, None]
    return (clips[:, :STEPS], observed[:, :STEPS] & exists), (clips[first, after], observed[first, after])


def losses(model, past, future, lengths):
    reconstruction, forecast = model(*past, lengths)
    loss = MaskedMSELoss()  # divides by the observed pixels
    return loss(reconstruction, *past), loss(forecast, *future)


def main():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = EncoderDecoder()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(200):
        clips, lengths, observed = draw_clips(32, generator)
        # What is not observed may hold anything: here it is NaN.
        clips = clips.masked_fill(~observed.unsqueeze(2), torch.nan)
        past, future = split(clips, lengths, observed)
        reconstructed, forecast = losses(model, past, future, lengths)
        optimizer.zero_grad()
        (reconstructed + forecast).backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}: reconstruction {reconstructed.item():.2f}, forecast {forecast.item():.2f}")

    clips, lengths, observed = draw_clips(64, generator)
    past, future = split(clips, lengths, observed)
    with torch.no_grad():
        reconstructed, forecast = losses(model, past, future, lengths)
        # The frame before the future, repeated: as good as doing nothing.
        last = clips[torch.arange(len(clips)), lengths - 1].unsqueeze(1).expand_as(future[0])
        repeated = MaskedMSELoss()(last, *future)
        print(f"forecasts of unseen clips: {forecast.item():.2f}, the last frame repeated: {repeated.item():.2f}")
        print("less than two thirds of that error:", bool(forecast < repeated * 2 / 3))
        (x, mask), alone = past, slice(5, 6)
        got = model(x[alone, :], mask[alone], lengths[alone])
        filled = model(x.masked_fill(~mask.unsqueeze(2), 1e30), mask, lengths)
        same = all(torch.allclose(one, many[alone], atol=1e-5) for one, many in zip(got, filled, strict=True))
        print("a clip alone gives what it gives among others, and gaps may hold anything:", same)


if __name__ == "__main__":
    main()
