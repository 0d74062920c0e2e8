"""Recurrent token mixers: over all tokens of a window at once in training, from token to token when a policy acts.

They are called as the mixers of `mixers.py`, and carry a state as `trunk.RecurrentMixer` says. What they carry is
computed in float32 whatever the precision of the maps around it: it adds up over a thousand steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from dtbench.models.parts.dropout import Dropout
from dtbench.models.parts.trunk import RecurrentMixer, TokenMask, TrunkConfig

#: Range of the initial time steps Δ of state spaces, and the least of Mamba's (state-spaces/mamba, mamba_simple.py).
_DELTAS = (0.001, 0.1)
_LEAST_DELTA = 1e-4


class Lstm(RecurrentMixer):
    """PyTorch's LSTM of one layer, as wide as the tokens, and dropout behind it; initial weights are PyTorch's."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.cell = nn.LSTM(config.width, config.width, batch_first=True)
        self.dropout = Dropout(config.residual_dropout)

    def forward(self, x: Tensor, mask: TokenMask, select: slice | None = None) -> Tensor:
        # Padding would move the state, so each window begins with its first real token, and its padding comes last.
        places = torch.arange(x.shape[1], device=x.device)
        pads = (~mask.real).sum(dim=1, keepdim=True)
        with torch.autocast(x.device.type, enabled=False):
            mixed, _ = self.cell(_taken(self._exact(x), places + pads))
        mixed = _taken(mixed, places - pads)
        return self.dropout(mixed if select is None else mixed[:, select])

    def initial_state(self, count: int) -> Tensor:
        """Return h and c: (count, 2, width) of zeros."""
        return self.cell.all_weights[0][0].new_zeros(count, 2, self.cell.hidden_size)

    def step(self, x: Tensor, real: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        mixed = []
        with torch.autocast(x.device.type, enabled=False):
            for token, counts in zip(self._exact(x).split(1, dim=1), real.split(1, dim=1), strict=True):
                hidden, cell = state.movedim(1, 0)[:, None].contiguous()
                _, after = self.cell(token, (hidden, cell))
                state = torch.where(counts[..., None], torch.cat(after).movedim(0, 1), state)
                mixed.append(state[:, 0])
        return torch.stack(mixed, dim=1), state

    def _exact(self, x: Tensor) -> Tensor:
        return x.to(self.cell.all_weights[0][0].dtype)


class SelectiveStateSpace(RecurrentMixer):
    """Mamba's mixer (arXiv 2312.00752, section 3.4; state-spaces/mamba, mamba_simple.py) without its kernels.

    The input map gives u and a gate z of `expand` · width channels each. A causal convolution of each channel and SiLU
    follow; then, with Δ_t, B_t and C_t from maps of u_t,

        h_t = exp(Δ_t A) h_{t−1} + Δ_t B_t u_t,    y_t = C_t h_t + D u_t,

    and the output map takes y_t · SiLU(z_t). A starts at −(1, …, N) and is learned as its logarithm, D starts at 1, and
    Δ is drawn log-uniformly from [0.001, 0.1] by its bias, inside a softplus. All maps but that of Δ have no bias.

    Args:
        states: N.
        expand: see above.
        convolution: tokens that the convolution spans.
    """

    def __init__(self, config: TrunkConfig, states: int = 16, expand: int = 2, convolution: int = 4) -> None:
        super().__init__()
        width, inner, rank = config.width, expand * config.width, math.ceil(config.width / 16)
        self.states, self.rank, self.before = states, rank, convolution - 1
        self.input = nn.Linear(width, 2 * inner, bias=False)
        self.convolution = nn.Conv1d(inner, inner, convolution, groups=inner)
        self.selection = nn.Linear(inner, rank + 2 * states, bias=False)
        # Not a linear layer, whose weights `Trunk` would draw anew.
        self.delta_weight = nn.Parameter((2 * torch.rand(inner, rank) - 1) * rank**-0.5)
        deltas = _log_uniform(inner).exp().clamp(min=_LEAST_DELTA)
        self.delta_bias = nn.Parameter(deltas + torch.log(-torch.expm1(-deltas)))  # softplus gives them back
        self.log_decay = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))
        self.output = nn.Linear(inner, width, bias=False)
        # Of each channel: Δ A, decay, their product with h, and h, of N numbers, and about ten single ones.
        self.values_per_token = inner * (4 * states + 10)

    def forward(self, x: Tensor, mask: TokenMask, select: slice | None = None) -> Tensor:
        mixed, _ = self._mixed(x, mask.real, self.initial_state(len(x)))
        return self.output(mixed if select is None else mixed[:, select])

    def initial_state(self, count: int) -> Tensor:
        """Return what the convolution saw last, and h: (count, convolution − 1 + N, inner) of zeros."""
        return self.skip.new_zeros(count, self.before + self.states, len(self.skip))

    def step(self, x: Tensor, real: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        mixed, state = self._mixed(x, real, state)
        return self.output(mixed), state

    def _mixed(self, x: Tensor, real: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the output map gets (B, T, inner), and the state after these tokens."""
        before, hidden = state.split((self.before, self.states), dim=1)
        channels, gate = self.input(x).chunk(2, dim=-1)
        with torch.autocast(x.device.type, enabled=False):
            # Padding is 0, as what the convolution sees before the first token, and adds nothing to h.
            seen = torch.cat((before, channels.to(state.dtype) * real[..., None]), dim=1)
            channels = functional.silu(self._convolved(seen)) * real[..., None]
        delta, write, read = self.selection(channels).to(state.dtype).split((self.rank, self.states, self.states), -1)
        with torch.autocast(x.device.type, enabled=False):
            delta = functional.softplus(functional.linear(delta, self.delta_weight, self.delta_bias))
            mixed, hidden = selective_scan(channels, delta, -self.log_decay.exp(), write, read, hidden)
            mixed = mixed + self.skip * channels
        state = torch.cat((seen[:, seen.shape[1] - self.before :], hidden), dim=1)
        return mixed.to(gate.dtype) * functional.silu(gate), state

    def _convolved(self, seen: Tensor) -> Tensor:
        """Convolve (B, before + T, inner) → (B, T, inner): as in `CausalConvolution`, products are faster on a CPU."""
        assert self.convolution.bias is not None
        length, mixed = seen.shape[1] - self.before, self.convolution.bias
        for shift in range(self.before + 1):
            mixed = torch.addcmul(mixed, seen[:, shift : shift + length], self.convolution.weight[:, 0, shift])
        return mixed


def selective_scan(
    u: Tensor, delta: Tensor, a: Tensor, write: Tensor, read: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute h_t = exp(Δ_t A) h_{t−1} + Δ_t B_t u_t and y_t = C_t h_t over all tokens.

    All sequences and channels go through a token together, in steps that fit into a processor's cache. Doubling (log₂ T
    passes over all tokens at once) takes fewer calls, and moves so much memory that it took 10 times as long and more
    on one thread of a CPU.

    Args:
        u: (B, T, inner).
        delta: Δ, (B, T, inner).
        a: A, (inner, N).
        write: B, (B, T, N).
        read: C, (B, T, N).
        hidden: h before the first token, (B, N, inner).

    Returns:
        y, (B, T, inner), and h after the last token.
    """
    rates, mixed = a.mT.contiguous(), []
    tokens = zip(delta.unbind(1), (delta * u).unbind(1), write.unbind(1), read.unbind(1), strict=True)
    for delta_t, driven_t, write_t, read_t in tokens:
        decay = torch.exp(delta_t[:, None] * rates)
        hidden = torch.addcmul(decay * hidden, driven_t[:, None], write_t[..., None])
        mixed.append((read_t[:, None] @ hidden)[:, 0])
    return torch.stack(mixed, dim=1), hidden


class DiagonalStateSpace(RecurrentMixer):
    """S4D (arXiv 2206.11893; state-spaces/s4, models/s4/s4d.py): a linear state space of complex modes per channel.

    Each channel u has a step Δ and N / 2 modes with A_n = −1/2 + iπn at first (S4D-Lin), B = 1 and a learned C_n. Held
    constant between tokens (zero-order hold),

        h_t = exp(ΔA) h_{t−1} + (exp(ΔA) − 1) / A · u_t,    y_t = 2 Re Σ_n C_n h_{t,n} + D u_t,

    which over all tokens is the convolution of u with K_t = 2 Re Σ_n C_n (exp(ΔA_n) − 1) / A_n · exp(ΔA_n t), by FFT.
    GELU, dropout and a linear map with GLU follow. Δ starts log-uniform in [0.001, 0.1], C and D are standard normal.

    Args:
        states: N.
    """

    def __init__(self, config: TrunkConfig, states: int = 64) -> None:
        super().__init__()
        modes = (config.width, states // 2)
        self.log_delta = nn.Parameter(_log_uniform(config.width))
        self.log_damping = nn.Parameter(torch.full(modes, 0.5).log())
        self.frequency = nn.Parameter(math.pi * torch.arange(float(modes[1])).repeat(config.width, 1))
        self.read = nn.Parameter(torch.randn(*modes, 2) * 0.5**0.5)
        self.skip = nn.Parameter(torch.randn(config.width))
        self.dropout = Dropout(config.residual_dropout)
        self.output = nn.Linear(config.width, 2 * config.width)

    @property
    def dynamics(self) -> list[nn.Parameter]:
        """Δ and A, which its code trains without weight decay."""
        return [self.log_delta, self.log_damping, self.frequency]

    def forward(self, x: Tensor, mask: TokenMask, select: slice | None = None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            u = x.to(self.skip.dtype) * mask.real[..., None]
            mixed = _convolved_from_zero(u, self._kernel(u.shape[1])) + self.skip * u
        return self._mapped(mixed if select is None else mixed[:, select])

    def initial_state(self, count: int) -> Tensor:
        """Return h, real and imaginary: (count, width, N / 2, 2) of zeros."""
        return self.read.new_zeros(count, *self.read.shape)

    def step(self, x: Tensor, real: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            u, hidden = x.to(self.skip.dtype) * real[..., None], torch.view_as_complex(state)
            rate, gain = self._discrete()
            mixed = []
            for token in u.unbind(1):
                hidden = rate.exp() * hidden + token[..., None]
                mixed.append(2 * (gain * hidden).real.sum(dim=-1) + self.skip * token)
        return self._mapped(torch.stack(mixed, dim=1)), torch.view_as_real(hidden)

    def _discrete(self) -> tuple[Tensor, Tensor]:
        """Return ΔA, and C (exp(ΔA) − 1) / A, which reads an h that u itself drives: (width, N / 2) complex."""
        a = torch.complex(-self.log_damping.exp(), self.frequency)
        rate = a * self.log_delta.exp()[:, None]
        return rate, torch.view_as_complex(self.read) * (rate.exp() - 1) / a

    def _kernel(self, length: int) -> Tensor:
        """Return K: (width, length)."""
        rate, gain = self._discrete()
        powers = torch.exp(rate[..., None] * torch.arange(length, device=rate.device))
        return 2 * (gain[..., None] * powers).sum(dim=1).real

    def _mapped(self, mixed: Tensor) -> Tensor:
        return functional.glu(self.output(self.dropout(functional.gelu(mixed))))


def _convolved_from_zero(u: Tensor, kernel: Tensor) -> Tensor:
    """Return y_t = Σ_s K_s u_{t−s} of each channel: (B, T, width) and (width, T) → (B, T, width)."""
    size = 2 * u.shape[1]
    spectrum = torch.fft.rfft(u.mT, n=size) * torch.fft.rfft(kernel, n=size)
    return torch.fft.irfft(spectrum, n=size)[..., : u.shape[1]].mT


def _taken(x: Tensor, places: Tensor) -> Tensor:
    """Take tokens of each sequence, places modulo their number: (B, T, width) and (B, T) int64 → (B, T, width)."""
    return x.gather(1, (places % x.shape[1])[..., None].expand_as(x))


def _log_uniform(count: int) -> Tensor:
    """Draw logarithms of time steps: (count,), uniform between those of `_DELTAS`."""
    low, high = map(math.log, _DELTAS)
    return torch.rand(count) * (high - low) + low
