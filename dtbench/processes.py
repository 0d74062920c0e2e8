"""Processes: whether one is alive, and workers that never outlive the process that started them."""

from __future__ import annotations

import os
import select
import signal
import threading
import time

#: Seconds between two looks at the parent where the system cannot report its end.
_POLL_S = 0.25
#: Seconds that a process has for its own clean-up after its parent ended; to free its memory may take another second.
_GRACE_S = 1.0
#: Seconds after its parent's end when the system ends the process, if its interpreter no longer can.
_LAST_S = 1.5


def is_alive(pid: int) -> bool:
    """Say whether a process of this machine is running; on Windows it is always assumed."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's, or no possible number
        return True
    return True


def end_with_parent(parent_pid: int | None = None) -> None:
    """End this process within 3 s of its parent's end, even if the parent was killed by SIGKILL.

    A background thread waits for the parent's end. It then sends this process SIGTERM, so that the process can clean
    up as it would when asked to stop, and ends it for good 1 s later, or half a second after that by SIGALRM: while the
    interpreter is taken down, which may take seconds, no thread can run. Linux's PR_SET_PDEATHSIG needs no thread, but
    it reacts to the end of the *thread* that started this process, which may end long before the parent does.
    Call it once, early. It does nothing on Windows, where a process keeps the id of its dead parent.

    Args:
        parent_pid: the parent's process id as the parent itself passed it on; a parent that ended before this call is
            noticed only then. None watches the present parent.
    """
    if os.name != "posix":
        return
    parent = os.getppid() if parent_pid is None else parent_pid
    threading.Thread(target=_watch, args=(parent,), name="end-with-parent", daemon=True).start()


def _watch(parent: int) -> None:
    _wait_for_end(parent)
    signal.setitimer(signal.ITIMER_REAL, _LAST_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(128 + signal.SIGTERM)


def _wait_for_end(parent: int) -> None:
    """Return when this process is no longer a child of `parent`."""
    descriptor = _open_process(parent)
    if descriptor is not None and os.getppid() == parent:  # else the number may belong to another process by now
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll()
    while os.getppid() == parent:
        time.sleep(_POLL_S)


def _open_process(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process ends (Linux 5.3 or later), else None."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
