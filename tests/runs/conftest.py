"""One finished run for all tests that only look at one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import RUN, dtbench


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, shared_home) -> Path:
    """The folder of a run of `dt` at the preset smoke, with three episodes; tests do not change it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DTBENCH_HOME", str(shared_home))
        patch.setenv("DTBENCH_OFFLINE", "1")
        dtbench(*RUN, "--model", "dt", "--output", folder, "--set", "evaluation.episodes=3")
    (found,) = folder.glob("*@*/*/*/*/*/seed-0")
    return found
