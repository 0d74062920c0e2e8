"""Pretrain a small GPT-2 on token sequences, and measure its perplexity."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

from dtbench import atomic
from dtbench.errors import ConfigError, DataError
from dtbench.hardware import BFLOAT16, FLOAT32, keep_freed_memory
from dtbench.models.checkpoint import load_checkpoint

Tokens = NDArray[np.integer]
#: Draws the batch of a step, (B, T) integers: a function of (seed, step) alone, so that a training can be resumed.
BatchSource = Callable[[int], Tokens]
_CHECKPOINT, _LOG = "latest.pt", "progress.csv"
#: Tokens whose logits are computed together: those of a whole batch do not fit the processor's cache.
_CHUNK = 512


@dataclass(frozen=True)
class PretrainSettings:
    """Size and training of a backbone; written into its card.

    Attributes:
        context: tokens per sequence; also the rows of the position table.
        repeat_share: share of the sequences that are one stretch of text over and over (see `text_batches`).
        symmetric_heads: number of heads of layer 0 that start with keys equal to queries, drawn with standard deviation
            `symmetric_std`: W_q W_kᵀ is then positive semi-definite, as pretrained transformers' tend to be (mimetic
            initialisation, Trockman & Kolter 2023, arXiv 2305.09828), and with a large deviation a Markov head.
        symmetric_std: standard deviation of their weights.
        precision: `32-true` or `bf16-mixed`, Lightning's names.
    """

    vocabulary: int
    steps: int
    layers: int = 4
    heads: int = 4
    width: int = 128
    context: int = 256
    batch_size: int = 8
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.1
    gradient_clip: float = 1.0
    dropout: float = 0.0
    repeat_share: float = 0.0
    symmetric_heads: int = 0
    symmetric_std: float = 0.02
    seed: int = 0
    precision: str = FLOAT32

    def __post_init__(self) -> None:
        if self.precision not in (FLOAT32, BFLOAT16):
            raise ConfigError(f"A backbone is trained in {FLOAT32} or {BFLOAT16}, not in {self.precision!r}.")
        if self.width % self.heads:
            raise ConfigError(f"A width of {self.width} cannot be split into {self.heads} heads of equal size.")
        if self.symmetric_heads > self.heads:
            raise ConfigError(f"{self.symmetric_heads} symmetric heads are more than the {self.heads} of a layer.")


def text_batches(tokens: Tokens, settings: PretrainSettings) -> BatchSource:
    """Draw stretches of a text uniformly; a share of them repeats its beginning, 1/16 to 1/2 of it.

    Raises:
        DataError: the text is shorter than one stretch.
    """
    if len(tokens) <= settings.context:
        raise DataError(f"The text has {len(tokens)} tokens; pretraining needs more than {settings.context}.")

    def batch(step: int) -> Tokens:
        random = np.random.default_rng((settings.seed, step))
        starts = random.integers(0, len(tokens) - settings.context, settings.batch_size)
        places = np.tile(np.arange(settings.context), (settings.batch_size, 1))
        repeated = random.random(settings.batch_size) < settings.repeat_share
        periods = random.integers(settings.context // 16, settings.context // 2, settings.batch_size)
        places[repeated] %= periods[repeated, None]
        drawn: Tokens = tokens[starts[:, None] + places]
        return drawn

    return batch


def pretrain(settings: PretrainSettings, batches: BatchSource, folder: Path, every: int = 500) -> GPT2LMHeadModel:
    """Train with AdamW (betas 0.9, 0.95) and a cosine schedule to a tenth of the learning rate.

    Args:
        settings: size and training.
        batches: draws the tokens of a step.
        folder: gets a checkpoint and a line of `progress.csv` every `every` steps; called again, the training continues
            from there.
        every: steps between checkpoints.

    Raises:
        ConfigError: the folder belongs to a training with other settings, or its checkpoint is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _keep_settings(settings, folder)
    keep_freed_memory()
    model = new_model(settings)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        groups, lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, settings))
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule}
    checkpoint, first = folder / _CHECKPOINT, 0
    if checkpoint.is_file():
        first = _resume(checkpoint, parts)
    model.train()
    losses, started = [], time.monotonic()
    for step in range(first, settings.steps):
        ids = torch.from_numpy(batches(step).astype(np.int64))
        torch.manual_seed(settings.seed * 1_000_003 + step)
        optimizer.zero_grad(set_to_none=True)
        losses.append(_backward(model, ids, settings.precision))
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
        optimizer.step()
        schedule.step()
        if (step + 1) % every == 0 or step + 1 == settings.steps:
            state = {name: part.state_dict() for name, part in parts.items()} | {"step": step + 1}
            with atomic.replacing(checkpoint) as unfinished:
                torch.save(state, unfinished)
            with (folder / _LOG).open("a", encoding="utf-8") as log:
                log.write(f"{step + 1},{np.mean(losses):.4f},{time.monotonic() - started:.0f}\n")
            losses = []
    model.eval()
    return model


