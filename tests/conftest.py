"""No test reaches for the network: whether it answers must not decide what a test sees."""

import pytest

from dtbench.data.sources import is_reachable


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("DTBENCH_OFFLINE", "1")
    is_reachable.cache_clear()
