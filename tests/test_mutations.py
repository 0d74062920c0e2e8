"""Results and stores with bytes and values changed at random: refused in a sentence, or read; never a traceback.

`DTBENCH_MUTATIONS=10000 pytest tests/test_mutations.py` tries more of them than CI does.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dtbench.data.store import TrajectoryStore
from dtbench.errors import DataError, DtbenchError, ResultError
from dtbench.results import leaderboard
from dtbench.results.files import read_result, write_result
from tests.data import factory
from tests.results import samples

MUTATIONS = int(os.environ.get("DTBENCH_MUTATIONS", "200"))
often = settings(
    max_examples=MUTATIONS, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)

#: Whatever JSON can hold, extreme numbers and odd texts included.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("nan") | st.just(-1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changed_bytes(draw: Any, content: bytes) -> bytes:
    """Return the content with a few places overwritten, cut out or filled in."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(content) - 1)))
        end = min(len(content), start + draw(st.integers(0, 40)))
        content = content[:start] + draw(st.binary(max_size=12)) + content[end:]
    return content


@st.composite
def changed_values(draw: Any, content: dict[str, Any]) -> bytes:
    """Return the JSON with a few values replaced, dropped or added, at any depth."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 3))):
        place: Any = content
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            if draw(st.integers(0, 4)) == 0:
                del place[key]
            else:
                place[key] = draw(VALUES)
            break
    return json.dumps(content).encode("utf-8", "surrogatepass")


def refusal(call: Callable[[], object], kind: type[DtbenchError]) -> str | None:
    """Return the sentence with which a call refuses, None if it succeeds; any other error is the test's failure."""
    try:
        call()
    except kind as error:
        return str(error)
    return None


def test_results(tmp_path):
    good = samples.result()
    path = tmp_path / "d4rl-short@1" / "local" / "quick" / "dt" / "hopper-medium" / "seed-0.json"
    write_result(path, good)
    text, content = path.read_bytes(), json.loads(path.read_bytes())

    @often
    @given(st.one_of(changed_bytes(text), changed_values(content)))
    def check(changed: bytes) -> None:
        path.write_bytes(changed)
        said = refusal(lambda: read_result(path), ResultError)
        assert said is None or said.startswith(str(path))
        assert refusal(lambda: leaderboard.render(tmp_path), DtbenchError) != ""

    check()


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path / "home"))
    return Path(factory.store(tmp_path / "good").path)


def test_stores(store, tmp_path):
    files = sorted(path.name for path in store.iterdir() if path.is_file())
    copy = tmp_path / "copy"

    @often
    @given(st.data())
    def check(data: Any) -> None:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(store, copy)
        name = data.draw(st.sampled_from(files))
        content = (store / name).read_bytes()
        ways = [changed_bytes(content)]
        if name.endswith(".json"):
            ways.append(changed_values(json.loads(content)))
        (copy / name).write_bytes(data.draw(st.one_of(ways)))
        said = refusal(lambda: TrajectoryStore.open(copy), DataError)
        assert said is None or str(copy) in said
        if said is None:
            opened = TrajectoryStore.open(copy)
            assert opened.num_steps == sum(opened.episode_lengths)
            opened.episode(0)

    check()
