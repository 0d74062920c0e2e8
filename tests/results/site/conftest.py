from __future__ import annotations

from pathlib import Path

import pytest

from dtbench.results.site.build import build
from tests.results.site import tiny


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="session")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("boards") / "boards.yaml"
    file.write_text(tiny.BOARDS, encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def site(root: Path, boards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "site"
    build(root, out, boards, tiny.datasets)
    return out
