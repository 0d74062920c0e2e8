"""Backbones: where a trunk's initial weights come from.

`scratch` (random), `bundled` and `bundled-plain` (small GPT-2s in this package), `synthetic(…)` (pretrained on a Markov
chain), a local folder, or a hub id such as `gpt2`. Weights are read from safetensors or with `weights_only=True`: no
code in the files is run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from dtbench.errors import ConfigError, DtbenchError, SourceError
from dtbench.models.backbone.hub import from_hub
from dtbench.models.backbone.scratch import ScratchOptions, is_named, options_in
from dtbench.models.checkpoint import load_checkpoint
from dtbench.models.parts.language_loss import LanguageTables
from dtbench.models.parts.memory import builds_on_meta
from dtbench.models.parts.mixers import Attention
from dtbench.models.parts.trunk import MixerFactory, Trunk, TrunkConfig

SCRATCH, BUNDLED, SYNTHETIC = "scratch", "bundled", "synthetic"
#: The GPT-2s of this package: one was started with two Markov heads, its twin was not.
SHIPPED = {name: Path(__file__).resolve().parent / name for name in (BUNDLED, f"{BUNDLED}-plain")}
_CONFIG, _TOKENIZER = "config.json", "tokenizer.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INDEX = "model.safetensors.index.json"

#: Finds the first of some files of a backbone, or raises FileNotFoundError or `SourceError`.
Files = Callable[..., Path]


@dataclass(frozen=True)
class Backbone:
    """A trunk's size and where its weights come from.

    Attributes:
        config: size and dropouts of the trunk.
        weights: under the names of `Trunk`; None for random ones, and for those that `AutoTrunk` loads.
        description: for results and tables.
        model_type: `gpt2`, or another causal language model, which enters through `AutoTrunk`.
        language: a GPT-2's word and position table.
        files: finds the files of a pretrained backbone.
        scratch: how random weights differ from an untrained GPT-2's.
    """

    config: TrunkConfig
    weights: dict[str, Tensor] | None
    description: str
    model_type: str = "gpt2"
    language: LanguageTables | None = None
    files: Files | None = None
    scratch: ScratchOptions = field(default_factory=ScratchOptions)

    def build(self, mixer: MixerFactory = lambda config, layer: Attention(config)) -> nn.Module:
        """Build the trunk and load its weights.

        Args:
            mixer: makes the token mixer of each layer.

        Raises:
            ConfigError: the weights lack a tensor of the trunk, or have another shape.
        """
        if self.model_type != "gpt2":
            from dtbench.models.backbone.auto_model import AutoTrunk

            assert self.files is not None
            return AutoTrunk(self.files(_CONFIG).parent, self.config)
        trunk = Trunk(self.config, mixer)
        self.scratch.apply(trunk)
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
        missing = [name for name in state if name not in self.weights and ".gate." not in name]
        if missing:
            raise ConfigError(f"The weights of backbone {self.description} lack {missing[0]}.")
        trunk.load_state_dict(self.weights, strict=False)

    def tokenizer(self) -> Any:
        """Return the backbone's own `tokenizers.Tokenizer`.

        Raises:
            ConfigError: the backbone is random, or its folder holds no readable tokenizer.
        """
        if self.files is None:
            raise ConfigError(f"Backbone {self.description} has no tokenizer; a pretrained language model has one.")
        try:
            return _read_tokenizer(self.files)
        except FileNotFoundError as error:
            raise ConfigError(f"Backbone {self.description} lacks {_TOKENIZER}: it cannot read text.") from error
        except DtbenchError:
            raise
        except Exception as error:  # tokenizers raises nothing more special
            what = f"The tokenizer of backbone {self.description}"
            raise ConfigError(f"{what} cannot be read: {_first_line(error)}") from error


def _read_tokenizer(files: Files) -> Any:
    from tokenizers import ByteLevelBPETokenizer, Tokenizer

    try:
        return Tokenizer.from_file(str(files(_TOKENIZER)))
    except (FileNotFoundError, SourceError):  # GPT-2's own repository once had these two only
        return ByteLevelBPETokenizer(str(files("vocab.json")), str(files("merges.txt")))


def load_backbone(name: str, scratch: TrunkConfig, dropout: float) -> Backbone:
    """Find a backbone.

    Args:
        name: `scratch` or `scratch(symmetric_heads=2,symmetric_std=0.3)`, `bundled`, `bundled-plain`, `synthetic` or
            `synthetic(states=100,temperature=1,steps=2000,seed=0)`, the path of a folder with config.json and
            model.safetensors, or a hub id such as `gpt2`.
        scratch: the size of a `scratch` trunk; pretrained ones have the size they have.
        dropout: GPT-2's `resid_pdrop`; the other dropouts keep GPT-2's own value (0.1).

    Raises:
        ConfigError: the backbone is not a causal language model, or its files cannot be read.
        SourceError: a hub id that is neither cached nor reachable.
    """
    if is_named(name, SCRATCH):
        options = options_in(name, ScratchOptions)
        size = f"{scratch.layers} × {scratch.width}, {scratch.heads} heads{options.description}"
        return Backbone(scratch, None, f"random ({size})", scratch=options)
    files, label = find_files(name)
    return _read(files, label, dropout)


def find_files(name: str) -> tuple[Files, str]:
    """Return what finds a backbone's files, and its name for results.

    Raises:
        ConfigError: the name is neither a folder nor a possible hub id.
    """
    if name in SHIPPED:
        return _in_folder(SHIPPED[name]), name
    if is_named(name, SYNTHETIC):
        from dtbench.models.backbone.recipes import synthetic_folder

        folder = synthetic_folder(name)
        return _in_folder(folder), folder.name
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _in_folder(folder), folder.resolve().name
    if name.startswith((".", "/", "~")):
        raise ConfigError(f"There is no backbone folder {name}; it must hold {_CONFIG} and {_WEIGHTS[0]}.")
    alternatives = (
        f"alternatives are a cache that has it (HF_HOME), a local folder with {_CONFIG} and {_WEIGHTS[0]} "
        f"(--set model.backbone=FOLDER), or the small one in this package "
        f"(--set model.backbone={BUNDLED})"
    )
    return (lambda *filenames: from_hub(name, *filenames, alternatives=alternatives)), name


def _in_folder(folder: Path) -> Files:
    def find(*filenames: str) -> Path:
        for filename in filenames:
            if (folder / filename).is_file():
                return folder / filename
        raise FileNotFoundError(filenames[0])

    return find


def _read(files: Files, name: str, dropout: float) -> Backbone:
    try:
        raw = read_json(files(_CONFIG))
        weights = _weight_files(files)
    except FileNotFoundError as error:
        raise ConfigError(f"Backbone {name!r} lacks {error.args[0]}.") from error
    except OSError as error:
        raise ConfigError(f"Backbone {name!r} cannot be read: {error}.") from error
    model_type = str(raw.get("model_type"))
    description = name if builds_on_meta() else f"{name} (sha256 {_digest(weights)[:12]})"
    if model_type != "gpt2":
        from dtbench.models.backbone.auto_model import trunk_config

        return Backbone(trunk_config(weights[0].parent, name), None, description, model_type, files=files)
    config = gpt2_trunk_config(raw, dropout)
    tensors = {tensor: value for file in weights for tensor, value in read_tensors(file).items()}
    tables = LanguageTables(_take(tensors, "wte.weight"), _take(tensors, "wpe.weight"))
    ours = gpt2_weights(tensors, config.layers)
    _check_widths(config, ours, tables, name)
    return Backbone(config, ours, description, language=tables, files=files)


def _check_widths(config: TrunkConfig, weights: dict[str, Tensor], tables: LanguageTables, name: str) -> None:
    """Compare `config.json` with the tensors before anything of its size is built.

    Raises:
        ConfigError: they belong to different models.
    """
    inner = config.inner_width or 4 * config.width
    found = (
        weights["final_norm.weight"].shape,
        weights["blocks.0.mixer.query.weight"].shape,
        weights["blocks.0.mlp_in.weight"].shape,
        tables.words.shape[1:],
        tables.positions.shape[1:],
    )
    width = config.width
    if found != ((width,), (width, width), (inner, width), (width,), (width,)):
        raise ConfigError(f"Backbone {name!r}: {_CONFIG} and the weights belong to models of different sizes.")


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ConfigError: the file holds anything else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file} must hold a JSON object, not a {type(content).__name__}.")
    return content


def _weight_files(files: Files) -> list[Path]:
    """Find the weights: one file, or the parts that an index names."""
    found = files(*_WEIGHTS, _INDEX)
    if found.name != _INDEX:
        return [found]
    names = read_json(found).get("weight_map")
    parts = set(names.values()) if isinstance(names, dict) else set()
    if not parts or not all(isinstance(part, str) and Path(part).name == part for part in parts):
        raise ConfigError(f"{found} does not name the files of the weights under weight_map.")
    return [files(part) for part in sorted(parts)]


def _digest(files: list[Path]) -> str:
    """Return the SHA-256 of one file, or of the digests of several."""
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256"))
    return (digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(d.digest() for d in digests))).hexdigest()


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read a `.safetensors` file, or a `.bin` with `weights_only=True`, as float32 without the prefix `transformer.`.

    While a model is built on the meta device, only the shapes are read.

    Raises:
        ConfigError: the file cannot be read, or holds anything but tensors.
    """
    if file.suffix == ".safetensors":
        tensors = _read_safetensors(file)
    else:
        tensors = load_checkpoint(file, "meta" if builds_on_meta() else "cpu")
    for name, tensor in tensors.items():
        if not (isinstance(name, str) and isinstance(tensor, Tensor)):
            raise ConfigError(f"{file} holds {name!r}, which is not a tensor.")
    return {name.removeprefix("transformer."): tensor.float() for name, tensor in tensors.items()}


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        if not builds_on_meta():
            return load_file(file)
        with safe_open(file, "pt") as content:
            return {name: torch.empty(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise ConfigError(f"{file} cannot be read: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return f"{text.splitlines()[0].rstrip('.')}."


def _take(tensors: dict[str, Tensor], name: str, dimensions: int = 2) -> Tensor:
    if name not in tensors:
        raise ConfigError(f"These are not the weights of a GPT-2: {name} is missing.")
    if tensors[name].dim() != dimensions:
        raise ConfigError(f"These are not the weights of a GPT-2: {name} has {tensors[name].dim()} dimensions.")
    return tensors[name]


def gpt2_trunk_config(raw: dict[str, Any], dropout: float) -> TrunkConfig:
    """Translate the content of a GPT-2 `config.json`.

    Raises:
        ConfigError: a size or a dropout is missing or impossible.
    """

    def number(name: str, kind: type, default: Any = None) -> Any:
        value = raw.get(name, default)
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ConfigError(f"{_CONFIG} of a GPT-2 needs {name} as {kind.__name__}, not {value!r}.")
        return value

    return TrunkConfig(
        width=number("n_embd", int),
        layers=number("n_layer", int),
        heads=number("n_head", int),
        activation=number("activation_function", str, "gelu_new"),
        inner_width=None if raw.get("n_inner") is None else number("n_inner", int),
        embedding_dropout=number("embd_pdrop", float, 0.1),
        attention_dropout=number("attn_pdrop", float, 0.1),
        residual_dropout=dropout,
        norm_eps=number("layer_norm_epsilon", float, 1e-5),
    )


def gpt2_weights(tensors: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Rename and reshape GPT-2's tensors for `Trunk`.

    GPT-2 keeps its maps as `Conv1D` (input × output) with query, key and value side by side; ours are `nn.Linear`
    (output × input) and three. The word table and the position table are left out.

    Raises:
        ConfigError: a tensor is missing, or has another shape.
    """
    ours: dict[str, Tensor] = {}

    def take_norm(theirs: str, name: str) -> None:
        for part in ("weight", "bias"):
            ours[f"{name}.{part}"] = _take(tensors, f"{theirs}.{part}", dimensions=1)

    def take_map(theirs: str, *names: str) -> None:
        weight, bias = _take(tensors, f"{theirs}.weight"), _take(tensors, f"{theirs}.bias", dimensions=1)
        if weight.shape[1] % len(names) or len(bias) != weight.shape[1]:
            raise ConfigError(f"These are not the weights of a GPT-2: {theirs} has an odd shape.")
        weights, biases = weight.t().chunk(len(names)), bias.chunk(len(names))
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
