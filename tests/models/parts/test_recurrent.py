"""Recurrent mixers against loops written from their equations, and from token to token against all tokens at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.special import expit

from dtbench.models.parts.recurrent import DiagonalStateSpace, Lstm, SelectiveStateSpace, selective_scan
from dtbench.models.parts.trunk import TokenMask, Trunk, TrunkConfig

CONFIG = TrunkConfig(width=8, layers=2, heads=1)
MIXERS = {
    "lstm": Lstm,
    "selective": lambda config: SelectiveStateSpace(config, states=4),
    "diagonal": lambda config: DiagonalStateSpace(config, states=6),
}
TOKENS = 60
PADS = 6


def mixer(name: str, width: int = 8):
    """Return a mixer all of whose weights are moved, so that none is 0 or 1."""
    torch.manual_seed(0)
    made = MIXERS[name](TrunkConfig(width=width, layers=2, heads=1)).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return made.requires_grad_(False)


def tokens(width: int = 8):
    """Return three sequences, of which the second has padding at its start."""
    x = torch.randn(3, TOKENS, width, generator=torch.Generator().manual_seed(1))
    real = torch.ones(3, TOKENS, dtype=torch.bool)
    real[1, :PADS] = False
    return x, real


def numbers(made) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in made.state_dict().items()}


def silu(x):
    return x * expit(x)


def lstm_by_hand(weights, x):
    hidden, cell, outputs = np.zeros(8), np.zeros(8), []
    for token in x:
        gates = weights["cell.weight_ih_l0"] @ token + weights["cell.bias_ih_l0"]
        gates += weights["cell.weight_hh_l0"] @ hidden + weights["cell.bias_hh_l0"]
        write, keep, new, show = np.split(gates, 4)
        cell = expit(keep) * cell + expit(write) * np.tanh(new)
        hidden = expit(show) * np.tanh(cell)
        outputs.append(hidden)
    return np.array(outputs)


def selective_by_hand(weights, x):
    """Algorithm 2 of arXiv 2312.00752 between the maps of its figure 3, channel by channel."""
    inner, rank, count = 16, 1, 4
    filters, decays = weights["convolution.weight"][:, 0], -np.exp(weights["log_decay"])
    hidden, seen, outputs = np.zeros((inner, count)), [], []
    for token in x:
        both = weights["input.weight"] @ token
        seen.append(both[:inner])
        u = np.zeros(inner)
        for channel in range(inner):
            mixed = weights["convolution.bias"][channel]
            for back in range(min(4, len(seen))):
                mixed += filters[channel, 3 - back] * seen[-1 - back][channel]
            u[channel] = silu(mixed)
        chosen = weights["selection.weight"] @ u
        delta = np.logaddexp(0, weights["delta_weight"] @ chosen[:rank] + weights["delta_bias"])
        write, read = chosen[rank : rank + count], chosen[rank + count :]
        y = np.zeros(inner)
        for channel in range(inner):
            for n in range(count):
                forget = math.exp(delta[channel] * decays[channel, n])
                hidden[channel, n] = forget * hidden[channel, n] + delta[channel] * write[n] * u[channel]
            y[channel] = read @ hidden[channel] + weights["skip"][channel] * u[channel]
        outputs.append(weights["output.weight"] @ (y * silu(both[inner:])))
    return np.array(outputs)


def diagonal_by_hand(weights, x):
    """h' = A h + u with u constant between tokens, by the exponential of the block matrix (A u; 0 0)."""
    width, modes = weights["log_damping"].shape
    y = np.zeros((len(x), width))
    for channel in range(width):
        delta = math.exp(weights["log_delta"][channel])
        for n in range(modes):
            a = -math.exp(weights["log_damping"][channel, n]) + 1j * weights["frequency"][channel, n]
            whole = expm(delta * np.array([[a, 1], [0, 0]]))
            c, hidden = complex(*weights["read"][channel, n]), 0
            for t, token in enumerate(x):
                hidden = whole[0, 0] * hidden + whole[0, 1] * token[channel]
                y[t, channel] += 2 * (c * hidden).real
        y[:, channel] += weights["skip"][channel] * x[:, channel]
    gelu = torch.nn.functional.gelu(torch.from_numpy(y)).numpy()
    value, gate = np.split(gelu @ weights["output.weight"].T + weights["output.bias"], 2, axis=1)
    return value * expit(gate)


BY_HAND = {"lstm": lstm_by_hand, "selective": selective_by_hand, "diagonal": diagonal_by_hand}


@pytest.mark.parametrize("name", list(MIXERS))
def test_a_window_is_the_defining_recurrence_over_its_real_tokens(name):
    made, (x, real) = mixer(name), tokens()
    found = made(x, TokenMask(real)).numpy()
    for row in range(3):
        expected = BY_HAND[name](numbers(made), x[row, real[row]].double().numpy())
        np.testing.assert_allclose(
            found[row, real[row]], expected, atol=2e-6
        )  # float32 against float64; outputs of order 1


