"""`dtbench backbone`: a folder with weights and a card, from one line."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from dtbench.cli import app as cli
from dtbench.errors import ConfigError


def dtbench(*words: object) -> str:
    done = CliRunner().invoke(cli.app, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_synthetic_backbone_has_a_card(tmp_path):
    folder = tmp_path / "chain"
    text = dtbench("backbone", "synthetic", "--output", folder, "--states", 5, "--steps", 2)
    assert (folder / "README.md").read_text().strip() == text.strip()
    assert "least possible" in text
    assert "| layer" in text.replace("|   layer", "| layer")
    content = json.loads(dtbench("analyze", "markov-heads", folder, "--json"))
    assert [len(layer["heads"]) for layer in content["layers"]] == [4, 4, 4, 4]
    with pytest.raises(ConfigError, match="exists already"):
        dtbench("backbone", "synthetic", "--output", folder, "--steps", 2)


def test_text_backbone_has_a_card_and_a_tokenizer(tmp_path):
    (tmp_path / "text.txt").write_text("".join(f"One sentence, and the {n} other.\n" for n in range(3000)))
    (tmp_path / "more.txt").write_text("".join(f"The {n} sentence.\n" for n in range(500)))
    size = ("--layers", 1, "--heads", 2, "--width", 16, "--vocabulary", 300, "--steps", 2)
    words = ("backbone", "text", tmp_path / "text.txt", "--output", tmp_path / "tiny", *size, "--symmetric-heads", 2)
    text = dtbench(*words, "--measure", tmp_path / "more.txt")
    assert "held out" in text
    assert "more" in text
    assert "keys equal to queries" in text
    assert "Markov" in text
    heads = json.loads(dtbench("analyze", "markov-heads", tmp_path / "tiny", "--json"))["layers"][0]["heads"]
    assert [head["positive"] for head in heads] == [1.0, 1.0]  # keys began as queries, and two steps are nothing
