"""A Ray cluster as its driver sees it: the connection, the code that its nodes run, what its nodes have, its head."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dtbench.errors import ClusterError, ConfigError
from dtbench.results.provenance import COMMAND, COMMIT, command, git_commit
from dtbench.runs.work import Work

#: Seconds between two looks at the nodes, and during which none of them may have what is asked for.
_LOOK_S, _FIT_S = 10.0, 60.0
#: Seconds that the head may be out of reach.
_HEAD_S = 5.0
#: Bytes of a run's two processes before any model: the task's own, and the one that trains.
_BASE_MEMORY = 1_200_000_000


@dataclass(frozen=True)
class Demand:
    """What the process of some runs asks of a node; `label` names the runs in messages, `memory` is in bytes."""

    label: str
    cpus: int
    gpus: int
    memory: int

    def error(self) -> ClusterError:
        """Return the error for a cluster without such a node."""
        return ClusterError(
            f"{self.label} needs a node with {self.cpus} CPUs, {self.gpus} GPUs and {self.memory / 1e9:.1f} GB of "
            "memory, and no node of the cluster has them."
        )


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Connect to a cluster, or start one on this machine if there is no address; yield the module `ray`.

    Raises:
        ConfigError: Ray is not installed.
        ClusterError: the cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _use_token()
    try:
        import ray
    except ImportError as error:
        raise ConfigError("The launcher ray needs Ray: pip install 'dtbench[ray]'.") from error
    address = address or os.environ.get("RAY_ADDRESS") or None
    _check_that_it_answers(address)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(
            address=address,
            runtime_env=_runtime_environment() if address else None,
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ClusterError(
            f"The Ray cluster {address or 'of this machine'} cannot be used ({reason}); is it started, and does it "
            "have this version of Ray and of Python?"
        ) from error
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():  # Ray has put its own in their place
            signal.signal(number, handler)
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_that_it_answers(address: str | None) -> None:
    """Ask the port of an address HOST:PORT once: Ray itself would try for minutes.

    Raises:
        ClusterError: nobody listens there.
    """
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if host and port.isdigit() and not _answers((host, int(port))):
        raise ClusterError(f"No Ray cluster answers at {address}; start it (ray start --head), or name another one.")


def _use_token() -> None:
    """Show a cluster the token that `ray start` made; Ray itself does so only if `RAY_AUTH_MODE` is set."""
    has_token = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if has_token or Path("~/.ray/auth_token").expanduser().is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _runtime_environment() -> dict[str, Any]:
    """Return what makes the nodes run this very code: the installed package, or the parts of a checkout that count.

    What dtbench depends on must be installed there.
    """
    package = Path(__file__).resolve().parents[2]
    variables = {COMMAND: command(), COMMIT: git_commit() or ""}
    if (package / "_resources").is_dir():
        return {"py_modules": [str(package)], "env_vars": variables}
    root, needed = package.parent, {"dtbench", "benchmarks", "baselines"}
    others = sorted(f"/{entry.name}" for entry in root.iterdir() if entry.name not in needed)
    return {"working_dir": str(root), "excludes": [*others, "__pycache__"], "env_vars": variables}


class Cluster:
    """What the cluster has: its nodes, which are looked at now and then, and its head."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._head = _address_of_head(ray)
        self._fits_since = self._answered = time.monotonic()
        self._look()

    def _look(self) -> None:
        self._nodes = [entry["Resources"] for entry in self._ray.nodes() if entry["Alive"]]
        self._looked = time.monotonic()

    def demand(self, work: Work, memory: int, jobs: int | None) -> Demand:
        """Return what a work asks for.

        Args:
            work: the runs.
            memory: bytes of a training step.
            jobs: processes side by side per node; None gives each a CPU per device.

        Raises:
            ConfigError: the runs want several nodes each.
        """
        hardware = work.plans[0].config.hardware
        if hardware.num_nodes > 1:
            raise ConfigError("--launcher ray gives a run one node; leave hardware.num_nodes at 1.")
        has_gpus = any(node.get("GPU", 0) for node in self._nodes)
        gpus = hardware.devices if has_gpus and hardware.accelerator in ("auto", "gpu", "cuda") else 0
        cpus = hardware.devices
        if jobs is not None:
            smallest = min((node["CPU"] for node in self._nodes if node.get("CPU")), default=1)
            cpus = max(hardware.devices, int(smallest) // jobs)
        # On a GPU the step's memory is the GPU's.
        return Demand(work.label, cpus, gpus, _BASE_MEMORY + (0 if gpus else memory))

    def fits(self, demand: Demand) -> bool:
        """Say whether a node has what is asked for, free or not."""
        wanted = {"CPU": demand.cpus, "GPU": demand.gpus, "memory": demand.memory}
        return any(all(node.get(name, 0) >= value for name, value in wanted.items()) for node in self._nodes)

    def check_that_one_fits(self, demands: Sequence[Demand]) -> None:
        """Look now and then whether a node can do something of what is left.

        Raises:
            ClusterError: none could for a while.
        """
        if time.monotonic() - self._looked < _LOOK_S:
            return
        self._look()
        if any(map(self.fits, demands)):
            self._fits_since = self._looked
        elif demands and self._looked - self._fits_since > _FIT_S:
            raise demands[0].error()

    def answers(self) -> bool:
        """Say whether the head can be reached.

        Raises:
            ClusterError: it could not for a while.
        """
        moment = time.monotonic()
        if self._head is None or _answers(self._head):
            self._answered = moment
            return True
        if moment - self._answered > _HEAD_S:
            raise ClusterError(
                "the head of the Ray cluster is gone; what is finished is kept. Start the cluster again, and the same "
                "command continues where this one stopped."
            )
        return False


def _address_of_head(ray: Any) -> tuple[str, int] | None:
    """Return where the head listens, None through Ray's client, which has a connection of its own."""
    host, _, port = str(ray.get_runtime_context().gcs_address or "").rpartition(":")
    return (host, int(port)) if host and port.isdigit() else None


def _answers(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=1.0).close()
    except OSError:
        return False
    return True
