"""Models that break one rule of the contract each, for `test_contract.py`; and one that breaks none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from dtbench.models.base import OfflineModule, SequenceConfig, SequencePolicy, mean_over_real
from dtbench.models.parts.heads import ActionHead
from dtbench.models.parts.tokens import TrajectoryEmbedding


@dataclass
class SoundConfig:
    scale: float = 1.0


class Sound(OfflineModule):
    """A linear map from the last state to the action."""

    Config = SoundConfig

    def __init__(self, config, dims, seed=0):
        super().__init__(config, dims, seed)
        self.layer = nn.Linear(dims["observation_dim"], dims["action_dim"])

    def loss(self, batch):
        real = batch["padding_mask"]
        error = self.layer(batch["observations"][real]) - batch["actions"][real]
        return error.square().mean(), {}

    def act(self, window):
        return self.layer(window["observations"][:, -1])


class WrongShape(Sound):
    def act(self, window):
        return super().act(window)[:, :1]


class WrongType(Sound):
    def act(self, window):
        return super().act(window).double()


class Noisy(Sound):
    def act(self, window):
        return super().act(window) + torch.randn(2)


class Constant(Sound):
    def act(self, window):
        return 0 * super().act(window)


class ReadsItsOwnAction(Sound):
    def act(self, window):
        return super().act(window) + window["actions"][:, -1]


class MixForwards(nn.Module):
    """Adds to every token the average of all of its window, later ones included."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens, mask, select=None):
        real = mask[..., None]
        mixed = self.norm(tokens + (tokens * real).sum(1, keepdim=True) / real.sum(1, keepdim=True))
        return mixed if select is None else mixed[:, select]


class LooksAhead(SequencePolicy):
    Config = SequenceConfig

    def __init__(self, config, dims, seed=0):
        super().__init__(config, dims, seed)
        self.embedding = TrajectoryEmbedding(self.spaces, 16, norm_before_time=True)
        self.trunk = MixForwards(16)
        self.head = ActionHead(16, dims["action_dim"])

    def act(self, window):
        before = {**window, "actions": window["actions"].clone()}
        before["actions"][:, -1] = 0  # so that only what the training sees is wrong
        return super().act(before)


class ReadsPadding(Sound):
    def act(self, window):
        return super().act(window) + window["observations"].mean(dim=(1, 2))[:, None]


class LearnsFromPadding(Sound):
    def loss(self, batch):
        return (self.layer(batch["observations"]) - batch["actions"]).square().mean(), {}


class LearnsOverall(Sound):
    """Picks the real steps without a shape that depends on the mask."""

    def loss(self, batch):
        error = (self.layer(batch["observations"]) - batch["actions"]).square()
        return mean_over_real(error, batch["padding_mask"]), {}


class CountsItsSteps(Sound):
    """Carries the number of steps and adds it to its actions, which no window tells `act`."""

    def initial_state(self, count):
        return (torch.zeros(count, 1),)

    def act_step(self, last, state):
        (steps,) = state
        return self.act(last) + 0.1 * steps, (steps + 1,)


class StatesOfNobody(CountsItsSteps):
    """Carries something that has no row per episode."""

    def initial_state(self, count):
        return (torch.zeros(1),)


class NeverLearns(Sound):
    def loss(self, batch):
        loss, metrics = super().loss(batch)
        return loss.detach() + 0 * self.layer.weight.sum(), metrics


class ForgetsWhatItLearnt(Sound):
    """Acts with a factor that training changes and no checkpoint holds."""

    factor = 1.0

    def loss(self, batch):
        self.factor = 0.5
        return super().loss(batch)

    def act(self, window):
        return self.factor * super().act(window)


class HiddenState(Sound):
    """Counts its steps in an attribute that no checkpoint holds."""

    count = 0

    def loss(self, batch):
        self.count += 1
        loss, metrics = super().loss(batch)
        return loss * (1 + 0.01 * (self.count % 2)), metrics


class UnseededWeights(Sound):
    def __init__(self, config, dims, seed=0):
        super().__init__(config, dims, seed)
        with torch.no_grad():
            # Little, so that the model still learns: only its seeding is wrong.
            noise = np.random.default_rng().normal(size=self.layer.weight.shape)
            self.layer.weight.add_(0.01 * torch.from_numpy(noise))


class UnseededLoss(Sound):
    def loss(self, batch):
        loss, metrics = super().loss(batch)
        return loss + 0.01 * self.layer.bias.sum() * np.random.default_rng().normal(), metrics


class StacksAMask(Sound):
    """Says that its seeds can be trained as one, and picks the real steps by a mask."""

    stackable = True


class StacksAnotherRate(LearnsOverall):
    """Says that its seeds can be trained as one, and has an optimiser of its own."""

    stackable = True

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Crashes(Sound):
    def loss(self, batch):
        raise ValueError("no idea how")


class DriftsApart(Sound):
    """Trains a weight that is not in the module that Lightning wraps, so its gradient is never averaged."""

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        with torch.no_grad():
            self.layer.bias += 0.1 * self.global_rank
