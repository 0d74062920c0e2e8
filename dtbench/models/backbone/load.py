"""Backbones: where a trunk's initial weights come from.

`scratch` (random), `bundled` (the small GPT-2 in this package), `synthetic(…)` (pretrained on a Markov chain), a local
folder, or a hub id such as `gpt2`. Weights are read from safetensors or with `weights_only=True`: none of their code
runs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from dtbench.errors import ConfigError, SourceError
from dtbench.models.backbone.hub import from_hub
from dtbench.models.parts.language_loss import LanguageTables
from dtbench.models.parts.memory import builds_on_meta
from dtbench.models.parts.mixers import Attention
from dtbench.models.parts.trunk import MixerFactory, Trunk, TrunkConfig

SCRATCH, BUNDLED, SYNTHETIC = "scratch", "bundled", "synthetic"
BUNDLED_FOLDER = Path(__file__).resolve().parent / "bundled"
_CONFIG, _TOKENIZER = "config.json", "tokenizer.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INDEX = "model.safetensors.index.json"

#: Finds the first of some files of a backbone, or raises FileNotFoundError or `SourceError`.
Files = Callable[..., Path]


@dataclass(frozen=True)
class Backbone:
    """A trunk's size, its weights under our names (None = random), and a description for results and tables.

    `language` and `files` are None for a random one. `model_type` other than `gpt2` is a causal language model that
    enters through `transformers.AutoModel` (`models/adapter.py`).
    """

    config: TrunkConfig
    weights: dict[str, Tensor] | None
    description: str
    model_type: str = "gpt2"
    language: LanguageTables | None = None
    files: Files | None = None

    def build(self, mixer: MixerFactory = lambda config, layer: Attention(config)) -> nn.Module:
        """Return the trunk with its weights in it; `mixer` makes the token mixer of each layer.

        Raises:
            ConfigError: the weights lack a tensor of the trunk, or have another shape.
        """
        if self.model_type != "gpt2":
            from dtbench.models.backbone.auto_model import AutoTrunk

            assert self.files is not None
            return AutoTrunk(self.files(_CONFIG).parent, self.config)
        trunk = Trunk(self.config, mixer)
        self.load_into(trunk)
        return trunk

    def load_into(self, trunk: Trunk) -> None:
        """Copy the weights into `trunk`; parameters that GPT-2 does not have (gates) keep their initial values."""
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

    def tokenizer(self) -> Any:
        """Return the backbone's own `tokenizers.Tokenizer`.

        Raises:
            ConfigError: a random backbone has none, or the folder holds none.
        """
        from tokenizers import ByteLevelBPETokenizer, Tokenizer

        if self.files is None:
            raise ConfigError(f"Backbone {self.description} has no tokenizer; a pretrained language model has one.")
        try:
            return Tokenizer.from_file(str(self.files(_TOKENIZER)))
        except (FileNotFoundError, SourceError):
            try:
                return ByteLevelBPETokenizer(str(self.files("vocab.json")), str(self.files("merges.txt")))
            except FileNotFoundError as error:
                raise ConfigError(f"Backbone {self.description} lacks {_TOKENIZER}: it cannot read text.") from error


def load_backbone(name: str, scratch: TrunkConfig, dropout: float) -> Backbone:
    """Find a backbone.

    Args:
        name: `scratch`, `bundled`, `synthetic` or `synthetic(states=100,temperature=1,steps=2000,seed=0)`, the path of
            a folder with config.json and model.safetensors, or a hub id such as `gpt2`.
        scratch: the size of a `scratch` trunk; pretrained ones have the size they have.
        dropout: GPT-2-DT's, LaMo's and GPT2-DTMA's `resid_pdrop`; the other two keep GPT-2's own value (0.1).

    Raises:
        ConfigError: not a causal language model, or not readable.
        SourceError: a hub id that is neither cached nor reachable.
    """
    if name == SCRATCH:
        return Backbone(scratch, None, f"random ({scratch.layers} × {scratch.width}, {scratch.heads} heads)")
    files, label = find_files(name)
    return _read(files, label, dropout)


def find_files(name: str) -> tuple[Files, str]:
    """Return where a backbone's files are, and its name for results.

    Raises:
        ConfigError: neither a folder nor a possible hub id.
    """
    if name == BUNDLED:
        return _in_folder(BUNDLED_FOLDER), BUNDLED
    if re.fullmatch(rf"{SYNTHETIC}(\(.*\))?", name):
        from dtbench.models.backbone.recipes import synthetic_folder

        folder = synthetic_folder(name)
        return _in_folder(folder), folder.name
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _in_folder(folder), folder.resolve().name
    if name.startswith((".", "/", "~")):
        raise ConfigError(f"There is no backbone folder {name}; it must hold {_CONFIG} and {_WEIGHTS[0]}.")
    ways_out = (
        f"ways out: a cache that has it (HF_HOME), a local folder with {_CONFIG} and {_WEIGHTS[0]} "
        f"(--set model.backbone=FOLDER), or the small one in this package "
        f"(--set model.backbone={BUNDLED})"
    )
    return (lambda *filenames: from_hub(name, *filenames, ways_out=ways_out)), name


def _in_folder(folder: Path) -> Files:
    def find(*filenames: str) -> Path:
        for filename in filenames:
            if (folder / filename).is_file():
                return folder / filename
        raise FileNotFoundError(filenames[0])

    return find


def _read(files: Files, name: str, dropout: float) -> Backbone:
    try:
        raw = json.loads(files(_CONFIG).read_text())
        weights = _weight_files(files)
    except FileNotFoundError as error:
        raise ConfigError(f"Backbone {name!r} lacks {error.args[0]}.") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"Backbone {name!r} cannot be read: {error}.") from error
    model_type = str(raw.get("model_type"))
    description = name if builds_on_meta() else f"{name} (sha256 {_digest(weights)[:12]})"
    if model_type != "gpt2":
        from dtbench.models.backbone.auto_model import trunk_config

        return Backbone(trunk_config(weights[0].parent, name), None, description, model_type, files=files)
    config = gpt2_trunk_config(raw, dropout)
    tensors = {tensor: value for file in weights for tensor, value in read_tensors(file).items()}
    tables = LanguageTables(_take(tensors, "wte.weight"), _take(tensors, "wpe.weight"))
    return Backbone(config, gpt2_weights(tensors, config.layers), description, language=tables, files=files)


def _weight_files(files: Files) -> list[Path]:
    """Find the weights: one file, or the parts that an index names."""
    found = files(*_WEIGHTS, _INDEX)
    if found.name != _INDEX:
        return [found]
    return [files(part) for part in sorted(set(json.loads(found.read_text())["weight_map"].values()))]


def _digest(files: list[Path]) -> str:
    """Return the sha256 of one file, or of the digests of several."""
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256"))
    return (digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(d.digest() for d in digests))).hexdigest()


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read a `.safetensors` file, or a `.bin` with `weights_only=True`, as float32 without the prefix `transformer.`.

    Raises:
        ConfigError: not readable.
    """
    try:
        tensors = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
    except (OSError, ValueError, RuntimeError, SafetensorError, UnpicklingError) as error:
        raise ConfigError(f"{file} cannot be read: {str(error).splitlines()[0]}.") from error
    return {name.removeprefix("transformer."): tensor.float() for name, tensor in tensors.items()}


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    if not builds_on_meta():
        return load_file(file)
    with safe_open(file, "pt") as content:
        return {name: torch.empty(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118


def _read_pickle(file: Path) -> dict[str, Tensor]:
    return torch.load(file, map_location="meta" if builds_on_meta() else "cpu", weights_only=True)


def _take(tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ConfigError(f"These are not the weights of a GPT-2: {name} is missing.")
    return tensors[name]


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
        return _take(tensors, name)

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
