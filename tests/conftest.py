"""What all tests share: no network, and one folder of built data."""

import signal
import sys

import pytest

from dtbench.data.sources import is_reachable


def pytest_configure():
    """Undo what `nohup` and `&` do: processes inherit that SIGHUP and SIGINT are ignored, and tests send them."""
    for name, usual in {"SIGINT": signal.default_int_handler, "SIGHUP": signal.SIG_DFL}.items():
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test reaches for the network: whether it answers must not decide what a test sees."""
    monkeypatch.setenv("DTBENCH_OFFLINE", "1")
    is_reachable.cache_clear()


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory):
    """One folder of built data for all tests that do not ask for their own: building them takes seconds each."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def home(shared_home, monkeypatch):
    """`$DTBENCH_HOME` of a test; nobody's own data are read or written."""
    monkeypatch.setenv("DTBENCH_HOME", str(shared_home))
    return shared_home


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    """An empty `$DTBENCH_HOME` for one test."""
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def own_import_path(monkeypatch):
    """A model that a test imports from its folder is not found by the tests after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
