"""Text to tokens: for pretraining a backbone and for LaMo's auxiliary language loss."""

from __future__ import annotations

import functools
import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dtbench import atomic
from dtbench.determinism import generator
from dtbench.errors import ConfigError, DataError, SourceError
from dtbench.locks import lock
from dtbench.models.backbone.hub import from_hub
from dtbench.models.parts.options import WIKITEXT
from dtbench.resources import home

if TYPE_CHECKING:
    from torch import Tensor

    from dtbench.models.backbone.load import Backbone

END_OF_TEXT = "<|endoftext|>"
_LINES = 1000
#: Keeps the draws of text apart from those of windows.
_TEXT = 1


def read_text(path: Path) -> str:
    """Read a text file, `.txt` or `.txt.gz`, or all of those in a folder, in the order of their names.

    Raises:
        SourceError: there is no such file, or it is not UTF-8.
    """
    files = sorted((*path.glob("*.txt"), *path.glob("*.txt.gz"))) if path.is_dir() else [path]
    if not files:
        raise SourceError(f"The folder {path} holds no .txt and no .txt.gz file.")
    try:
        return "\n".join(_read_file(file) for file in files)
    except FileNotFoundError as error:
        raise SourceError(f"There is no text file {path}.") from error
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise SourceError(f"The text {path} cannot be read: {error}.") from error


def _read_file(path: Path) -> str:
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            return stream.read()
    return path.read_text(encoding="utf-8")


def split_text(text: str, held_out: float) -> tuple[str, str]:
    """Cut the last `held_out` share of a text off, at the end of a line: (to train on, to measure on)."""
    cut = text.find("\n", int(len(text) * (1 - held_out))) + 1
    return text[:cut], text[cut:]


def train_tokenizer(text: str, size: int) -> Tokenizer:
    """Train a byte-level BPE of `size` tokens, GPT-2's kind, with `<|endoftext|>` as its one special token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_chunks(text), trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> NDArray[np.uint16] | NDArray[np.uint32]:
    """Return the token ids of a text as one flat array, of the smallest type that holds the vocabulary."""
    kind = np.uint16 if tokenizer.get_vocab_size() <= 1 << 16 else np.uint32
    parts: list[Sequence[int]] = [part.ids for part in tokenizer.encode_batch_fast(list(_chunks(text)))]
    return np.concatenate([np.asarray(part, dtype=kind) for part in parts])


def _chunks(text: str) -> Iterator[str]:
    lines = text.splitlines(keepends=True)
    for start in range(0, len(lines), _LINES):
        yield "".join(lines[start : start + _LINES])


class TextTokens:
    """A text's tokens, encoded once and kept under `$DTBENCH_HOME/text`; batches are a function of (seed, step, rank).

    Raises:
        DataError: the text is shorter than one window.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer, context: int) -> None:
        self.context = context
        text = read_text(path)
        content = hashlib.sha256(text.encode() + tokenizer.to_str().encode()).hexdigest()[:16]
        file = home() / "text" / f"{content}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        with lock(file):
            ids = _open_tokens(file)
            if ids is None:
                with atomic.replacing(file) as part, part.open("wb") as stream:
                    np.save(stream, encode(tokenizer, text))
                ids = np.load(file, mmap_mode="r")
        self.ids: NDArray[np.unsignedinteger] = ids
        if len(self.ids) <= context:
            raise DataError(f"The text {path} has {len(self.ids)} tokens; one window takes {context}.")

    def batch(self, size: int, *, seed: int, step: int, rank: int = 0) -> NDArray[np.int64]:
        """Draw `size` stretches uniformly: (size, context) int64."""
        starts = generator(seed, step, rank, _TEXT).integers(0, len(self.ids) - self.context, size)
        drawn: NDArray[np.int64] = self.ids[starts[:, None] + np.arange(self.context)].astype(np.int64)
        return drawn


def _open_tokens(file: Path) -> NDArray[np.unsignedinteger] | None:
    """Map the tokens in a file; None where it is missing or damaged."""
    try:
        ids: NDArray[np.unsignedinteger] = np.load(file, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return ids if ids.ndim == 1 and ids.dtype in (np.uint16, np.uint32) else None


class TextBatches:
    """Batches of a text for the language loss; each process opens the text when it draws its first batch."""

    def __init__(self, text: str, backbone: Backbone, batch_size: int, context: int) -> None:
        self.batch_size = batch_size
        self._open: Callable[[], TextTokens] = functools.cache(lambda: open_text(text, backbone, context))

    def __call__(self, seed: int, step: int, rank: int) -> Tensor:
        """Draw the text of a step: (batch_size, context) int64."""
        return torch.from_numpy(self._open().batch(self.batch_size, seed=seed, step=step, rank=rank))


_REPO, _FILES = "Salesforce/wikitext", ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet")


def open_text(text: str, backbone: Backbone, context: int) -> TextTokens:
    """Open the text of the language loss: a file, a folder, or WikiText-103 from the hub.

    Raises:
        ConfigError: the backbone is not a language model, or has another model's tokenizer.
        SourceError: the text is missing; the message names alternatives.
    """
    if backbone.language is None:
        raise ConfigError(
            f"model.language_weight > 0 needs a GPT-2 that has read text; backbone {backbone.description} has not: "
            "set model.language_weight=0 or another model.backbone."
        )
    path = wikitext_103() if text == WIKITEXT else Path(text).expanduser()
    if not path.exists():
        raise SourceError(f"model.text={text!r}: there is no such file or folder (.txt or .txt.gz).")
    tokenizer, words = backbone.tokenizer(), len(backbone.language.words)
    if tokenizer.get_vocab_size() > words:
        raise ConfigError(
            f"The tokenizer of backbone {backbone.description} has {tokenizer.get_vocab_size()} tokens, its word table "
            f"{words}: they belong to different models."
        )
    return TextTokens(path, tokenizer, min(context, len(backbone.language.positions)))


def wikitext_103() -> Path:
    """Return WikiText-103 (raw, training split) as one text file under `$DTBENCH_HOME/text`, fetched at first use."""
    target = home() / "text" / f"{WIKITEXT}.txt"
    if target.is_file():
        return target
    alternatives = (
        "alternatives are a text of your own (--set model.text=FILE or a folder of .txt files), a cache that has "
        f"{_REPO} (HF_HOME), or no language loss (--set model.language_weight=0)"
    )
    parts = [
        from_hub(_REPO, f"wikitext-103-raw-v1/{name}", kind="dataset", alternatives=alternatives) for name in _FILES
    ]
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise SourceError("Reading WikiText-103 needs pyarrow: pip install 'dtbench[text]'.") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic.replacing(target) as unfinished, unfinished.open("w", encoding="utf-8", newline="\n") as stream:
            for part in parts:
                stream.writelines(pyarrow.parquet.read_table(part).column("text").to_pylist())
    except (pyarrow.ArrowException, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SourceError(f"WikiText-103 in the cache of the hub cannot be read: {reason}") from error
    return target
