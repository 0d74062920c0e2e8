"""GPT-2 weights for the trunk: from the hub, from a local folder, or none (`scratch`).

Weights are read from safetensors only; nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dtbench.errors import ConfigError, SourceError
from dtbench.models.trunk import Trunk, TrunkConfig

SCRATCH = "scratch"
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
_HUB_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Backbone:
    """A trunk's size, its weights under our names (None = random), and a description for results and tables."""

    config: TrunkConfig
    weights: dict[str, Tensor] | None
    description: str

    def load_into(self, trunk: Trunk) -> None:
        """Copy the weights into `trunk`; parameters that GPT-2 does not have (gates) keep their initial values.

        Raises:
            ConfigError: the weights lack a tensor of the trunk, or have another shape.
        """
        if self.weights is None:
            return
        state = trunk.state_dict()
        for name, tensor in self.weights.items():
            if name not in state or state[name].shape != tensor.shape:
                raise ConfigError(f"The weights of backbone {self.description} do not fit the trunk at {name}.")
        lacking = [name for name in state if name not in self.weights and ".gate." not in name]
        if lacking:
            raise ConfigError(f"The weights of backbone {self.description} lack {lacking[0]}.")
        trunk.load_state_dict(self.weights, strict=False)


def load_backbone(name: str, scratch: TrunkConfig, dropout: float) -> Backbone:
    """Find a backbone.

    Args:
        name: `scratch`, the path of a folder with config.json and model.safetensors, or a hub id such as `gpt2`.
        scratch: the size of a `scratch` trunk; pretrained ones have the size they have.
        dropout: GPT-2-DT's, LaMo's and GPT2-DTMA's `resid_pdrop`; the other two keep GPT-2's own value (0.1).

    Raises:
        ConfigError: not a GPT-2, or not readable.
        SourceError: a hub id that is neither cached nor reachable.
    """
    if name == SCRATCH:
        return Backbone(scratch, None, f"random ({scratch.layers} × {scratch.width}, {scratch.heads} heads)")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _read_folder(folder / _CONFIG, folder / _WEIGHTS, folder.resolve().name, dropout)
    if name.startswith((".", "/", "~")):
        raise ConfigError(f"There is no backbone folder {name}; it must hold {_CONFIG} and {_WEIGHTS}.")
    return _read_folder(_from_hub(name, _CONFIG), _from_hub(name, _WEIGHTS), name, dropout)


def _from_hub(repo: str, filename: str) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(hf_hub_download(repo, filename, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise ConfigError(f"model.backbone={repo!r} is neither {SCRATCH!r}, a folder nor a hub id.") from error
    ways_out = (
        f"ways out: a cache that has it (HF_HOME), a local folder with {_CONFIG} and {_WEIGHTS} "
        f"(--set model.backbone=FOLDER), or random weights (--set model.backbone={SCRATCH})"
    )
    if not _reachable(constants.ENDPOINT):
        raise SourceError(f"Backbone {repo!r} is not cached and the model hub cannot be reached; {ways_out}.")
    try:
        return Path(hf_hub_download(repo, filename))
    except (RepositoryNotFoundError, EntryNotFoundError) as error:
        raise SourceError(f"The model hub has no {filename} for {repo!r}; {ways_out}.") from error
    except (HfHubHTTPError, OSError) as error:
        raise SourceError(f"Backbone {repo!r} could not be downloaded ({type(error).__name__}); {ways_out}.") from error


def _reachable(endpoint: str) -> bool:
    """Say within seconds whether the hub can be reached: its own client retries for much longer."""
    from urllib.parse import urlparse

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    url = urlparse(endpoint)
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True  # only the proxy knows; its answer decides
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        socket.create_connection((url.hostname or "", port), timeout=_HUB_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _read_folder(config_file: Path, weights_file: Path, name: str, dropout: float) -> Backbone:
    try:
        raw = json.loads(config_file.read_text())
        tensors = load_file(weights_file)
    except FileNotFoundError as error:
        raise ConfigError(f"Backbone {name!r} lacks {Path(error.filename or weights_file).name}.") from error
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"Backbone {name!r} cannot be read: {error}.") from error
    if raw.get("model_type") != "gpt2":
        raise ConfigError(f"Backbone {name!r} is a {raw.get('model_type')!r}; the trunk takes GPT-2 weights.")
    digest = hashlib.sha256(weights_file.read_bytes()).hexdigest()[:12]
    config = gpt2_trunk_config(raw, dropout)
    return Backbone(config, gpt2_weights(tensors, config.layers), f"{name} (sha256 {digest})")


def gpt2_trunk_config(raw: dict[str, Any], dropout: float) -> TrunkConfig:
    """Translate the content of a GPT-2 `config.json`."""
    return TrunkConfig(
        width=raw["n_embd"],
        layers=raw["n_layer"],
        heads=raw["n_head"],
        activation=raw.get("activation_function", "gelu_new"),
        inner_width=raw.get("n_inner"),
        embedding_dropout=raw.get("embd_pdrop", 0.1),
        attention_dropout=raw.get("attn_pdrop", 0.1),
        residual_dropout=dropout,
        norm_eps=raw.get("layer_norm_epsilon", 1e-5),
    )


def gpt2_weights(tensors: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Rename and reshape GPT-2's tensors for `Trunk`.

    GPT-2 keeps its maps as `Conv1D` (input × output) with query, key and value side by side; ours are `nn.Linear`
    (output × input) and three. The word table and the position table are left out.

    Raises:
        ConfigError: a tensor is missing.
    """
    tensors = {name.removeprefix("transformer."): tensor.float() for name, tensor in tensors.items()}
    ours: dict[str, Tensor] = {}

    def take(name: str) -> Tensor:
        if name not in tensors:
            raise ConfigError(f"These are not the weights of a GPT-2: {name} is missing.")
        return tensors[name]

    def take_norm(theirs: str, name: str) -> None:
        ours[f"{name}.weight"], ours[f"{name}.bias"] = take(f"{theirs}.weight"), take(f"{theirs}.bias")

    def take_map(theirs: str, *names: str) -> None:
        weights = take(f"{theirs}.weight").t().chunk(len(names))
        biases = take(f"{theirs}.bias").chunk(len(names))
        for name, weight, bias in zip(names, weights, biases, strict=True):
            ours[f"{name}.weight"], ours[f"{name}.bias"] = weight.contiguous(), bias.contiguous()

    for layer in range(layers):
        block = f"blocks.{layer}"
        take_norm(f"h.{layer}.ln_1", f"{block}.mixer_norm")
        take_norm(f"h.{layer}.ln_2", f"{block}.mlp_norm")
        take_map(f"h.{layer}.attn.c_attn", *(f"{block}.mixer.{part}" for part in ("query", "key", "value")))
        take_map(f"h.{layer}.attn.c_proj", f"{block}.mixer.output")
        take_map(f"h.{layer}.mlp.c_fc", f"{block}.mlp_in")
        take_map(f"h.{layer}.mlp.c_proj", f"{block}.mlp_out")
    take_norm("ln_f", "final_norm")
    return ours
