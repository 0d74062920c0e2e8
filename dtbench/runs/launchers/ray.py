"""Runs as tasks of a Ray cluster (extra `ray`).

The cluster is the one `RAY_ADDRESS` names, or one of this machine. The output folder and `DTBENCH_HOME` must lie on a
file system that all nodes share: the data are built before the first run starts, and each run writes its own result.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from dtbench.console import err
from dtbench.errors import ConfigError
from dtbench.results.schema import FAILED
from dtbench.runs.launchers import local
from dtbench.runs.launchers.worker import from_spec, to_spec
from dtbench.runs.plan import RunPlan


def run_all(plans: Sequence[RunPlan], jobs: int) -> list[str]:
    """Do the runs, at most `jobs` per node's share of CPUs, and return their statuses in order.

    Each run asks for its devices as GPUs where the cluster has any, and for an equal share of a node's CPUs.

    Raises:
        ConfigError: Ray is not installed or cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("The launcher ray needs Ray: pip install 'dtbench[ray]'.") from error
    try:
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False, logging_level="error")
    except ConnectionError as error:
        raise ConfigError(f"The Ray cluster of RAY_ADDRESS cannot be reached: {error}.") from error
    try:
        node = ray.nodes()[0]["Resources"]
        cpus = max(1, int(node.get("CPU", 1)) // max(1, jobs))
        has_gpu = ray.cluster_resources().get("GPU", 0) > 0
        tasks = {}
        for index, plan in enumerate(plans):
            gpus = plan.config.hardware.devices if has_gpu else 0
            remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_run)
            tasks[remote.remote(to_spec(plan))] = index
        return _collect(ray, tasks, plans)
    finally:
        ray.shutdown()


def _run(spec: dict[str, Any]) -> str:
    """Do one run on a node, in a process of its own."""
    return local.run_all([from_spec(spec)], 1)[0]


def _collect(ray: Any, tasks: dict[Any, int], plans: Sequence[RunPlan]) -> list[str]:
    statuses = [FAILED] * len(plans)
    waiting = list(tasks)
    while waiting:
        (done,), waiting = ray.wait(waiting, num_returns=1)
        plan = plans[tasks[done]]
        try:
            statuses[tasks[done]] = ray.get(done)
        except ray.exceptions.RayError as error:
            err.print(f"{plan.label}: the Ray task failed: {type(error).__name__}", markup=False)
        err.print(f"{plan.label}: {statuses[tasks[done]]}", markup=False)
    return statuses
