"""What a command has planned, beside its results: so that `dtbench status` knows what is still waiting."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dtbench import atomic
from dtbench.runs.folder import naming_the_folder
from dtbench.runs.plan import RunPlan

#: Folder of the files, in the folder of results.
FOLDER = "sweeps"


@contextmanager
def noted(output: Path, plans: Sequence[RunPlan]) -> Iterator[None]:
    """Keep a list of the planned runs while they are done; an interruption leaves it for the next command.

    The same command has the same file.

    Raises:
        ResultError: the folder cannot be written to.
    """
    if not plans:
        yield
        return
    results = sorted(plan.result_path.relative_to(output).as_posix() for plan in plans)
    name = hashlib.sha256("\n".join(results).encode()).hexdigest()[:12]
    file = output / FOLDER / f"{name}.json"
    with naming_the_folder(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(file, json.dumps({"results": results}, indent=1) + "\n")
    yield
    file.unlink(missing_ok=True)


def planned_results(output: Path) -> set[Path]:
    """Return the results that interrupted or running commands have planned, relative to the folder.

    A file that cannot be read is left out: it decides nothing but what is shown.
    """
    found: set[Path] = set()
    for file in (output / FOLDER).glob("*.json"):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            found |= {Path(result) for result in content["results"] if not Path(result).is_absolute()}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return {path for path in found if ".." not in path.parts}
