"""The auxiliary language loss of LaMo (arXiv 2310.20587, eq. 5) and of GPT-2-DT's co-training."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from dtbench.data.text import TextTokens
from dtbench.errors import ConfigError, SourceError
from dtbench.models.pretrained import Backbone, LanguageTables
from dtbench.models.trunk import Trunk

WIKITEXT = "wikitext-103"
_REPO, _FILES = "Salesforce/wikitext", ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet")


class LanguageLoss(nn.Module):
    """Next-token cross-entropy of text through the policy's trunk, between the language model's own tables.

    Args:
        learns: whether the tables are trained (GPT-2-DT) or kept (LaMo).
    """

    def __init__(self, tables: LanguageTables, learns: bool) -> None:
        super().__init__()
        self.words = nn.Parameter(tables.words.clone(), requires_grad=learns)
        self.positions = nn.Parameter(tables.positions.clone(), requires_grad=learns)

    def forward(self, trunk: Trunk, ids: Tensor) -> Tensor:
        """(B, T) int64 token ids → mean cross-entropy of tokens 1 … T − 1, in nats."""
        tokens = self.words[ids] + self.positions[: ids.shape[1]]
        hidden = trunk(tokens, torch.ones_like(ids, dtype=torch.bool))
        logits = hidden[:, :-1] @ self.words.T
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


def open_text(text: str, backbone: Backbone, context: int) -> TextTokens:
    """Open the text of the language loss: a file, a folder, or WikiText-103 from the hub.

    Raises:
        ConfigError: the backbone is no language model.
        SourceError: the text is not there; names the ways out.
    """
    if backbone.language is None:
        raise ConfigError(
            f"model.language_weight > 0 needs a GPT-2 that has read text; backbone {backbone.description} has not: "
            "set model.language_weight=0 or another model.backbone."
        )
    path = wikitext_103() if text == WIKITEXT else Path(text).expanduser()
    if not path.exists():
        raise SourceError(f"model.text={text!r}: there is no such file or folder (.txt or .txt.gz).")
    return TextTokens(path, backbone.tokenizer(), min(context, len(backbone.language.positions)))


def wikitext_103() -> Path:
    """Return WikiText-103 (raw, training split) as one text file under `$DTBENCH_HOME/text`, fetched at first use."""
    from dtbench.models.pretrained import from_hub
    from dtbench.resources import home

    target = home() / "text" / f"{WIKITEXT}.txt"
    if target.is_file():
        return target
    ways_out = (
        "ways out: a text of your own (--set model.text=FILE or a folder of .txt files), a cache that has "
        f"{_REPO} (HF_HOME), or no language loss (--set model.language_weight=0)"
    )
    parts = [from_hub(_REPO, f"wikitext-103-raw-v1/{name}", kind="dataset", ways_out=ways_out) for name in _FILES]
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise SourceError("Reading WikiText-103 needs pyarrow: pip install 'dtbench[text]'.") from error
    lines = (line for part in parts for line in pyarrow.parquet.read_table(part).column("text").to_pylist())
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".part")
    with unfinished.open("w", encoding="utf-8") as stream:
        stream.writelines(lines)
    return unfinished.replace(target)
