"""What one process does: one run, or the runs of several seeds that are trained as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dtbench.config import HardwareConfig
from dtbench.console import err
from dtbench.errors import ConfigError, DtbenchError
from dtbench.runs.folder import RunFolder
from dtbench.runs.plan import RunPlan
from dtbench.spaces import Spaces, Vector, unit_box

#: Larger models give a GPU enough to do by themselves.
MOST_PARAMETERS = 5_000_000
#: Precisions in which seeds do not share anything; a gradient scaler, e.g., would be shared.
PRECISIONS = ("32-true", "bf16-mixed")
#: Sizes of data of which no model's number of parameters depends much.
_USUAL_SPACES = (Vector(32), unit_box(8))


@dataclass(frozen=True)
class Work:
    """The runs that one process does, and their numbers for messages."""

    plans: tuple[RunPlan, ...]
    numbers: tuple[str, ...]

    @property
    def folder(self) -> RunFolder:
        """Where the process finds its plan and leaves its log: the first run's folder."""
        return self.plans[0].folder

    @property
    def label(self) -> str:
        """Name the runs in messages."""
        first = self.plans[0]
        seeds = ", ".join(str(plan.seed) for plan in self.plans)
        return first.label if len(self.plans) == 1 else f"{first.model.name} · {first.task.id} · seeds {seeds}"

    def is_locked(self) -> bool:
        """Say whether a process is working on one of the runs."""
        return any(plan.folder.is_locked() for plan in self.plans)

    def to_dict(self) -> dict[str, Any]:
        """Return the work as plain JSON values, for a process of its own."""
        return {"plans": [plan.to_dict() for plan in self.plans], "numbers": list(self.numbers)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Work:
        """Rebuild the work that `to_dict` described."""
        return cls(tuple(RunPlan.from_dict(plan) for plan in content["plans"]), tuple(content["numbers"]))

    def do(self) -> list[str]:
        """Do the runs here; return their statuses (raises as `job.run_seeds`)."""
        from dtbench.runs.job import run_seeds

        return run_seeds(self.plans, self.numbers)


def divide(plans: Sequence[RunPlan], stack_seeds: bool) -> list[list[RunPlan]]:
    """Divide runs among processes: each has its own, or with `stack_seeds` shares one with the others of its kind.

    Stacked are the seeds of one model, task, source and configuration, if the model allows it. Why others are not is
    said in one line.
    """
    if not stack_seeds:
        return [[plan] for plan in plans]
    kinds: dict[tuple[str, ...], list[RunPlan]] = {}
    for plan in plans:
        kind = (plan.model.address, plan.suite.id, plan.task.id, plan.source, plan.preset, repr(plan.config.to_dict()))
        kinds.setdefault(kind, []).append(plan)
    divided, said = list[list[RunPlan]](), set[str]()
    for seeds in kinds.values():
        reason = reason_against(seeds[0]) if len(seeds) > 1 else None
        if reason is not None and reason not in said:
            said.add(reason)
            err.print(f"seeds are trained one by one: {reason}", markup=False)
        divided += [seeds] if reason is None else [[plan] for plan in seeds]
    return divided


def numbered(divided: Sequence[Sequence[RunPlan]]) -> list[Work]:
    """Number the runs through."""
    total, works, done = sum(map(len, divided)), list[Work](), 0
    for plans in divided:
        works.append(Work(tuple(plans), tuple(f"{done + place}/{total}" for place in range(1, len(plans) + 1))))
        done += len(plans)
    return works


def reason_against(plan: RunPlan) -> str | None:
    """Say why the seeds of a run cannot be trained as one; None if they can."""
    from dtbench.models.base import build_on_meta

    spaces = Spaces(*_USUAL_SPACES, plan.task.max_episode_steps)
    try:
        module = build_on_meta(plan.model.load(), plan.config, spaces)
    except DtbenchError as error:
        return str(error)
    if not module.stackable:
        return f"{plan.model.name}, as it is configured, cannot be stacked (`stackable` of its class)."
    count = sum(parameter.numel() for parameter in module.parameters())
    if count > MOST_PARAMETERS:
        most = MOST_PARAMETERS // 1_000_000
        return (
            f"{plan.model.name} has {count / 1e6:.1f} million parameters; models of up to {most} million are stacked."
        )
    return None


def check_stackable(plans: Sequence[RunPlan]) -> None:
    """See that the hardware options let seeds be trained as one.

    Raises:
        ConfigError: several devices, another precision, or compiled steps.
    """
    for plan in plans:
        _check_hardware(plan.config.hardware)


def _check_hardware(hardware: HardwareConfig) -> None:
    if (hardware.devices, hardware.num_nodes, hardware.strategy) != (1, 1, "auto"):
        raise ConfigError(
            "--stack-seeds trains all seeds on one device; leave it out, or set hardware.devices=1, "
            "hardware.num_nodes=1 and hardware.strategy=auto."
        )
    if hardware.precision not in PRECISIONS:
        raise ConfigError(
            f"--stack-seeds needs hardware.precision {' or '.join(PRECISIONS)}, not {hardware.precision}."
        )
    if hardware.compile != "off":
        raise ConfigError("--stack-seeds and hardware.compile exclude each other; leave one of them out.")
