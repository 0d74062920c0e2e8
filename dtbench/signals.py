"""Ctrl-C, a scheduler's SIGTERM and a closed terminal's SIGHUP all stop a command in the same orderly way."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


class Stopped(BaseException):
    """A signal asked this process to stop.

    Like KeyboardInterrupt it is no `Exception`, so that nobody who handles errors catches it by mistake. It is not a
    KeyboardInterrupt, because click and Lightning turn those into exit codes of their own.
    """

    def __init__(self, number: int) -> None:
        self.number, self.advice = number, ""
        super().__init__(signal.Signals(number).name)

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as a shell reports it."""
        return 128 + self.number


_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_received: list[int] = []


def raise_on_signals() -> None:
    """Raise `Stopped` in the main thread at the first signal; later ones are only counted, so that cleaning up ends.

    A signal that was ignored from the start stays ignored: `nohup` ignores SIGHUP, a shell SIGINT of background jobs.
    """
    _received.clear()
    sys.unraisablehook = _show_unraisable
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _receive)


def ignore_signals() -> None:
    """Ignore signals from here on: Python's own end restores the defaults, under which a late one kills wordlessly."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _receive(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if len(_received) == 1:
        raise Stopped(number)


def _show_unraisable(raised: sys.UnraisableHookArgs) -> None:
    """Show an error that a destructor raised, as Python does, but no `Stopped`: `raise_if_stopped` raises it again."""
    if not isinstance(raised.exc_value, Stopped):
        sys.__unraisablehook__(raised)


def times_stopped() -> int:
    """Return how many signals have asked this process to stop."""
    return len(_received)


def stopped_by() -> Stopped | None:
    """Return the exception of the first signal that has asked this process to stop, None if none has."""
    return Stopped(_received[0]) if _received else None


def raise_if_stopped() -> None:
    """Raise `Stopped` if a signal came earlier: one that arrives inside a destructor is swallowed by Python."""
    stopped = stopped_by()
    if stopped is not None:
        raise stopped


def describe_exit(code: int) -> tuple[str, str | None]:
    """Describe a child's return code in words, and name the signal that ended it, if one did.

    >>> describe_exit(-9)
    ('was killed by SIGKILL (often: the machine ran out of memory)', 'SIGKILL')
    >>> describe_exit(3)
    ('ended with exit code 3', None)
    """
    if code >= 0:
        return f"ended with exit code {code}", None
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (often: the machine ran out of memory)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}", name


def kill_group(pid: int) -> None:
    """Kill a process that leads a group of its own, with all processes of that group; nothing if it has ended."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
