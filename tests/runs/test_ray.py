"""The launcher `ray` on a real cluster of three nodes, each a `ray start` of its own, on this machine."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from dtbench.results.schema import DONE, INTERRUPTED
from dtbench.runs.launchers import node
from dtbench.runs.live import Seen
from dtbench.runs.plan import RunRequest, plan_runs
from dtbench.runs.work import numbered
from tests.commands import (
    RESULTS,
    RUN,
    TASK,
    dtbench,
    environment,
    free_port,
    main,
    only_result,
    parent_of,
    process,
    results,
    start,
    wait_until,
    workers_of,
)

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed (extra `ray`)"),
]

#: Cloning whose steps take long enough to be interrupted, however fast the machine is.
SLOW = """
import os
import time
from dtbench.models.bc import BehaviourCloning


class Slow(BehaviourCloning):
    Config = BehaviourCloning.Config

    def training_step(self, *arguments):
        time.sleep(float(os.environ.get("STEP_SECONDS", "0.15")))
        return super().training_step(*arguments)
"""
#: The program on nodes that do not see the driver's folder: as all are on one machine, they look for it elsewhere.
ELSEWHERE = """
from pathlib import Path
from dtbench.__main__ import main
from dtbench.runs.launchers import ray

ray.mark_in = lambda folder: Path("/nowhere/mark")
main()
"""
SEEDS = 12
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex * 2}
OFTEN = ("--set", "training.steps=60", "--set", "training.checkpoint_every=5", "--set", "training.log_every=1")


class Cluster:
    """A head with a CPU, where the driver is, and two more nodes of a CPU each; they build their own data."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._folder = folder
        self.nodes: list[subprocess.Popen[bytes]] = []
        # Ray's sockets must have short names.
        self._temporary = Path("/tmp", f"r{os.getpid()}")
        self._add("--head", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={self._temporary}")
        for _ in range(2):
            self._add(f"--address={self.address}")

    def _add(self, *words: str) -> None:
        ray = Path(sys.executable).with_name("ray")
        number = len(self.nodes)
        said = self._folder / f"node-{number}.txt"
        with said.open("wb") as log:
            command = [ray, "start", *words, "--num-cpus=1", "--object-store-memory=100000000", "--block"]
            own = environment(DTBENCH_HOME=str(self.home(number)))
            self.nodes.append(subprocess.Popen(command, env=own, stdout=log, stderr=log, start_new_session=True))
        # Two that start at once may choose the same ports.
        wait_until(lambda: "Ray runtime started" in said.read_text(), 60)

    def home(self, number: int) -> Path:
        """Return where a node has its data."""
        return self._folder / f"home-{number}"

    def kill(self, number: int) -> None:
        """Kill a node with everything of its own, as a power cut does."""
        for pid in descendants(self.nodes[number].pid):
            # What runs in a session of its own is left to notice by itself that its parent is gone.
            if "dtbench.runs.launchers.worker" not in words_of(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        for number in range(len(self.nodes)):
            self.kill(number)
        for child in self.nodes:
            child.wait()


def words_of(pid: int) -> list[str]:
    try:
        return Path("/proc", str(pid), "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    """Return a process and all that it started, and those started."""
    parents = {int(entry.name): parent_of(int(entry.name)) for entry in Path("/proc").glob("[0-9]*")}
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def first_steps(output: Path) -> list[int]:
    """Return the first logged step of every piece of a run's training."""
    found = []
    for file in output.rglob("metrics.csv"):
        with file.open() as content:
            found.append(min(int(row["step"]) for row in csv.DictReader(content) if row["train/loss"]))
    return found


@pytest.fixture
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        made = Cluster(tmp_path_factory.mktemp("cluster"))
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("model") / "slow.py"
    file.write_text(SLOW, encoding="utf-8")
    return f"{file}:Slow"


def busy_on(cluster: Cluster, number: int, output: Path) -> list[int]:
    """Return the workers of a node whose runs have a checkpoint to go on from."""
    own = set(descendants(cluster.nodes[number].pid))
    workers = [pid for pid in workers_of(output) if pid in own]
    return [pid for pid in workers if Path(words_of(pid)[-2]).with_name("latest.ckpt").exists()]


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_node_cost_nothing(tmp_path, cluster, model, monkeypatch):
    words = (*RUN, "--model", model, *OFTEN, "--seeds", f"0-{SEEDS - 1}")
    output = tmp_path / "ray"
    launch = ("--launcher", "ray", "--address", cluster.address)
    with start(*words, "--output", output, *launch) as driver:
        wait_until(lambda: busy_on(cluster, 1, output))
        (worker,) = busy_on(cluster, 1, output)
        os.kill(parent_of(worker), signal.SIGKILL)  # Ray's own process, which the worker belongs to
        wait_until(lambda: not Path("/proc", str(worker)).exists(), 10)  # nothing trains on as an orphan
        wait_until(lambda: busy_on(cluster, 2, output))
        (worker,) = busy_on(cluster, 2, output)
        cluster.kill(2)
        wait_until(lambda: not Path("/proc", str(worker)).exists(), 10)
        _, text = driver.communicate(timeout=400)
    assert driver.returncode == 0, text
    assert text.count("submitted again (retry 1 of 2)") == 2
    first = first_steps(output)
    assert (len(first), sum(step > 0 for step in first)) == (SEEDS + 2, 2)  # two went on from a checkpoint
    monkeypatch.setenv("STEP_SECONDS", "0")
    dtbench(*words, "--output", tmp_path / "here")
    ours, theirs = results(tmp_path / "here"), results(output)
    assert len(ours) == SEEDS
    assert {name: result.scores for name, result in ours.items()} == {
        name: result.scores for name, result in theirs.items()
    }
    losses = [{name: result.training.final_loss for name, result in found.items()} for found in (ours, theirs)]
    assert losses[0] == losses[1]
    assert all(result.provenance.command.startswith("dtbench run ") for result in theirs.values())


@pytest.mark.slow
def test_ctrl_c_calls_the_runs_off_and_the_loss_of_the_head_is_said_in_a_sentence(
    tmp_path, cluster, model, monkeypatch
):
    words = (*RUN, "--model", model, *OFTEN, "--seeds", "0-3")
    launch = ("--launcher", "ray", "--address", cluster.address)
    output = tmp_path / "called off"
    # Too many steps for any run to end before Ctrl-C, even if the head starts its own long after the other nodes.
    endless = ("--set", "training.steps=10000", "--set", "training.checkpoint_every=5")
    with start(*RUN, "--model", model, *endless, "--seeds", "0-3", "--output", output, *launch) as driver:
        wait_until(lambda: busy_on(cluster, 0, output))
        driver.send_signal(signal.SIGINT)
        _, text = driver.communicate(timeout=60)
    assert driver.returncode == 130, text
    assert "the same command continues where this one stopped" in text
    assert not workers_of(output)
    stopped = [result.status for result in results(output).values()]
    assert stopped
    assert set(stopped) == {INTERRUPTED}

    output = tmp_path / "without a head"
    with start(*words, "--output", output, *launch) as driver:
        wait_until(lambda: any(busy_on(cluster, number, output) for number in range(3)))
        for number in range(3):  # the head's loss takes the others with it, a minute later
            cluster.kill(number)
        _, text = driver.communicate(timeout=120)
    assert driver.returncode == 2, text
    assert text.strip().splitlines()[-1].startswith("dtbench: the head of the Ray cluster is gone")
    assert "Traceback" not in text
    wait_until(lambda: not workers_of(output), 10)
    monkeypatch.setenv("STEP_SECONDS", "0")
    dtbench(*words, "--output", output)
    assert [result.status for result in results(output).values()] == [DONE] * 4


@pytest.mark.slow
def test_without_shared_storage_results_and_checkpoints_travel(tmp_path, cluster, model, monkeypatch):
    words = (*RUN, "--model", model, *OFTEN, "--seeds", "0-2")
    launch = ("--launcher", "ray", "--address", cluster.address, "--fetch-checkpoints")
    output = tmp_path / "ray"
    command = [sys.executable, "-c", ELSEWHERE, *words, "--output", output, *launch]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as driver:
        wait_until(lambda: busy_on(cluster, 1, cluster.home(1)))
        (worker,) = busy_on(cluster, 1, cluster.home(1))
        seed = Path(words_of(worker)[-2]).parent.name
        wait_until(lambda: list(output.rglob(f"{seed}/latest.ckpt")))
        cluster.kill(1)
        _, text = driver.communicate(timeout=300)
    assert driver.returncode == 0, text
    assert text.count("submitted again (retry 1 of 2)") == 1
    assert sum(step > 0 for step in first_steps(output)) == 1
    monkeypatch.setenv("STEP_SECONDS", "0")
    dtbench(*words, "--output", tmp_path / "here")
    assert {name: result.scores for name, result in results(tmp_path / "here").items()} == {
        name: result.scores for name, result in results(output).items()
    }
    folders = sorted(output.glob("*@*/*/*/*/*/seed-*/"))
    assert len(folders) == 3
    assert not list(output.rglob("latest.ckpt"))
    for folder in folders:
        returns = json.loads(dtbench("evaluate", folder, "--json"))[0]["returns"]
        assert returns == results(output)[f"{folder.parts[-3]}/{TASK}/{folder.name}"].scores.returns


def test_a_node_works_in_a_folder_of_its_own_and_sends_back_what_it_made(tmp_path, monkeypatch):
    (plan,) = plan_runs(RunRequest(models=["bc"], preset="smoke", tasks=[TASK], output=tmp_path, source="local"))
    (work,) = numbered([[plan]])
    monkeypatch.setattr(node, "home", lambda: tmp_path / "home")
    order = node.Order(
        0, work.to_dict(), "driver", tmp_path / "no mark", {}, {}, 1, afresh=False, with_checkpoints=False
    )
    seen: list[Seen] = []
    answer = node.do(order, lambda index, states, files: seen.extend(states))
    assert (answer.is_busy, answer.failure) == (False, None)
    assert {state.node for state in seen} == {socket.gethostname()}
    assert not list(tmp_path.glob(RESULTS))
    node.write_files(answer.files, tmp_path)
    first = only_result(tmp_path)
    assert first.status == DONE
    names = {path.name for path in plan.folder.path.rglob("*") if path.is_file()}
    assert {"run.json", "training.json", "log.txt", "metrics.csv"} <= names
    assert not [name for name in names if name.endswith((".ckpt", ".lock")) or name in ("plan.json", "process.json")]
    # What a node has finished is not done again, unless it is to be forgotten.
    again = node.do(replace(order, with_checkpoints=True), lambda *report: None)
    name = plan.result_path.relative_to(tmp_path).as_posix()
    assert again.files[name] == answer.files[name]
    assert any(path.endswith("final.ckpt") for path in again.files)
    assert node.do(replace(order, afresh=True), lambda *report: None).files[name] != answer.files[name]


def test_a_cluster_out_of_reach_and_options_for_another_launcher_are_refused(tmp_path, capsys):
    words = (*RUN, "--model", "bc", "--output", tmp_path)
    assert main(*words, "--retries", "-1") == 2
    assert main(*words, "--address", "auto") == 2
    assert "--address is for runs on a Ray cluster; add --launcher ray." in capsys.readouterr().err
    assert main(*words, "--fetch-checkpoints") == 2
    assert "--fetch-checkpoints is for runs on a Ray cluster" in capsys.readouterr().err
    done = process(*words, "--launcher", "ray", "--jobs", "1", "--devices", "999")
    assert done.returncode == 2
    assert "bc · hopper-medium · seed 0 needs a node with 999 CPUs" in done.stderr
    done = process(*words, "--launcher", "ray", "--address", "127.0.0.1:9")
    assert done.returncode == 2
    assert "dtbench: No Ray cluster answers at 127.0.0.1:9; start it" in done.stderr
    assert "Traceback" not in done.stderr
