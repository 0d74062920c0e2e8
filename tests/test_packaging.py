"""What is shipped beside the code is found in a wheel, in an sdist and in an editable install."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from dtbench.data.behaviours.policy import environment, is_atari, manifest

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks/suites", "benchmarks/presets", "baselines")
FILES = {"benchmarks/coverage.json"}
SHIPPED = FILES | {file.relative_to(ROOT).as_posix() for folder in FOLDERS for file in (ROOT / folder).rglob("*.*")}
ASK = """
from dtbench.config import load_preset, preset_names
from dtbench.data.behaviours.policy import load_actor, manifest
from dtbench.models.backbone.load import load_backbone
from dtbench.registry import MODELS
from dtbench.results.coverage import measured_coverage
from dtbench.suites.suites import load_suite, suite_names
from importlib.resources import files
from dtbench.results.site.libraries import OWN
from dtbench.results.site.render import environment
import dtbench
print(dtbench.__file__)
assert [load_suite(name) for name in suite_names()] and [load_preset(name) for name in preset_names()]
assert all(entry.defaults.is_file() for entry in MODELS.values())
assert all(load_actor(name, 0) for name in manifest())
assert measured_coverage("iqm", 3, 1)
assert all((files("dtbench.results.site") / "assets" / name).is_file() for name in OWN)
assert environment().get_template("section.html")
assert load_backbone("bundled", None, 0.1).tokenizer().get_vocab_size() == 8192
"""


def ask(folder: Path, elsewhere: Path) -> str:
    """Load everything shipped from `folder` in a fresh process that runs elsewhere."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", ASK], cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return Path(
        next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("dist")), versions=["standard"]))
    )


def test_wheel(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as content:
        assert {f"dtbench/_resources/{name}" for name in SHIPPED} <= set(content.namelist())
        content.extractall(tmp_path / "site")
    assert ask(tmp_path / "site", tmp_path).startswith(str(tmp_path / "site"))


def test_wheel_is_small(wheel):
    """A game's policies may have 1 MB; all else is less than 15 MB (MuJoCo's about 5, two backbones of 4)."""
    with zipfile.ZipFile(wheel) as content:
        weights = [file for file in content.infolist() if "/behaviours/weights/" in file.filename]
    names = {environment(name)["file"] for name in manifest() if is_atari(name)}
    games = [file for file in weights if Path(file.filename).name in names]
    assert len(games) == len(names) == 4
    assert all(file.file_size < 1e6 for file in games)
    assert wheel.stat().st_size - sum(file.compress_size for file in games) < 15e6


def test_sdist(tmp_path):
    built = next(SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    with tarfile.open(built) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
        assert names >= SHIPPED | {"mkdocs.yml", "docs/index.md", "examples/my_model.py"}
        content.extractall(tmp_path / "src")  # our own archive; `filter` is not in Python 3.11.0 to 3.11.3
    (folder,) = (tmp_path / "src").iterdir()
    assert ask(folder, tmp_path).startswith(str(folder))


def test_checkout(tmp_path):
    """As an editable install sees it."""
    assert ask(ROOT, tmp_path).startswith(str(ROOT))