def _backward(model: GPT2LMHeadModel, ids: torch.Tensor, precision: str) -> float:
    """Compute the mean cross-entropy of the next tokens and add its gradients; ids (B, T) int64.

    The word table's part goes forward and backward a few hundred tokens at a time.
    """
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == BFLOAT16)
    with autocast:
        hidden = model.transformer(input_ids=ids).last_hidden_state[:, :-1].flatten(0, 1)
    ends, following, total = hidden.detach().requires_grad_(), ids[:, 1:].flatten(), 0.0
    for part, words in zip(ends.split(_CHUNK), following.split(_CHUNK), strict=True):
        with autocast:
            logits = model.lm_head(part)
        loss = torch.nn.functional.cross_entropy(logits.float(), words, reduction="sum") / len(following)
        loss.backward()
        total += loss.item()
    hidden.backward(ends.grad)
    return total


def _keep_settings(settings: PretrainSettings, folder: Path) -> None:
    """Store the settings, unless the folder has a checkpoint of other settings."""
    file, text = folder / "settings.json", json.dumps(asdict(settings), indent=2) + "\n"
    if file.is_file() and (folder / _CHECKPOINT).is_file() and file.read_bytes() != text.encode():
        raise ConfigError(f"{folder} holds a training with other settings; delete it or choose another --output.")
    atomic.write_text(file, text)


def _resume(checkpoint: Path, parts: dict[str, Any]) -> int:
    """Load a checkpoint into the parts of the training and return the number of steps done."""
    state = load_checkpoint(checkpoint)
    try:
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return int(state["step"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ConfigError(f"{checkpoint} does not belong to this training; delete it to start again.") from error


def new_model(settings: PretrainSettings) -> GPT2LMHeadModel:
    """Build the untrained GPT-2, its weights a function of the seed."""
    torch.manual_seed(settings.seed)
    config = GPT2Config(
        vocab_size=settings.vocabulary,
        n_positions=settings.context,
        n_embd=settings.width,
        n_layer=settings.layers,
        n_head=settings.heads,
        resid_pdrop=settings.dropout,
        embd_pdrop=settings.dropout,
        attn_pdrop=settings.dropout,
        bos_token_id=0,
        eos_token_id=0,
    )
    config._attn_implementation = "eager"  # for short heads on a CPU it is the faster one
    model = GPT2LMHeadModel(config)
    if settings.symmetric_heads:
        first: Any = model.transformer.h[0]
        query, key, _ = first.attn.c_attn.weight.data.split(settings.width, dim=1)
        columns = settings.symmetric_heads * settings.width // settings.heads
        query[:, :columns].normal_(std=settings.symmetric_std)
        key[:, :columns] = query[:, :columns]
    return model


def save_backbone(model: GPT2LMHeadModel, folder: Path) -> None:
    """Write `config.json` and `model.safetensors` (float16): a folder that `backbone:` and `transformers` both take."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**model.config.to_diff_dict(), "architectures": ["GPT2LMHeadModel"]}
    # The dropouts are those of fine-tuning: GPT-2's own, independent of the pretraining.
    config |= {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
    atomic.write_text(folder / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    tensors = {name: t.detach().half().contiguous() for name, t in model.transformer.state_dict().items()}
    save_file({f"transformer.{name}": t for name, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


@torch.no_grad()
def perplexity(model: GPT2LMHeadModel, tokens: Tokens, batch_size: int = 32) -> float:
    """Return exp(mean cross-entropy) per token over whole windows of the context length.

    The windows overlap by half and only their second halves count, so that every counted token has seen at least half
    a context.

    Raises:
        DataError: the text is shorter than one window.
    """
    context = model.config.n_positions
    if len(tokens) <= context:
        raise DataError(f"A text of {len(tokens)} tokens is too short to measure: more than {context} are needed.")
    half = context // 2
    starts = np.arange(0, len(tokens) - context, half)
    total, count = 0.0, 0
    for rows in np.split(starts, range(batch_size, len(starts), batch_size)):
        ids = torch.from_numpy(tokens[rows[:, None] + np.arange(context)].astype(np.int64))
        logits = model(input_ids=ids).logits[:, half - 1 : -1].float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, half:].flatten(), reduction="sum")
        total, count = total + loss.item(), count + ids[:, half:].numel()
    return math.exp(total / count)


def unigram_perplexity(train: Tokens, tokens: Tokens, vocabulary: int) -> float:
    """Return the perplexity of the training text's token frequencies (plus one each) on `tokens`."""
    counts = np.bincount(train, minlength=vocabulary) + 1.0
    return float(np.exp(-np.log(counts / counts.sum())[tokens].mean()))


def _rate(step: int, settings: PretrainSettings) -> float:
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, done)))
