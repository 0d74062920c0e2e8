"""Trajectory Transformer: tokens and loss against plain loops, its cache, its plans, and the published settings."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dtbench.config import compose, load_preset
from dtbench.data.windows import WindowOptions, Windows
from dtbench.errors import ConfigError
from dtbench.models.tt import CachedSequences, TrajectoryTransformer
from dtbench.registry import MODELS, model_entry
from dtbench.spaces import Spaces
from dtbench.suites.suites import load_suite
from dtbench.testing import DIMS, KINDS, model_config, small_store, windows

OBSERVATION, ACTION = DIMS["observation_dim"], DIMS["action_dim"]
STEP, K, BINS = OBSERVATION + ACTION + 2, 5, 10
#: Float32, sums in another order; logits are of order 1.
ROUNDING = 1e-5


def build(spaces: Spaces = DIMS, **model) -> TrajectoryTransformer:
    """Build a model whose attention and logits are far from uniform."""
    module = TrajectoryTransformer(model_config("tt", **model), spaces).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("tt"))


def shown(store, module: TrajectoryTransformer) -> Windows:
    """Return the data's windows, after the model has seen the data."""
    found = Windows(store, WindowOptions(K, normalize_states=False, **module.window_options))
    module.see_data(found)
    return found


def joined(store, penalty: float | None, discount: float) -> list[np.ndarray]:
    """Return observations, actions, rewards and values of each episode, by the definition: (T, D)."""
    found = []
    for begin, end in zip(store.episode_offsets[:-1], store.episode_offsets[1:], strict=True):
        rewards = [float(reward) for reward in store.rewards[begin:end]]
        if penalty is not None and store.terminations[end - 1]:
            rewards[-1] = penalty
        values = [sum(discount**k * r for k, r in enumerate(rewards[t + 1 :])) for t in range(len(rewards))]
        columns = (store.observations[begin:end], store.actions[begin:end], np.array([rewards, values]).T)
        found.append(np.concatenate(columns, axis=1))
    return found


@pytest.mark.parametrize("penalty", [-100.0, None])
def test_bins_are_of_states_actions_rewards_and_values(store, penalty):
    module = build(termination_penalty="null" if penalty is None else penalty, discretizer="uniform")
    shown(store, module)
    everything = np.concatenate(joined(store, penalty, 0.99))
    edges = module.discretizer.edges.numpy()
    assert edges[:, 0] == pytest.approx(everything.min(axis=0), rel=1e-4, abs=1e-5)
    assert edges[:, -1] == pytest.approx(everything.max(axis=0), rel=1e-4, abs=1e-5)
    assert bool(everything[:, -2].min() == -100) is (penalty is not None)


def by_loop(store, module: TrajectoryTransformer, start: int) -> tuple[list[list[int]], list[int]]:
    """Return the tokens of K steps from a start on, and their times."""
    episode = max(e for e in range(store.num_episodes) if store.episode_offsets[e] <= start)
    first = start - store.episode_offsets[episode]
    content = joined(store, -100.0, 0.99)[episode]
    edges = module.discretizer.edges.numpy()
    steps = []
    for time in range(first, first + K):
        if time >= len(content):
            steps.append([BINS] * STEP)
            continue
        at = [sum(edge <= np.float32(x) for edge in edges[d]) - 1 for d, x in enumerate(content[time])]
        steps.append([min(max(place, 0), BINS - 1) for place in at])
    return steps, list(range(first, first + K))


