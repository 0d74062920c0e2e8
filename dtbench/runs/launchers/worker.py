"""One run in a process of its own: `python -m dtbench.runs.launchers.worker …/plan.json`; or seeds trained as one.

Lightning's DDP starts this command again for the other ranks, which is why a run on several devices gets its own
process: the other ranks then repeat this run and nothing else.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from dtbench.console import err
from dtbench.errors import DtbenchError
from dtbench.processes import end_with_parent
from dtbench.signals import Stopped, raise_on_signals

#: Exit code of a worker whose run another process is working on (EX_TEMPFAIL of sysexits.h).
BUSY = 75
#: Environment variable from the launcher: its process id.
LAUNCHER_PID = "DTBENCH_LAUNCHER_PID"


def main() -> int:
    """Do the run; return 0 if it succeeded, 1 if it failed, `BUSY`, or 128 + the signal that stopped it."""
    try:
        raise_on_signals()
        _end_with_launcher()
        return _run(Path(sys.argv[1]))
    except Stopped as stopped:
        return stopped.exit_code
    except DtbenchError as error:  # the result itself could not be written
        err.print(str(error), markup=False)
        return 1


def _end_with_launcher() -> None:
    """The first rank watches the launcher, the others watch the first rank, which started them."""
    launcher = os.environ.get(LAUNCHER_PID)
    end_with_parent(int(launcher) if launcher and "LOCAL_RANK" not in os.environ else None)


def _run(file: Path) -> int:
    from dtbench.hardware import keep_freed_memory
    from dtbench.results.schema import DONE
    from dtbench.runs.folder import Busy
    from dtbench.runs.work import Work

    keep_freed_memory()
    work = Work.from_dict(json.loads(file.read_text(encoding="utf-8")))
    try:
        return 0 if set(work.do()) == {DONE} else 1
    except Busy:
        return BUSY


if __name__ == "__main__":
    sys.exit(main())
