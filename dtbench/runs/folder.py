"""A run's folder: which files it holds, and how they are written, locked and set aside."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from dtbench import atomic
from dtbench.console import err
from dtbench.errors import ConfigError, ResultError
from dtbench.processes import is_alive
from dtbench.results.provenance import now

#: What the system says of a file system that has no locks.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


#: Seconds between two signs of life of who holds a soft lock, and after which one without any is taken over.
_SIGN_S, _STALE_S = 30.0, 600.0


class Busy(Exception):
    """Another process is working on the run."""


@dataclass(frozen=True)
class Progress:
    """How far a training is, for whoever watches from another process.

    Attributes:
        step: training steps done.
        loss: of the last step, None before the first.
        steps_per_s: since this process began to train, None before it is known.
    """

    step: int = 0
    loss: float | None = None
    steps_per_s: float | None = None


@dataclass(frozen=True)
class RunFolder:
    """The files beside a run's result, `…/<task>/seed-<n>/`.

    All but the logs (`log.txt`, `csv/`, `tensorboard/`, which are appended to) are written under another name and
    renamed, so that a kill or a full disk never leaves half a file.
    """

    path: Path

    @property
    def record(self) -> Path:
        """What the run is, for `evaluate` and for whoever resumes: data, configuration, evaluation protocol."""
        return self.path / "run.json"

    @property
    def plan(self) -> Path:
        """What the worker process is asked to do."""
        return self.path / "plan.json"

    @property
    def latest(self) -> Path:
        """The checkpoint to resume from; deleted when the training is finished."""
        return self.path / "latest.ckpt"

    @property
    def final(self) -> Path:
        """The trained weights."""
        return self.path / "final.ckpt"

    @property
    def training(self) -> Path:
        """Time, speed and loss of the finished training."""
        return self.path / "training.json"

    @property
    def progress(self) -> Path:
        """How far the training is; deleted when it is finished."""
        return self.path / "progress.json"

    @property
    def log(self) -> Path:
        """Everything the worker process printed."""
        return self.path / "log.txt"

    @property
    def lock_file(self) -> Path:
        """Locked by the process that works on the run. It stays: a lock whose file is deleted can be taken twice."""
        return self.path / "run.lock"

    def create(self) -> None:
        """Make the folder.

        Raises:
            ResultError: it cannot be made.
        """
        with naming_the_folder(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    @property
    def holder(self) -> Path:
        """Which process works on the run, or was the last to do so."""
        return self.path / "process.json"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run's lock, which ends with this process at the latest, and say in the folder who holds it.

        Raises:
            Busy: another process holds it.
            ResultError: the folder cannot be written to.
        """
        self.create()
        with self._lock():
            with naming_the_folder(self.path):
                holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": now()}
                atomic.write_text(self.holder, json.dumps(holder))
            yield

    @contextmanager
    def _lock(self) -> Iterator[None]:
        lock = self._acquired()
        try:
            with self._signs_of_life() if isinstance(lock, SoftFileLock) else nullcontext():
                yield
        finally:
            lock.release()

    @contextmanager
    def _signs_of_life(self) -> Iterator[None]:
        """Touch the soft lock now and then, from a thread: processes of other machines see that its holder lives."""
        ended = threading.Event()

        def touch() -> None:
            while not ended.wait(_SIGN_S):
                with suppress(OSError):
                    os.utime(self.soft_lock_file)
                    os.utime(self.holder)  # which is never older than the lock it is about

        thread = threading.Thread(target=touch, name="signs-of-life", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _acquired(self) -> BaseFileLock:
        lock = FileLock(self.lock_file, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise Busy from error
        except (OSError, NotImplementedError) as error:  # the latter is filelock's own word for ENOSYS
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise unwritable(self.path, error) from error
            return self._acquired_softly()
        return lock

    def _acquired_softly(self) -> BaseFileLock:
        """Lock by a file that exists or not, on a file system without real locks.

        It survives a process that is killed. One of a process on this machine that is gone is removed; so is one of
        another machine that has not been touched for ten minutes (`_signs_of_life`).
        """
        lock = SoftFileLock(self.soft_lock_file, timeout=0)
        for is_second in (False, True):
            try:
                lock.acquire()
                break
            except Timeout as error:
                if is_second or not (self._is_abandoned() or self._is_stale()):
                    raise Busy from error
                self.soft_lock_file.unlink(missing_ok=True)
            except OSError as error:
                raise unwritable(self.path, error) from error
        return lock

    def _is_abandoned(self) -> bool:
        """Say whether the process that holds the run was on this machine, and is gone.

        The holder says who it is after it has locked: an older word is that of the one before it.
        """
        try:
            if self.soft_lock_file.stat().st_mtime_ns > self.holder.stat().st_mtime_ns:
                return False
        except OSError:
            return False
        holder = self._holder_here()
        return holder is not None and not is_alive(holder)

    def _is_stale(self) -> bool:
        """Say whether the soft lock has not been touched for long, by the clock of the file system it is on."""
        try:
            with tempfile.TemporaryFile(dir=self.path) as file:
                now_there = os.fstat(file.fileno()).st_mtime
            return now_there - self.soft_lock_file.stat().st_mtime > _STALE_S
        except OSError:
            return False

    def _holder_here(self) -> int | None:
        """Return the id of the process that holds the run, or held it last, if it is or was one of this machine."""
        holder = self.read_holder()
        is_ours = holder.get("host") == socket.gethostname() and holder.get("pid", "").isdigit()
        return int(holder["pid"]) if is_ours else None

    @property
    def soft_lock_file(self) -> Path:
        """Exists while a process works on the run, where the file system has no locks."""
        return self.path / "run.softlock"

    def is_locked(self) -> bool:
        """Say whether a process is working on the run.

        Who may only read the folder cannot try the lock, and sees the processes of this machine only.
        """
        if not self.lock_file.exists() and not self.soft_lock_file.exists():
            return False
        try:
            with self._lock():
                return False
        except Busy:
            return True
        except ResultError:
            holder = self._holder_here()
            return holder is not None and is_alive(holder)

    def read_holder(self) -> dict[str, str]:
        """Return host, process and start of who works on the run; empty if it is not known."""
        return _read_object(self.holder)

    def clear(self) -> None:
        """Delete everything but the lock; call it while holding the lock."""
        for entry in self.path.iterdir():
            if entry in (self.lock_file, self.soft_lock_file):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

    def write_progress(self, progress: Progress) -> None:
        """Tell how far the training is."""
        atomic.write_text(self.progress, json.dumps(asdict(progress)))

    def read_progress(self) -> Progress:
        """Return how far the training is, as far as is known."""
        try:
            return Progress(**json.loads(self.progress.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Progress()

    @property
    def origin(self) -> Path:
        """From where on the model hub the weights are, of a run that was fetched."""
        return self.path / "origin.json"

    def write_origin(self, repo: str, recorded: str | None, checksum: str) -> None:
        """Note that the checkpoint was made from a repository's weights.

        Args:
            repo: id of the repository.
            recorded: checksum of the checkpoint in the result.
            checksum: of the checkpoint here.
        """
        content = {"repo": repo, "recorded": recorded, "checkpoint_sha256": checksum}
        atomic.write_text(self.origin, json.dumps(content, indent=2) + "\n")

    def read_origin(self) -> dict[str, str]:
        """Return what `write_origin` noted; empty for a run that was trained here."""
        return _read_object(self.origin)

    def log_tail(self, lines: int = 20) -> list[str]:
        """Return the last lines of the log; empty if there is none."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - 16_384))
                return file.read().decode("utf-8", errors="replace").splitlines()[-lines:]
        except OSError:
            return []


def _read_object(file: Path) -> dict[str, str]:
    """Return a JSON object's values as text; empty where it cannot be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {str(key): str(value) for key, value in content.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def set_aside(file: Path, reason: str) -> None:
    """Rename a file that cannot be read, so that it is neither used nor lost, and say so."""
    aside = file.with_name(f"{file.name}.unreadable")
    file.replace(aside)
    err.print(f"{file} cannot be read ({reason}); it is kept as {aside.name}.", markup=False)


@contextmanager
def naming_the_folder(path: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission into one sentence.

    Raises:
        ResultError: naming the file or folder and the reason.
        ConfigError: a file stands where a folder is needed.
    """
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigError(
            f"{error.filename or path} is a file, but a folder is needed; choose another --output."
        ) from error
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> ResultError:
    """Return the error for a file or folder that cannot be written, in one sentence."""
    where = error.filename or path
    return ResultError(f"{where} cannot be written ({error.strerror or error}); choose another --output.")
