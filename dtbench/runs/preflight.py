"""What can be known before the first run: that hardware, models and memory fit."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dtbench.config import HardwareConfig
from dtbench.console import err, quieten_libraries
from dtbench.data.sources import open_store
from dtbench.data.store import TrajectoryStore
from dtbench.environments.make import action_space, make_environment, observation_space
from dtbench.errors import ConfigError, DtbenchError
from dtbench.hardware import on_gpu
from dtbench.models.base import build_on_meta, estimate_memory
from dtbench.runs.plan import RunPlan
from dtbench.runs.work import Work
from dtbench.spaces import Discrete, Spaces

#: Share of the machine's memory that runs may plan with; the rest is the system's and the page cache's.
_USABLE = 0.9


def check_hardware(plans: Sequence[RunPlan]) -> None:
    """Let Lightning judge accelerator, devices, strategy and precision once per distinct choice, and check `compile`.

    Raises:
        ConfigError: Lightning does not know one of them, or this machine lacks it.
    """
    from dtbench.runs.trackers import check_loggers
    from dtbench.runs.training import new_trainer

    quieten_libraries()
    checked: list[HardwareConfig] = []
    for plan in plans:
        if plan.config.hardware not in checked:
            checked.append(plan.config.hardware)
            new_trainer(plan.config.hardware, logger=False, enable_checkpointing=False, enable_progress_bar=False)
            _check_compile(plan.config.hardware)
            check_loggers(plan.config.hardware.loggers)


def _check_compile(hardware: HardwareConfig) -> None:
    """See that this machine can compile what `hardware.compile` asks for.

    Raises:
        ConfigError: CUDA graphs without CUDA, or no compiler.
    """
    if hardware.compile == "off":
        return
    if on_gpu(hardware):
        if importlib.util.find_spec("triton") is None:
            raise ConfigError("hardware.compile needs Triton on a GPU: pip install triton, or leave it off.")
        return
    if hardware.compile == "graphs":
        raise ConfigError(
            "hardware.compile=graphs records CUDA graphs, and these runs do not train on a CUDA GPU; "
            "use hardware.compile=default, or leave it off."
        )
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise ConfigError(
            f"hardware.compile=default needs a C++ compiler for this processor, and {compiler} is not found; "
            "install it, name another one in CXX, or leave hardware.compile off."
        )
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        raise ConfigError(
            f"hardware.compile=default needs Python's headers, and there is no {header}; "
            "install them (e.g. apt install python3-dev), or leave hardware.compile off."
        )


def check_models(works: Sequence[Work]) -> list[int]:
    """Build each distinct model without memory (on the meta device) and its environment.

    Returns:
        The bytes of memory that a training step of each work needs.

    Raises:
        ConfigError: a model that cannot be built for its task, or an environment that does not fit the data.
    """
    known: dict[tuple[str, str, str, int], int] = {}
    needed = []
    for work in works:
        plan = work.plans[0]
        key = (plan.model.name, plan.task.id, plan.config.hash(), len(work.plans))
        if key not in known:
            known[key] = len(work.plans) * _check_model(plan)
        needed.append(known[key])
    return needed


def _check_model(plan: RunPlan) -> int:
    from dtbench.runs.job import spaces_of

    store = open_store(plan.source, plan.task.sources[plan.source], plan.config.data.steps)
    spaces = spaces_of(plan.task, store)
    _check_environment(plan, spaces, store)
    _check_choice_of_actions(plan, spaces)
    try:
        module = build_on_meta(plan.model.load(), plan.config, spaces)
    except DtbenchError:
        raise
    except Exception as error:  # whatever a model from outside raises
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{plan.model.name} cannot be built for {plan.task.id}: {type(error).__name__}: {reason}"
        ) from error
    return estimate_memory(module, plan.config, spaces)


def fit_into_memory(works: Sequence[Work], needed: Sequence[int], jobs: int, asked_for: bool) -> int:
    """See that the runs fit into this machine's memory.

    Args:
        works: the runs of each process.
        needed: bytes of each (`check_models`).
        jobs: processes side by side.
        asked_for: whether the user chose `jobs`.

    Returns:
        How many processes may go side by side: `jobs`, or fewer where their memory would not suffice.

    Raises:
        ConfigError: one run, or `jobs` of them where they were asked for, needs more memory than there is.
    """
    worst, smallest = max(needed, default=0), None
    for work, amount in zip(works, needed, strict=True):
        plan, together = work.plans[0], len(work.plans)
        total = training_memory(plan.config.hardware)
        smallest = total if smallest is None or total is None else min(smallest, total)
        if total is not None and amount > _USABLE * total:
            stacked = f" with {together} seeds stacked" if together > 1 else ""
            raise ConfigError(
                f"{plan.model.name} on {plan.task.id}{stacked} needs about {gigabytes(amount)} of memory for a "
                f"training step and there are {gigabytes(total)}; lower training.batch_size "
                f"({plan.config.training.batch_size}), training.context_length "
                f"({plan.config.training.context_length}) or the model's size."
            )
    if smallest is None or jobs * worst <= _USABLE * smallest:
        return jobs
    fitting = max(1, int(_USABLE * smallest // worst))
    if asked_for:
        raise ConfigError(
            f"{jobs} runs side by side need about {gigabytes(jobs * worst)} of memory, and there are "
            f"{gigabytes(smallest)}; --jobs {fitting} fits."
        )
    err.print(f"{fitting} runs side by side instead of {jobs}, so that their memory suffices", markup=False)
    return fitting


def _check_environment(plan: RunPlan, spaces: Spaces, store: TrajectoryStore) -> None:
    """Make the task's environment once, and compare its spaces with the data's.

    Raises:
        ConfigError: it cannot be made, or shows or takes something else than the data have.
    """
    from dtbench.runs.job import environment_of

    env_id, kwargs = environment_of(plan, store)
    env = make_environment(env_id, kwargs=kwargs)
    seen, done = observation_space(env), action_space(env)
    env.close()
    for what, found, wanted in (("shows", seen, spaces.observation), ("takes", done, spaces.action)):
        if (type(found), found.shape, found.size) != (type(wanted), wanted.shape, wanted.size):
            raise ConfigError(
                f"{env_id} {what} {found}, and the data of {plan.task.id} have {wanted}; use the environment that the "
                "data come from."
            )


def _check_choice_of_actions(plan: RunPlan, spaces: Spaces) -> None:
    """Refuse ways to choose among discrete actions where actions are continuous.

    Raises:
        ConfigError: naming the option.
    """
    options = plan.config.evaluation
    if isinstance(spaces.action, Discrete):
        return
    for name, is_used in (("actions", options.actions != "greedy"), ("random_actions", options.random_actions > 0)):
        if is_used:
            raise ConfigError(
                f"evaluation.{name}={getattr(options, name)} needs discrete actions, and {plan.task.id} has "
                f"{spaces.action}; leave it out."
            )


def training_memory(hardware: HardwareConfig) -> int | None:
    """Return the bytes of memory where training happens: a GPU's own, if one is used, else `total_memory`."""
    import torch

    if on_gpu(hardware):
        return int(torch.cuda.get_device_properties(0).total_memory)
    return total_memory()


def total_memory() -> int | None:
    """Return the bytes of memory that this process may use: the machine's, or its control group's; None if unknown."""
    found = []
    with suppress(AttributeError, ValueError, OSError):  # not on every system
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found.append(int(Path(limit).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return min(found) if found else None


def gigabytes(amount: float) -> str:
    """Say an amount of bytes in GB.

    >>> gigabytes(22_300_000_000)
    '22.3 GB'
    """
    return f"{amount / 1e9:.1f} GB"
