"""The contract of every model, for those who write one: `check_model("my_model:LinearPolicy", folder)`.

Each check builds the model at the preset `smoke` and tries one promise on small random data, of one kind of task
(`KINDS`). A broken promise raises `ContractError`, whose message tells the model's author what is wrong.
`dtbench check-model` runs all checks.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dtbench.console import quieten_libraries
from dtbench.models.base import OfflineModule
from dtbench.testing.checks import CHECKS, Check
from dtbench.testing.material import BATCH, data_module, episodes, fit_steps, small_store, windows
from dtbench.testing.subject import DIMS, KINDS, ContractError, Subject, build_model, model_config

__all__ = [
    "BATCH",
    "CHECKS",
    "DIMS",
    "KINDS",
    "Check",
    "ContractError",
    "Outcome",
    "Subject",
    "build_model",
    "check_model",
    "data_module",
    "episodes",
    "fit_steps",
    "model_config",
    "run_checks",
    "small_store",
    "windows",
]


@dataclass(frozen=True)
class Outcome:
    """What a check found: `passed` is None where it was left out because another one failed."""

    check: Check
    passed: bool | None
    message: str


def check_model(model: str | type[OfflineModule], folder: Path, overrides: Sequence[str] = ()) -> None:
    """Run the whole contract over one model and stop at the first broken promise.

    Args:
        model: a name, `package.module:Class`, `FILE.py:Class`, or the class itself.
        folder: an empty folder for data and checkpoints.
        overrides: `section.key=value`, as `--set`.

    Raises:
        ContractError: the model breaks its contract.
        DtbenchError: there is no such model, or it cannot be configured.
    """
    for outcome in run_checks(Subject.find(model, overrides), folder):
        if outcome.passed is False:
            raise ContractError(f"{outcome.check.name}: {outcome.message}")


def run_checks(subject: Subject, folder: Path) -> Iterator[Outcome]:
    """Run all checks in order and yield what each found."""
    quieten_libraries()
    failed: set[str] = set()
    for check in CHECKS:
        missing = [name for name in check.needs if name in failed]
        outcome = (
            Outcome(check, None, f"not checked, because {missing[0]!r} failed")
            if missing
            else _run(check, subject, folder / check.name)
        )
        if outcome.passed is not True:
            failed.add(check.name)
        yield outcome


def _run(check: Check, subject: Subject, folder: Path) -> Outcome:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        remark = check.run(subject, folder)
    except ContractError as error:
        return Outcome(check, False, str(error))
    except Exception as error:  # noqa: BLE001 - whatever the model raises is what its author needs to know
        return Outcome(check, False, _describe(error, subject.model))
    return Outcome(check, True, check.promise if remark is None else f"{check.promise} ({remark})")


def _describe(error: Exception, model: type[OfflineModule]) -> str:
    """Say in one sentence what was raised, and where in the model's own file."""
    frames = traceback.extract_tb(error.__traceback__)
    own = getattr(sys.modules.get(model.__module__), "__file__", None)
    where = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1])
    reason = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
    return f"{Path(where.filename).name}, line {where.lineno} raised {type(error).__name__}: {reason}"
