"""Any other causal language model as a trunk: `transformers.AutoModel` fed with `inputs_embeds`."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from dtbench.errors import ConfigError
from dtbench.models.parts.memory import builds_on_meta
from dtbench.models.parts.trunk import TrunkConfig


def trunk_config(folder: Path, name: str) -> TrunkConfig:
    """Read width, layers and heads from a folder's `config.json`.

    Raises:
        ConfigError: the file cannot be read, or names a model that `transformers` does not know or that is not a causal
            language model.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        found = TrunkConfig(config.hidden_size, config.num_hidden_layers, config.num_attention_heads)
    except ConfigError:
        raise
    except Exception as error:  # whatever a damaged or foreign file makes transformers raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"Backbone {name!r} is not a model that transformers knows: {reason}") from error
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ConfigError(f"Backbone {name!r} is a {config.model_type!r}; a causal language model is needed.")
    return found


class AutoTrunk(nn.Module):
    """A model of `transformers` with the call of `Trunk`, (tokens, token_mask, select) → outputs, and its own dropouts.

    Raises:
        ConfigError: the weights cannot be read.
    """

    def __init__(self, folder: Path, config: TrunkConfig) -> None:
        from transformers import AutoConfig, AutoModel

        super().__init__()
        self.config = config
        if builds_on_meta():
            model = AutoModel.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))
        else:
            try:
                model = AutoModel.from_pretrained(folder, trust_remote_code=False, use_safetensors=True)
            except Exception as error:  # as above
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise ConfigError(f"The weights in {folder} cannot be read: {reason}") from error
        self.model = model.float()
        self.model.get_input_embeddings().requires_grad_(False)  # never used: tokens are embedded trajectories

    def forward(self, tokens: Tensor, token_mask: Tensor, select: slice | None = None) -> Tensor:
        """See `Trunk.forward`; (B, T, width) and (B, T) bool → (B, T', width)."""
        positions = (token_mask.cumsum(dim=1) - 1).clamp(min=0)
        out = self.model(
            inputs_embeds=tokens, attention_mask=token_mask.long(), position_ids=positions, use_cache=False
        ).last_hidden_state
        return out if select is None else out[:, select]
