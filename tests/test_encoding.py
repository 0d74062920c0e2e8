"""Text is UTF-8 under every locale: no call leaves the encoding to the system, and a real process shows it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dtbench"
#: Names whose `open` opens no text file.
OTHERS = {"TrajectoryStore", "os", "cls"}
#: Calls that decode or encode text, always or in text mode.
READ_OR_WRITE = {"read_text", "write_text"}
OPEN = {"open", "fdopen", "NamedTemporaryFile", "TemporaryFile", "TextIOWrapper", "FileHandler"}
SUBPROCESS = {"run", "Popen", "check_output", "check_call", "getoutput"}


def leaves_the_encoding_open(call: ast.Call) -> bool:
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = getattr(function.value, "id", "") if isinstance(function, ast.Attribute) else ""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in given:
        return False
    if name in READ_OR_WRITE:
        return isinstance(function, ast.Attribute) and owner != "atomic"  # which writes UTF-8
    if name in SUBPROCESS and owner in ("subprocess", ""):
        return bool({"text", "universal_newlines"} & set(given))
    if name not in OPEN or (name == "open" and owner in OTHERS):
        return False
    texts = [node.value for argument in (*call.args, *given.values()) for node in ast.walk(argument) if is_text(node)]
    modes = [text for text in texts if set(text) <= set("rwaxbt+")]
    is_binary_by_default = name in ("NamedTemporaryFile", "TemporaryFile")
    return not (modes and all("b" in mode for mode in modes)) and not (is_binary_by_default and not modes)


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def calls(code: str) -> list[str]:
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and leaves_the_encoding_open(node)
    ]


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_every_text_file_is_utf_8(file):
    assert calls(file.read_text(encoding="utf-8")) == []


def test_the_test_finds_what_it_looks_for():
    bad = [
        "open(p)",
        "open(p, 'w')",
        "p.open()",
        "p.open('a')",
        "p.read_text()",
        "p.write_text(t)",
        "os.fdopen(f, 'w')",
    ]
    bad += ["tempfile.NamedTemporaryFile('w')", "subprocess.run(w, text=True)", "gzip.open(p, 'rt')"]
    good = ["open(p, 'rb')", "p.open('wb')", "p.open(encoding='utf-8')", "p.read_bytes()", "os.open(p, 0)"]
    good += ["subprocess.run(w)", "TrajectoryStore.open(p)", "atomic.write_text(p, t)", "tempfile.NamedTemporaryFile()"]
    assert [code for code in bad if not calls(code)] == []
    assert [code for code in good if calls(code)] == []


LOCALES = {
    "C": {"LC_ALL": "C"},
    "C without Python's UTF-8 mode": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "output in ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
}


@pytest.mark.parametrize("locale", LOCALES)
def test_a_dataset_is_built_and_described_under_every_locale(tmp_path, locale):
    """In a folder whose name is not ASCII; the suite's description and the table's name are not, either."""
    folder = tmp_path / "Größe ≥ 1"
    folder.mkdir()
    suite = folder / "mine.yaml"
    suite.write_text(
        "name: mine\nversion: 1\ndescription: Größe ≥ 1\nsources: [local]\ntasks:\n"
        "  - {id: key, env_id: dtbench/KeyToDoor-v0, sources: {local: key-to-door}, return_scale: 1, score_target: 1,"
        "     reference: {table: nie – immer, random: 0, expert: 1}}\n",
        encoding="utf-8",
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    environment = {**kept, **LOCALES[locale], "DTBENCH_HOME": str(folder / "home"), "PYTHONWARNINGS": "ignore"}

    def dtbench(*words: object) -> str:
        done = subprocess.run([sys.executable, "-m", "dtbench", *map(str, words)], env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        return done.stdout.decode("utf-8", "replace")

    assert "200 steps" in dtbench("data", "build", suite, "--steps", 200)
    assert '"steps": 200' in dtbench("data", "info", "key-to-door", "--steps", 200, "--json")
    assert "returns_normalized" in dtbench("data", "info", "key-to-door", "--steps", 200)
    assert "the content matches" in dtbench("data", "verify", "key-to-door", "--steps", 200)
    assert "mine" in dtbench("show", "suite", suite)
