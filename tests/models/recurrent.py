"""What the tests of recurrent policies share: an episode, and which of its steps the last action depends on."""

from __future__ import annotations

import torch

from dtbench.models.base import OfflineModule, Window
from dtbench.testing import DIMS


def episode(steps: int) -> Window:
    """Return one random episode as a window of all its steps; the last action is not taken yet."""
    generator = torch.Generator().manual_seed(0)
    actions = torch.rand(1, steps, DIMS["action_dim"], generator=generator) * 2 - 1
    actions[:, -1] = 0
    return {
        "observations": torch.randn(1, steps, DIMS["observation_dim"], generator=generator),
        "actions": actions,
        "rewards": torch.randn(1, steps, generator=generator),
        "returns_to_go": torch.randn(1, steps, generator=generator),
        "timesteps": torch.arange(steps)[None],
        "padding_mask": torch.ones(1, steps, dtype=torch.bool),
    }


def last_action(module: OfflineModule, seen: Window) -> torch.Tensor:
    """Let a policy act through an episode as it does in an evaluation: (action size,)."""
    steps = seen["padding_mask"].shape[1]
    state = module.initial_state(1)
    if state is None:
        return module.act({name: value[:, -module.context_length :] for name, value in seen.items()})[0]
    first = {name: torch.cat((torch.zeros_like(value[:, :1]), value[:, :1]), dim=1) for name, value in seen.items()}
    for step in range(steps):
        last = first if step == 0 else {name: value[:, step - 1 : step + 1].clone() for name, value in seen.items()}
        last["actions"][:, -1] = 0
        action, state = module.act_step(last, state)
    return action[0]


def steps_that_count(module: OfflineModule, steps: int) -> list[int]:
    """Return the steps of an episode whose observations the last action depends on."""
    seen = episode(steps)
    seen["observations"].requires_grad_()
    last_action(module, seen).sum().backward()
    gradient = seen["observations"].grad
    assert gradient is not None
    return [step for step in range(steps) if gradient[0, step].abs().sum() > 0]
