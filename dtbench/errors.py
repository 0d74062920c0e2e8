"""Errors that are a user's mistake or a broken input: shown as one sentence, exit code 2, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: A message lists so many names and counts the rest.
_SHOWN = 20


class DtbenchError(Exception):
    """Base of every error whose message is written for the user: it names the thing and the fix."""


class ConfigError(DtbenchError):
    """An unknown key, a wrong type or an impossible combination in the configuration."""


class UnknownNameError(DtbenchError):
    """A model, suite, task, preset or source that does not exist."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.name, self.known = name, sorted(known)
        close = difflib.get_close_matches(name, self.known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        shown = self.known if len(self.known) <= _SHOWN else [*self.known[:_SHOWN], f"{len(self.known) - _SHOWN} more"]
        super().__init__(f"Unknown {kind} {name!r}: {hint}known are {', '.join(shown) or 'none'}.")


class DataError(DtbenchError):
    """Trajectories that cannot be trusted: the message names file, episode, field and the fix."""


class SourceError(DtbenchError):
    """A dataset that cannot be had from the source asked for; the message names what was tried and the ways out."""


class ResultError(DtbenchError):
    """A result file that cannot be read or written."""


class ClusterError(DtbenchError):
    """A cluster that cannot be reached, is lost, or cannot do what is asked of it."""
