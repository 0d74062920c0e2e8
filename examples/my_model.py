"""A model of your own: a linear map from the last state to the action."""

from dataclasses import dataclass

from torch import nn

from dtbench.models.base import OfflineModule


@dataclass
class LinearConfig:
    bias: bool = True


class LinearPolicy(OfflineModule):
    Config = LinearConfig

    def __init__(self, config, spaces, seed=0):
        super().__init__(config, spaces, seed)
        self.layer = nn.Linear(spaces["observation_dim"], spaces["action_dim"], self.options.bias)

    def loss(self, batch):
        real = batch["padding_mask"]
        predicted = self.layer(batch["observations"][real])
        return nn.functional.mse_loss(predicted, batch["actions"][real]), {}

    def act(self, window):
        return self.layer(window["observations"][:, -1])
