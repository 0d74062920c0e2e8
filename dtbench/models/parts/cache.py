"""Keys and values of the tokens so far, so that a trunk computes each token once while a sequence grows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class KeyValueCache:
    """What the attention of each layer needs of the tokens so far; made for `Trunk.extend`.

    Tokens to which nothing attends are not kept.

    Args:
        layers: of the trunk.
        capacity: most tokens that are kept.

    Attributes:
        bias: what attention adds to the scores of the tokens that are being computed: (T, tokens that they see or do
            not) float32, 0 or −∞.
    """

    bias: Tensor

    def __init__(self, layers: int, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self._keys: list[Tensor | None] = [None] * layers
        self._values: list[Tensor | None] = [None] * layers

    def begin(self, unseen: Sequence[bool], device: torch.device) -> None:
        """Begin to compute new tokens; see `Trunk.extend`."""
        kept = [place for place, hidden in enumerate(unseen) if not hidden]
        # Numbers that come from the CPU would make it wait for a GPU at each token of a search.
        is_range = len(kept) in (0, len(unseen))
        self._kept = torch.arange(len(kept), device=device) if is_range else torch.tensor(kept, device=device)
        own = torch.where(self._kept <= torch.arange(len(unseen), device=device)[:, None], 0.0, -torch.inf)
        self.bias = torch.nn.functional.pad(own, (self.length, 0))

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add a layer's keys and values of the new tokens.

        Args:
            layer: its number.
            key: (B, heads, T, head width).
            value: as `key`.

        Returns:
            Both of all tokens that are kept, the new ones among them: (B, heads, tokens, head width).
        """
        return self._append(self._keys, layer, key), self._append(self._values, layer, value)

    def end(self) -> None:
        """Count the new tokens as tokens so far, once all layers have them."""
        self.length += len(self._kept)

    def select(self, rows: Tensor) -> None:
        """Go on with these rows of the batch: (B',) int64; a row may be taken several times, or not at all."""
        for kept in (self._keys, self._values):
            kept[:] = [None if held is None else held.index_select(0, rows) for held in kept]

    def _append(self, kept: list[Tensor | None], layer: int, new: Tensor) -> Tensor:
        held = kept[layer]
        if held is None:
            held = new.new_empty(*new.shape[:2], self.capacity, new.shape[3])
            kept[layer] = held
        end = self.length + len(self._kept)
        held[:, :, self.length : end] = new.index_select(2, self._kept)
        return held[:, :, :end]