def test_loss_is_the_equation(store):
    # Quantiles are numbers of the data, which rounding can take across the edges that they are.
    module = build(action_weight=5, reward_weight=2, value_weight=3, discretizer="uniform")
    limit = 25  # shorter than the longest episodes: what comes after it does not count
    object.__setattr__(module.spaces, "max_timesteps", limit)
    data = shown(store, module)
    starts = torch.arange(store.num_steps)
    found, _ = module.loss(data.gather(starts))
    weights = [1.0] * OBSERVATION + [5.0] * ACTION + [2.0, 3.0]
    total, count, near = 0.0, 0, 0
    for start in starts.tolist():
        steps, times = by_loop(store, module, start)
        tokens = [token for step in steps for token in step]
        with torch.no_grad():
            log_likelihood = module(torch.tensor([tokens[:-1]]))[0].log_softmax(-1)
        for place, target in enumerate(tokens[1:]):
            count += 1
            if times[place // STEP] < limit:
                total -= weights[(place + 1) % STEP] * float(log_likelihood[place, target])
            else:
                near += 1
    assert near > 0
    assert found.item() == pytest.approx(total / count, rel=1e-5)


def test_no_token_sees_a_value_or_what_comes_later():
    module = build()
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(BINS, (2, K * STEP - 1), generator=generator)
    with torch.no_grad():
        before = module(tokens)
        for place in range(0, tokens.shape[1], 3):
            changed = tokens.clone()
            changed[:, place] = (changed[:, place] + 1) % BINS
            moved = (module(changed) - before).abs().amax(dim=(0, 2)) > 0
            sees = torch.arange(tokens.shape[1]) >= place
            if place % STEP == STEP - 1:
                sees = torch.arange(tokens.shape[1]) == place
            assert torch.equal(moved, sees), place


def test_each_dimension_has_its_own_head_and_its_own_rows_of_the_table():
    module = build()
    tokens = torch.zeros(1, K * STEP - 1, dtype=torch.int64)
    tokens[0, STEP + 1] = BINS  # a stop token is the same in all dimensions
    module(tokens)[:, 2::STEP].sum().backward()
    assert [head.weight.grad is not None and bool(head.weight.grad.any()) for head in module.heads] == [
        dimension == 2 for dimension in range(STEP)
    ]
    read = module.embedding.weight.grad.abs().sum(dim=1).nonzero()[:, 0].tolist()
    assert read == [*(dimension * BINS for dimension in range(STEP - 1)), STEP * BINS]  # values are not seen


@torch.no_grad()
def test_cached_log_probabilities_equal_those_without_a_cache():
    """Over several steps, with rows that go on, and without the first step wherever `most` steps are full."""
    module, most = build(), 3
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(BINS + 1, (4, STEP + OBSERVATION), generator=generator)
    sequences = CachedSequences(module, tokens, most)
    cuts = 0
    for place in range(4 * STEP):
        if tokens.shape[1] == most * STEP:
            tokens, cuts = tokens[:, STEP:], cuts + 1
        expected = module(tokens)[:, -1].log_softmax(-1)
        assert torch.allclose(sequences.logits().log_softmax(-1), expected, atol=ROUNDING), place
        following = torch.randint(BINS + 1, (4,), generator=generator)
        sequences.append(following)
        tokens = torch.cat((tokens, following[:, None]), dim=1)
        if place % 5 == 4:
            rows = torch.randint(4, (4,), generator=generator)
            sequences.select(rows)
            tokens = tokens[rows]
    assert cuts == 3


def test_an_action_is_the_middle_of_the_best_plans_first_bins(store):
    module = build(horizon=3, beam_width=3)
    shown(store, module)
    window = windows(module)
    actions = module.act(dict(window))
    row = 5  # without padding
    assert window["padding_mask"][row].all()
    alone = {name: window[name][row : row + 1] for name in ("observations", "actions", "rewards", "draws")}
    tokens, _ = module.plan(alone)
    assert tokens.shape == (1, 3 * STEP - OBSERVATION)
    for dimension in range(ACTION):
        edges, place = module.discretizer.edges[OBSERVATION + dimension], min(int(tokens[0, dimension]), BINS - 1)
        assert actions[row, dimension].item() == pytest.approx((edges[place] + edges[place + 1]).item() / 2)


def test_a_plan_depends_on_its_own_window_only():
    module = build()
    window = windows(module, batch=12)
    window["padding_mask"][:] = True
    alone = module.act({name: value[:6] for name, value in window.items()})
    beside = module.act({name: torch.cat((value[:6], value[6:].flip(0))) for name, value in window.items()})[:6]
    assert torch.equal(alone, beside)


def test_other_draws_find_other_plans():
    module = build(cdf_act="null", beam_width=1, n_expand=1, horizon=1)
    window = windows(module)
    before = module.act(dict(window))
    assert torch.equal(module.act(dict(window)), before)
    assert not torch.equal(module.act({**window, "draws": 1 - window["draws"]}), before)


def test_the_models_own_value_of_a_plan_rises_with_the_search():
    """Wider searches find better plans by what they are judged by: on average over windows, not for each of them."""
    values = []
    for width in (1, 8, 64):
        module = build(beam_width=width, n_expand=2, horizon=2, cdf_act="null")
        window = windows(module, batch=20)
        window["padding_mask"][:] = True
        part = {name: window[name] for name in ("observations", "actions", "rewards", "draws")}
        values.append(module.plan(part)[1].mean().item())
    assert values[0] < values[1] < values[2]


def test_discrete_actions_are_their_numbers():
    spaces = KINDS["vector/discrete"]
    module = TrajectoryTransformer(model_config("tt", beam_width=1, n_expand=1, horizon=1), spaces).eval()
    module.see_data(SimpleNamespace(steps=lambda: [windows(module)]))
    assert module.discretizer.edges[OBSERVATION].tolist() == list(range(BINS + 1))
    window = windows(module, batch=40)
    actions = module.act(window)
    assert actions.sum(dim=1).tolist() == [1.0] * 40
    assert set(actions.argmax(dim=1).tolist()) == {0, 1, 2}
    with pytest.raises(ConfigError, match=r"model\.bins must be at least the number of actions, 3"):
        TrajectoryTransformer(model_config("tt", bins=2), spaces)


def test_published_settings():
    """JannerM/trajectory-transformer: config/offline.py (base, and those of the datasets) and scripts/train.py."""
    entry, suite, preset = model_entry("tt"), load_suite("d4rl-short"), load_preset("paper")
    found = {}
    for task in suite.tasks:
        config = compose(entry.settings, preset=preset, suite=suite, task=task)
        model, optimizer, training = config.model, config.optimizer, config.training
        assert (model.layers, model.heads, model.width, model.dropout) == (4, 4, 4 * 32, 0.1)
        assert (model.bins, model.discretizer, model.discount, model.termination_penalty) == (
            100,
            "quantile",
            0.99,
            -100,
        )
        assert (model.action_weight, model.reward_weight, model.value_weight) == (5, 1, 1)
        assert (optimizer.learning_rate, optimizer.betas, optimizer.weight_decay) == (6e-4, (0.9, 0.95), 0.1)
        assert (optimizer.gradient_clip, optimizer.decay, optimizer.decay_floor) == (1.0, "cosine", 0.1)
        assert (training.batch_size, training.context_length) == (256, 10)
        assert (model.n_expand, model.plan_context, model.k_obs, model.cdf_obs) == (2, 5, 1, None)
        epochs = training.steps * 256 / 1e6
        assert optimizer.decay_length * epochs == pytest.approx(20, abs=0.01)
        found[task.id] = (model.horizon, model.beam_width, model.k_act, model.cdf_act, round(epochs))
    usual = (15, 128, None, 0.6, 50)
    assert found == {
        "hopper-medium": usual,
        "hopper-medium-replay": (15, 128, None, 0.6, 80),
        "hopper-medium-expert": usual,
        "halfcheetah-medium": (5, 32, None, 0.6, 50),
        "halfcheetah-medium-replay": (5, 32, None, 0.6, 50),
        "halfcheetah-medium-expert": (15, 32, None, 0.6, 50),
        "walker2d-medium": usual,
        "walker2d-medium-replay": (20, 32, 40, None, 80),
        "walker2d-medium-expert": (5, 128, None, 0.6, 50),
    }
    assert not MODELS["tt"].conditions_on_return


def test_small_presets_keep_their_small_beams_on_tasks_with_settings_of_their_own():
    entry, suite = model_entry("tt"), load_suite("d4rl-short")
    for task in suite.tasks[-2:]:
        model = compose(entry.settings, preset=load_preset("quick"), suite=suite, task=task).model
        assert (model.horizon, model.beam_width, model.n_expand) == (2, 4, 2)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("bins", 1, "model.bins must be at least 2, not 1"),
        ("discretizer", "kmeans", "model.discretizer must be one of quantile, uniform"),
        ("discount", 1.0, r"model.discount must lie in \(0, 1\)"),
        ("beam_width", 0, "model.beam_width must be positive"),
        ("k_act", 0, "model.k_act must be at least 1, or null"),
        ("cdf_act", 1.0, r"model.cdf_act must lie in \[0, 1\), or be null"),
        ("action_weight", -1, "model.action_weight must not be negative"),
        ("plan_context", 1, "model.plan_context=1 needs model.horizon=1"),
        ("width", 33, "model.width must be a multiple of model.heads=2"),
    ],
)
def test_impossible_options_are_refused(option, value, message):
    with pytest.raises(ConfigError, match=message):
        model_config("tt", **{option: value})


def test_a_context_of_one_step_is_too_short_for_plans():
    config = model_config("tt")
    config.training.context_length = 1
    with pytest.raises(ConfigError, match=r"training\.context_length=1 needs model\.horizon=1"):
        TrajectoryTransformer(config, DIMS)
