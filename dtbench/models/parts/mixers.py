"""Token mixers: how a block of the trunk combines tokens of different time steps.

Every mixer is called as `mixer(x, mask, select)`: x (B, T, width) after the block's first LayerNorm, mask the tokens'
`TokenMask`, select the positions whose output is wanted (None = all). It returns (B, T', width).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from dtbench.models.parts.cache import KeyValueCache
from dtbench.models.parts.dropout import Dropout, is_side_by_side
from dtbench.models.parts.tokens import TOKENS_PER_STEP
from dtbench.models.parts.trunk import TokenMask, TrunkConfig


class Attention(nn.Module):
    """Causal multi-head self-attention, as in GPT-2; queries, keys and values are three separate maps."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.output = nn.Linear(config.width, config.width)
        self.attention_dropout = Dropout(config.attention_dropout)
        self.dropout = Dropout(config.residual_dropout)

    def forward(self, x: Tensor, mask: TokenMask, select: slice | None = None) -> Tensor:
        asking = x if select is None else x[:, select]
        bias = mask.bias if select is None else mask.bias[:, :, select]
        heads = self._attend(
            self._split(self.query(asking)), self._split(self.key(x)), self._split(self.value(x)), bias
        )
        return self._merge(heads, asking)

    def extend(self, x: Tensor, cache: KeyValueCache, layer: int) -> Tensor:
        """Attend from new tokens to those of the cache and to themselves: (B, T, width) → (B, T, width)."""
        key, value = cache.append(layer, self._split(self.key(x)), self._split(self.value(x)))
        heads = self._attend(self._split(self.query(x)), key, value, cache.bias)
        return self._merge(heads, x)

    def _merge(self, heads: Tensor, asking: Tensor) -> Tensor:
        heads = self.weigh_heads(heads, asking)
        return self.dropout(self.output(heads.transpose(1, 2).flatten(2)))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Mix the values: (B, heads, T', head width).

        On a CPU step by step, which is faster there: PyTorch's own function computes in float32 and draws slow masks.
        For several runs at once step by step, too: not every kernel of that function can be stacked.
        """
        if query.device.type != "cpu" and not is_side_by_side():
            dropout = self.attention_dropout.p if self.training else 0.0
            return functional.scaled_dot_product_attention(query, key, value, bias.to(query.dtype), dropout)
        scores = (query * query.shape[-1] ** -0.5) @ key.mT + bias
        return self.attention_dropout(scores.softmax(dim=-1)) @ value

    def weigh_heads(self, heads: Tensor, asking: Tensor) -> Tensor:
        """Weight the heads' outputs (B, heads, T', head width) before they are merged; here all weights are 1."""
        return heads

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class SingleHeadAttention(Attention):
    """`Attention` with one head, from two maps fewer, each the product of two of its weights: DT's step is mostly maps.

    With queries W_q x + b_q, keys W_k x + b_k, values W_v x + b_v and the output map W_o, b_o,

        scores_ij = x_iᵀ (W_qᵀ W_k) x_j + (W_kᵀ b_q)ᵀ x_j + what is equal for all j, so that the softmax ignores it,
        output_i = Σ_j p_ij ((W_o W_v) x_j + W_o b_v) + b_o.

    Weights, initial weights and checkpoints are those of `Attention`. So are the gradients, up to rounding.
    """

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__(config)
        if self.heads != 1:
            raise ValueError(f"SingleHeadAttention has one head, not {self.heads}.")

    def forward(self, x: Tensor, mask: TokenMask, select: slice | None = None) -> Tensor:
        asking = x if select is None else x[:, select]
        bias = mask.bias if select is None else mask.bias[:, :, select]
        with torch.autocast(x.device.type, enabled=False):
            # DDP waits for a gradient of every weight, and that of b_k is 0.
            offset = self.query.bias @ self.key.weight + 0.0 * self.key.bias
            query_key = self.key.weight.mT @ self.query.weight
            value_output = self.output.weight @ self.value.weight
            value_offset = self.output.weight @ self.value.bias
        query, value = functional.linear(asking, query_key, offset), functional.linear(x, value_output, value_offset)
        mixed = self._attend(query[:, None], x[:, None].to(query.dtype), value[:, None], bias)[:, 0]
        return self.dropout(mixed + self.output.bias.to(mixed.dtype))


class HeadDropoutAttention(Attention):
    """`Attention` with dropout on the heads' outputs instead of on the attention weights.

    So does min-decision-transformer (nikhilbarhate99), on whose code Elastic DT and Reinformer are built.
    """

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__(replace(config, attention_dropout=0.0))
        self.heads_dropout = Dropout(config.attention_dropout)

    def weigh_heads(self, heads: Tensor, asking: Tensor) -> Tensor:
        dropped: Tensor = self.heads_dropout(heads)
        return dropped


class HeadGatedAttention(Attention):
    """Mixture of Attention of GPT2-DTMA (arXiv 2409.06985; Markov-Head-Offline-RL, trajectory_gpt2.py).

    o_t = Concat_h(α_{t,h} · o_{t,h}) W_O with α_t = x_t W_g + b_g: a plain linear gate per head at each query token, no
    softmax and no sigmoid. W_g ~ N(0, 0.02) and b_g = 0, so the layer starts almost switched off. With `gate` set to
    None, it is plain attention.
    """

    gate: nn.Linear | None
    #: The gate's weights in the last forward pass, detached: (B, heads, T').
    last_weights: Tensor | None = None

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__(config)
        self.gate = nn.Linear(config.width, config.heads)  # `Trunk` initialises it like every other linear map

    def weigh_heads(self, heads: Tensor, asking: Tensor) -> Tensor:
        if self.gate is None:
            return heads
        weights = torch.movedim(self.gate(asking), -1, 1)  # (B, heads, T')
        self.last_weights = weights.detach()
        return weights[..., None] * heads


class CausalConvolution(nn.Module):
    """Decision ConvFormer's mixer (arXiv 2310.03022): a depthwise causal convolution per kind of token.

    y_t[c] = Σ_j w^{m(t)}[c, j] · x_{t − 5 + j}[c] + b^{m(t)}[c] for j = 0 … 5, over the whole interleaved sequence,
    where m(t) says whether token t is a return, a state or an action. Padding is zero before the filters see it (the
    reference does not mask it). There is no dropout, and no output projection unless `projection` is set, as in its
    Atari code.

    Args:
        window: tokens that a filter spans; 6 are two time steps.
    """

    def __init__(self, config: TrunkConfig, window: int = 6, projection: bool = False) -> None:
        super().__init__()
        self.window = window
        # Each filter makes every third output; the initial weights are PyTorch's, as in the reference.
        self.filters = nn.ModuleList(
            nn.Conv1d(config.width, config.width, window, stride=TOKENS_PER_STEP, groups=config.width)
            for _ in range(TOKENS_PER_STEP)
        )
        self.output = nn.Linear(config.width, config.width) if projection else None
        self.dropout = Dropout(config.residual_dropout)

    def forward(self, x: Tensor, mask: TokenMask, select: slice | None = None) -> Tensor:
        # Six shifted products instead of PyTorch's grouped convolution, whose backward pass is slow on a CPU.
        count = x.shape[1] // TOKENS_PER_STEP
        weight = self._of_kinds("weight")[:, :, 0].permute(2, 0, 1).repeat(1, count, 1)  # (window, T, width)
        mixed = self._of_kinds("bias").repeat(count, 1)  # (T, width)
        padded = functional.pad(x * mask.real[..., None], (0, 0, self.window - 1, 0))
        for shift in range(self.window):
            mixed = torch.addcmul(mixed, padded[:, shift : shift + x.shape[1]], weight[shift])
        mixed = mixed if select is None else mixed[:, select]
        return mixed if self.output is None else self.dropout(self.output(mixed))

    def _of_kinds(self, name: str) -> Tensor:
        """Return the filters' weight (3, width, 1, window) or bias (3, width)."""
        return torch.stack([getattr(filtered, name) for filtered in self.filters])
