"""`dtbench backbone text|synthetic`: from a text or a chain to a backbone folder with its card."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from dtbench import atomic
from dtbench.console import err
from dtbench.determinism import one_thread
from dtbench.errors import ConfigError, DataError
from dtbench.locks import lock
from dtbench.models.backbone.markov_chain import entropy_perplexity, markov_batches, transition_matrix
from dtbench.models.backbone.pretrain import (
    PretrainSettings,
    perplexity,
    pretrain,
    save_backbone,
    text_batches,
    unigram_perplexity,
)
from dtbench.models.backbone.scratch import options_in
from dtbench.models.backbone.text import encode, read_text, split_text, train_tokenizer
from dtbench.resources import home

#: The description of a backbone, beside its `config.json`, `model.safetensors` and `tokenizer.json`.
CARD_FILE = "card.json"
TOKENIZER_FILE = "tokenizer.json"
_HELD_OUT = 0.03


def make_text_backbone(
    text: Path, settings: PretrainSettings, output: Path, measure: dict[str, Path] | None = None
) -> dict[str, object]:
    """Train tokenizer and GPT-2 on all but the last 3 % of `text`, and measure it there and on the files `measure`.

    Args:
        text: file or folder of .txt or .txt.gz.
        settings: size and training.
        output: the backbone folder. Checkpoints and tokens are kept in `<output>.work`; the same call continues there.
        measure: further texts by name.

    Returns:
        The card, also written to `output`: settings, tokens seen, perplexities of the model and of token frequencies.

    Raises:
        ConfigError: `<output>.work` belongs to another text or other settings.
        SourceError: a text cannot be read.
        DataError: a text is too short.
    """
    work = output.with_name(f"{output.name}.work")
    work.mkdir(parents=True, exist_ok=True)
    whole = read_text(text)
    _keep_text(whole, work)
    train_text, held_out = split_text(whole, _HELD_OUT)
    if not train_text.strip() or not held_out.strip():
        raise DataError(f"The text {text} is too short: it must have lines to train on and others to measure on.")
    tokenizer_file, tokens_file = work / TOKENIZER_FILE, work / "tokens.npy"
    if not tokens_file.is_file():
        tokenizer = train_tokenizer(train_text, settings.vocabulary)
        tokenizer.save(str(tokenizer_file))
        with atomic.replacing(tokens_file) as part, part.open("wb") as stream:
            np.save(stream, encode(tokenizer, train_text))
    tokenizer, tokens = Tokenizer.from_file(str(tokenizer_file)), np.load(tokens_file, mmap_mode="r")
    texts = {"held out": held_out} | {name: read_text(path) for name, path in (measure or {}).items()}
    measured = {}
    model = pretrain(settings, text_batches(tokens, settings), work)
    for name, content in texts.items():
        ids = encode(tokenizer, content)
        measured[name] = {
            "tokens": len(ids),
            "perplexity": round(perplexity(model, ids), 1),
            "unigram_perplexity": round(unigram_perplexity(tokens, ids, settings.vocabulary), 1),
        }
    save_backbone(model, output)
    tokenizer.save(str(output / TOKENIZER_FILE))
    return _write_card(output, settings, {"kind": "text", "training_tokens": len(tokens), "measured": measured})


def _keep_text(text: str, work: Path) -> None:
    """Remember which text a folder belongs to."""
    file, digest = work / "text.sha256", hashlib.sha256(text.encode()).hexdigest()
    if file.is_file() and file.read_text(encoding="utf-8") != digest:
        raise ConfigError(f"{work} holds a training on another text; delete it or choose another --output.")
    atomic.write_text(file, digest)


@dataclass
class SyntheticOptions:
    """The options of `synthetic(…)`. The network has the size of the bundled one, so that the two can be compared."""

    states: int = 100
    temperature: float = 1.0
    steps: int = 2000
    seed: int = 0


def synthetic_options(name: str) -> SyntheticOptions:
    """Read `synthetic` or `synthetic(states=100,temperature=1,steps=2000,seed=0)`.

    Raises:
        ConfigError: an unknown option or a wrong value.
    """
    options = options_in(name, SyntheticOptions)
    _check(options)
    return options


def _check(options: SyntheticOptions) -> None:
    if options.states < 2 or options.steps < 1 or not 0 < options.temperature < math.inf:
        raise ConfigError("A synthetic backbone needs at least 2 states, 1 step and a positive, finite temperature.")


def synthetic_folder(name: str) -> Path:
    """Return the folder of a synthetic backbone under `$DTBENCH_HOME/backbones`, pretraining it at first use."""
    options = synthetic_options(name)
    label = f"synthetic-{options.states}-{options.temperature:g}-{options.steps}-{options.seed}"
    folder = home() / "backbones" / label
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(folder):
        if not folder.is_dir():
            err.print(f"backbone {label}: pretraining on a Markov chain, {options.steps:,} steps", markup=False)
            make_synthetic_backbone(options, folder)
    return folder


def make_synthetic_backbone(options: SyntheticOptions, output: Path) -> dict[str, object]:
    """Train a GPT-2 on a Markov chain (arXiv 2310.00771); deterministic in `options.seed`."""
    _check(options)
    settings = PretrainSettings(vocabulary=options.states, steps=options.steps, seed=options.seed)
    batches = markov_batches(settings, options.temperature)
    work, part = output.with_name(f"{output.name}.work"), output.with_name(f"{output.name}.part")
    with one_thread(), torch.device("cpu"):  # even where a model is being built without memory
        model = pretrain(settings, batches, work)
        unseen = np.concatenate([batches(settings.steps + index).ravel() for index in range(8)])
        reached = perplexity(model, unseen)
    save_backbone(model, part)
    best = entropy_perplexity(transition_matrix(options.states, options.temperature, options.seed))
    measured = {"perplexity": round(reached, 2), "least_possible": round(best, 2)}
    card = _write_card(part, settings, {"kind": "synthetic", "temperature": options.temperature, "measured": measured})
    part.replace(output)
    shutil.rmtree(work, ignore_errors=True)
    return card


def _write_card(output: Path, settings: PretrainSettings, description: dict[str, object]) -> dict[str, object]:
    card = {
        **description,
        "tokens_seen": settings.steps * settings.batch_size * settings.context,
        "sha256": hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest(),
        "settings": asdict(settings),
    }
    atomic.write_text(output / CARD_FILE, json.dumps(card, indent=2) + "\n")
    return card
