"""What a model makes of an observation: a map of its numbers, or convolutions over its frames."""

from __future__ import annotations

from torch import Tensor, nn

from dtbench.errors import ConfigError
from dtbench.spaces import Frames

#: Filters, their size and their stride (Mnih et al., 2015), as in the Atari code of DT, DC and LaMo.
_CONVOLUTIONS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))


class FrameEncoder(nn.Module):
    """Three convolutions with ReLU and a linear map: stacks of frames → vectors. Bytes are divided by 255 first.

    Attributes:
        values_per_stack: what a training step keeps of each stack: its pixels, and what convolutions and ReLUs return.

    Raises:
        ConfigError: frames too small for the convolutions.
    """

    def __init__(self, frames: Frames, width: int) -> None:
        super().__init__()
        layers, channels = list[nn.Module](), frames.stack
        height, across = frames.height, frames.width
        self.values_per_stack = channels * height * across
        for filters, size, stride in _CONVOLUTIONS:
            layers += [nn.Conv2d(channels, filters, size, stride), nn.ReLU()]
            channels, height, across = filters, (height - size) // stride + 1, (across - size) // stride + 1
            self.values_per_stack += 2 * channels * max(0, height) * max(0, across)
        if height < 1 or across < 1:
            raise ConfigError(f"The task shows {frames}; convolutions need at least 36 × 36.")
        self.convolutions = nn.Sequential(*layers)
        self.output = nn.Linear(channels * height * across, width)

    def forward(self, observations: Tensor) -> Tensor:
        """(…, stack, height, width) uint8 → (…, width of the tokens)."""
        stacks = observations.flatten(0, -4).to(self.output.weight.dtype) / 255
        features = self.output(self.convolutions(stacks).flatten(1))
        return features.unflatten(0, observations.shape[:-3])
