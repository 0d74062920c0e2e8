"""Examples in docstrings are run in the folder of the checkout, without a network, and build their data elsewhere."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent


@pytest.fixture(autouse=True)
def doctest_surroundings(request, tmp_path_factory, monkeypatch):
    """Tests in `tests/` have fixtures of their own; this one is for doctests."""
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.setenv("DTBENCH_OFFLINE", "1")
        monkeypatch.setenv("DTBENCH_HOME", str(tmp_path_factory.getbasetemp() / "doctests"))
        monkeypatch.chdir(ROOT)
        if "leaderboards/" in request.node.dtest.docstring and not (ROOT / "leaderboards").is_dir():
            pytest.skip("the published results are in the repository, not in the source distribution")
