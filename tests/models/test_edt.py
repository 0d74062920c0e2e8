"""Elastic Decision Transformer: its losses and its search over histories against plain loops."""

from __future__ import annotations

import pytest
import torch

from dtbench.errors import ConfigError
from dtbench.models.edt import ElasticDecisionTransformer
from dtbench.models.parts.returns import drawn, expert_probabilities
from dtbench.models.parts.tokens import first_returns_only
from dtbench.testing import DIMS, KINDS, data_module, fit_steps, model_config, windows


def build(spaces=DIMS, **model) -> ElasticDecisionTransformer:
    module = ElasticDecisionTransformer(model_config("edt", **model), spaces).eval()
    module.embedding.bins.span(-2.0, 2.0)
    return module


def test_the_loss_by_a_loop():
    module = build(expectile=0.9, return_weight=0.5, bins_weight=0.1, state_weight=2.0)
    batch = windows(module)
    found = module.outputs(batch)
    real = [(row, step) for row in range(6) for step in range(5) if batch["padding_mask"][row, step]]
    action = state = largest = bins = 0.0
    for at in real:
        action += float((found.actions[at] - batch["actions"][at]).square().mean())
        state += float((found.following[at] - batch["next_observations"][at]).square().mean())
        error = float(batch["returns_to_go"][at] - found.largest[at])
        largest += abs(0.9 - (error < 0)) * error**2
        bin = int((min(max(float(batch["returns_to_go"][at]), -2.0), 2.0) + 2.0) / 4.0 * 9)
        bins -= float(found.bins[at].log_softmax(0)[bin])
    expected = (action + 2.0 * state + 0.5 * largest + 0.1 * bins) / len(real)
    assert float(module.loss(batch)[0]) == pytest.approx(expected, rel=1e-5)


def trimmed(window: dict, row: int, length: int, **changes) -> dict:
    """Return the last `length` steps of a row, with nothing before them."""
    return {name: value[row : row + 1, -length:] for name, value in {**window, **changes}.items() if name != "draws"}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", ["vector/continuous", "frames/discrete"])
def test_acting_is_a_loop_over_lengths(stride, kind):
    """Each length alone: draw the first return, value the last state; then act after the best one."""
    module = build(KINDS[kind], length_stride=stride, expert_weight=5.0)
    torch.nn.init.normal_(module.return_head.weight)  # else values are nearly equal, and the longest history is best
    window = windows(module)
    found, chosen = module.act(dict(window)), set()
    options = module.options

    def draw(logits, uniform):
        weighted = expert_probabilities(logits, options.expert_weight, options.top_share)
        return module.embedding.bins.middles(drawn(weighted, uniform))

    for row in range(6):
        steps, best = int(window["padding_mask"][row].sum()), None
        for length in range(steps, 0, -stride):
            place = 5 - length
            first = draw(module.outputs(trimmed(window, row, length)).bins[0, 0], window["draws"][row, place])
            returns = window["returns_to_go"].clone()
            returns[row, place] = first
            last = module.outputs(trimmed(window, row, length, returns_to_go=returns))
            value = float(last.largest[0, -1])
            if best is None or value > best[0]:
                best = (value, length, first, last.bins[0, -1])
        _, length, first, logits = best
        returns = window["returns_to_go"].clone()
        returns[row, 5 - length], returns[row, 4] = first, draw(logits, window["draws"][row, 5])
        if length == 1:
            returns[row, 4] = draw(logits, window["draws"][row, 5])
        expected = module.outputs(trimmed(window, row, length, returns_to_go=returns)).actions[0, -1]
        assert torch.allclose(found[row], expected, atol=1e-5)
        chosen.add(length)
    assert len(chosen) > 1  # not always the longest


def test_all_lengths_are_judged_in_one_pass(monkeypatch):
    module = build(length_stride=1)
    window, seen = windows(module), []
    forward = module.trunk.forward
    monkeypatch.setattr(
        module.trunk, "forward", lambda tokens, *args: (seen.append(tuple(tokens.shape[:2])), forward(tokens, *args))[1]
    )
    module.act(dict(window))
    # The first states of all histories, the histories up to their last state, and the chosen ones up to its return.
    assert seen == [(6 * 5, 1), (6 * 5, 3 * 5 - 2), (6, 3 * 5 - 1)]


def test_histories_end_with_the_current_step():
    real = torch.tensor([[True] * 5, [False] * 3 + [True] * 2])
    lengths = build(length_stride=2).histories(real).sum(dim=-1)
    assert lengths.tolist() == [[5, 3, 1], [2, 0, 0]]
    assert build(length_stride=2).histories(real)[0, 1].tolist() == [False, False, True, True, True]


def test_attention_sees_the_first_return_only():
    """The action of a step depends on the window's first return and, by its own token, on its own."""
    module = build()
    batch = windows(module)
    base = module(batch)[5, 3]
    for step, matters in enumerate((True, False, False, True, False)):
        returns = batch["returns_to_go"].clone()
        returns[5, step] = 2.0 if returns[5, step] < 0 else -2.0
        changed = module({**batch, "returns_to_go": returns})[5, 3]
        assert torch.equal(changed, base) is not matters, step


def test_what_is_seen_of_a_padded_window():
    mask = torch.tensor([[True] * 9, [False] * 3 + [True] * 6])
    assert (mask & first_returns_only(mask))[:, 1::3].tolist() == [[True, False, False], [False, True, False]]
    assert first_returns_only(mask)[:, [0, 2, 3, 5, 6, 8]].all()


def test_bins_span_the_data_and_are_saved(tmp_path):
    module = ElasticDecisionTransformer(model_config("edt"), DIMS)
    fit_steps(module, tmp_path, 2, checkpoint_every=2)
    windows_of_data = data_module(tmp_path, module, 2).windows
    returns = [
        sum(episode.rewards[start:]) / 10
        for episode in (windows_of_data.store.episode(number) for number in range(windows_of_data.store.num_episodes))
        for start in range(len(episode.rewards))
    ]
    assert module.embedding.bins.bounds.tolist() == pytest.approx([min(returns), max(returns)], abs=1e-5)
    loaded = ElasticDecisionTransformer.from_checkpoint(tmp_path / "latest.ckpt")
    assert torch.equal(loaded.embedding.bins.bounds, module.embedding.bins.bounds)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"bins": 1}, "model.bins must be at least 2, not 1."),
        ({"length_stride": 0}, "model.length_stride must be positive"),
        ({"top_share": 1.0}, r"model.top_share must lie in \[0, 1\)"),
        ({"bins_weight": -0.1}, "model.bins_weight must not be negative"),
    ],
)
def test_impossible_options_are_refused(option, message):
    with pytest.raises(ConfigError, match=message):
        build(**option)
