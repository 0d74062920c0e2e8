"""An LSTM in the place of DT's attention (Hochreiter and Schmidhuber, 1997): the control of the recurrent policies.

Schmied et al. (2024, arXiv 2410.22391; ml-jku/LRAM) ask whether recurrent policies act faster than transformers, and
answer it with xLSTM.
"""

from __future__ import annotations

from dtbench.models.base import RecurrentPolicy
from dtbench.models.parts.options import DecisionLstmConfig
from dtbench.models.parts.recurrent import Lstm
from dtbench.models.parts.trunk import TrunkConfig


class DecisionLstm(RecurrentPolicy):
    """DT with an LSTM in the place of attention."""

    Config = DecisionLstmConfig

    def mixer(self, config: TrunkConfig) -> Lstm:
        return Lstm(config)

    @property
    def stackable(self) -> bool:
        return False  # `torch.vmap` cannot take PyTorch's LSTM
