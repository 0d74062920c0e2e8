"""The program's first lines: signals are heard before anything heavy is imported.

Exit codes: 0 all done · 1 some runs failed · 2 bad usage or input · 128 + signal interrupted (130 for Ctrl-C).
"""

from __future__ import annotations

import io
import os
import sys

from dtbench.errors import DtbenchError
from dtbench.signals import Stopped, ignore_signals, raise_on_signals, stopped_by


def main() -> None:
    """Run the command line; turn a user's mistake, a full disk or a signal into one sentence and an exit code."""
    code = _run()
    ignore_signals()
    sys.exit(code)


def _run() -> int:
    try:
        raise_on_signals()
        _print_any_text()
        from dtbench.cli.app import app

        app()
        return _flushed(0)
    except Stopped as stopped:
        return _say(f"interrupted by {stopped}{stopped.advice}.", stopped.exit_code)
    except BaseException as error:  # noqa: BLE001 - the last one who can turn it into a sentence
        earlier = stopped_by()
        if earlier is not None:  # it was raised amid a library's clean-up, which then failed with an error of its own
            return _say(f"interrupted by {earlier}.", earlier.exit_code)
        return _exit_code(error)


def _exit_code(error: BaseException) -> int:
    """Say in one sentence what went wrong, if it is a user's mistake or the machine's; raise it again if it is ours."""
    if isinstance(error, SystemExit):
        closed = isinstance(error.__context__, BrokenPipeError)  # click's way of ending when nobody reads
        return _close_stdout() if closed else _flushed(error.code)
    if isinstance(error, DtbenchError):
        return _say(str(error), 2)
    if isinstance(error, BrokenPipeError):  # `dtbench … | head`
        return _close_stdout()
    if isinstance(error, OSError) and error.errno is not None:
        what = f"{error.filename}: " if error.filename is not None else ""
        return _say(f"{what}{error.strerror or error}.", 2)
    if isinstance(error, MemoryError):
        return _say("the machine ran out of memory; lower training.batch_size, training.context_length or --jobs.", 2)
    raise error


def _print_any_text() -> None:
    """Escape what the output's encoding lacks, e.g. under `LC_ALL=C`, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _say(sentence: str, code: int) -> int:
    try:
        print(f"dtbench: {sentence}", file=sys.stderr, flush=True)  # noqa: T201
    except OSError:  # the terminal is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    return code


def _flushed(code: object) -> int:
    """Return an exit code after what was printed has reached its reader, or after finding that nobody reads it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _close_stdout()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _say(f"the output cannot be written: {error.strerror or error}.", 2)
    return code if isinstance(code, int) else 0 if code is None else 2


def _close_stdout() -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


if __name__ == "__main__":
    main()