@pytest.mark.parametrize("name", list(MIXERS))
@pytest.mark.parametrize("pieces", [(1,) * TOKENS, (3,) * 20, (2, 3, 4, 1, 50)], ids=["1", "3", "mixed"])
def test_from_token_to_token_equals_all_at_once(name, pieces):
    made, (x, real) = mixer(name), tokens()
    expected, state, found = made(x, TokenMask(real)), made.initial_state(3), []
    for part, part_real in zip(x.split(pieces, dim=1), real.split(pieces, dim=1), strict=True):
        mixed, state = made.step(part, part_real, state)
        found.append(mixed)
    assert torch.allclose(torch.cat(found, dim=1)[real], expected[real], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", list(MIXERS))
def test_padding_leaves_the_state_as_it_is(name):
    made, (x, _) = mixer(name), tokens()
    before = made.initial_state(3)
    _, after = made.step(x[:, :5], torch.zeros(3, 5, dtype=torch.bool), before)
    assert torch.equal(after, before)


@pytest.mark.parametrize("name", list(MIXERS))
def test_selected_tokens_are_those_of_all(name):
    made, (x, real) = mixer(name), tokens()
    some = slice(1, None, 3)
    assert torch.allclose(made(x, TokenMask(real), some), made(x, TokenMask(real))[:, some], atol=1e-6)


@pytest.mark.parametrize("name", list(MIXERS))
def test_what_comes_later_does_not_matter_in_a_long_window(name):
    """By FFT, too, where every output is a sum over all inputs: what must vanish does so up to rounding."""
    made = mixer(name)
    x = torch.randn(1, 600, 8, generator=torch.Generator().manual_seed(2))
    changed = torch.cat((x[:, :300], 3 * x[:, 300:]), dim=1)
    mask = TokenMask(torch.ones(1, 600, dtype=torch.bool))
    assert torch.allclose(made(x, mask)[:, :300], made(changed, mask)[:, :300], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", list(MIXERS))
def test_what_is_carried_stays_float32_under_autocast(name):
    made, (x, real) = mixer(name), tokens()
    exact, state = made(x, TokenMask(real)), made.initial_state(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = made(x, TokenMask(real))
        _, state = made.step(x[:, :3], real[:, :3], state)
    assert state.dtype == torch.float32
    assert torch.allclose(rough[real].float(), exact[real], atol=0.05)  # bfloat16 keeps three digits


def test_constant_inputs_give_a_geometric_sum():
    ones = torch.ones(2, 40, 3, dtype=torch.float64)
    numbers, before = torch.ones(2, 40, 1, dtype=torch.float64), torch.full((2, 1, 3), 5.0, dtype=torch.float64)
    rate = torch.full((3, 1), -0.1, dtype=torch.float64)
    found, last = selective_scan(ones, 2 * ones, rate, numbers, numbers, before)
    decay, t = math.exp(-0.2), torch.arange(1.0, 41.0, dtype=torch.float64)
    expected = 2 * (1 - decay**t) / (1 - decay) + 5 * decay**t
    assert torch.allclose(found, expected[None, :, None].expand_as(found))
    assert torch.allclose(last[:, 0], found[:, -1])


def test_initial_state_spaces_are_the_published_ones():
    """Inside a trunk, which draws all linear layers anew."""
    torch.manual_seed(0)
    config = TrunkConfig(width=64, layers=2, heads=1)
    for block in Trunk(config, lambda config, layer: SelectiveStateSpace(config)).blocks:
        made = block.mixer
        assert torch.allclose(-made.log_decay.exp(), -torch.arange(1.0, 17.0).expand(128, 16))
        deltas = torch.nn.functional.softplus(made.delta_bias)
        assert 0.001 * 0.999 <= deltas.min() < 0.002
        assert 0.05 < deltas.max() <= 0.1 * 1.001
        assert deltas.log().mean().item() == pytest.approx(
            math.log(0.01), abs=0.36
        )  # three standard errors of 128 draws
        assert made.delta_weight.abs().max().item() == pytest.approx(
            4**-0.5, rel=0.02
        )  # uniform in ± rank^(−1/2), rank 64 / 16
        assert made.input.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for block in Trunk(config, lambda config, layer: DiagonalStateSpace(config)).blocks:
        made = block.mixer
        assert torch.allclose(made.log_damping.exp(), torch.tensor(0.5))
        assert torch.allclose(made.frequency, math.pi * torch.arange(32.0).expand(64, 32))
        deltas = made.log_delta.exp()
        assert 0.001 <= deltas.min() < 0.002
        assert 0.05 < deltas.max() <= 0.1
        assert made.read.square().sum(-1).mean().item() == pytest.approx(1.0, rel=0.1)  # E|C|² = 1


def test_numbers_of_weights_are_those_of_the_published_modules():
    """By hand from mamba_ssm's `Mamba(d)` and s4d.py's `S4D(d)`, with d = 32."""
    count = {name: sum(weight.numel() for weight in mixer(name, 32).parameters()) for name in MIXERS}
    assert count["lstm"] == 8 * 32 * 32 + 8 * 32
    inner, states, rank = 64, 4, 2
    in_out, convolution, selection = 32 * 2 * inner + inner * 32, 5 * inner, inner * (rank + 2 * states)
    assert count["selective"] == in_out + convolution + selection + inner * (rank + 1) + inner * states + inner
    assert count["diagonal"] == 32 + 2 * 32 * 3 + 2 * 32 * 3 + 32 + 32 * 64 + 64
