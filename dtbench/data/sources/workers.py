"""Shards of a local dataset rolled out side by side in processes of this machine.

Each worker is `python -m dtbench.data.sources.workers <parent>`. It reads shards from its standard input, one JSON
object per line, and answers each with a JSON line and the arrays of a `Block` as an .npz file. Unlike workers of
`multiprocessing`, these do not run the caller's main module again: a script without a `__main__` guard can build data.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING

import numpy as np

from dtbench.data.episodes import Block
from dtbench.errors import DataError
from dtbench.processes import end_with_parent
from dtbench.signals import describe_exit, raise_if_stopped

if TYPE_CHECKING:
    from dtbench.data.behaviours.roll_out import Shard


@contextmanager
def rolled_out(shards: Sequence[Shard], count: int) -> Iterator[Iterator[Block]]:
    """Yield the shards' blocks in order, rolled out by at most `count` worker processes.

    The workers start with the first block that is asked for. However the context is left, none of them remains.

    Raises:
        DataError: a worker cannot be started, or ended before its shard was done.
        RuntimeError: a shard failed; the message is the worker's traceback.
    """
    count = max(1, min(count, len(shards)))
    workers: list[_Worker] = []
    threads = ThreadPoolExecutor(count, initializer=_block_signals)
    try:
        yield _blocks(shards, count, workers, threads)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.process.kill()
        threads.shutdown()  # their workers are gone, so that they end at once
        for worker in workers:
            worker.close()


def _blocks(
    shards: Sequence[Shard], count: int, workers: list[_Worker], threads: ThreadPoolExecutor
) -> Iterator[Block]:
    free: SimpleQueue[_Worker] = SimpleQueue()
    with _signals_blocked():  # the workers inherit it: Ctrl-C and a scheduler's SIGTERM are for the parent to handle
        for _ in range(count):
            workers.append(_Worker())
            free.put(workers[-1])

    def roll_out(shard: Shard) -> bytes:
        worker = free.get()
        try:
            return worker.roll_out(shard)
        finally:
            free.put(worker)  # a dead one, too, or a thread might wait for a worker for ever

    for content in threads.map(roll_out, shards):
        raise_if_stopped()
        # Decoded here, not in the threads: numpy parses a header with `ast`, which CPython 3.11 cannot do in two
        # threads at once (SystemError: AST constructor recursion depth mismatch).
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            block = Block(**arrays)
        yield block


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Let signals wait until the end of the block; processes that start in it never hear of them."""
    before = _block_signals()
    try:
        yield
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _block_signals() -> set[signal.Signals | int] | None:
    if os.name != "posix":
        return None
    return signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


class _Worker:
    """The parent's end of a worker process."""

    def __init__(self) -> None:
        words = [sys.executable, "-m", "dtbench.data.sources.workers", str(os.getpid())]
        try:
            self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            reason = error.strerror or str(error)
            raise DataError(f"A worker process cannot be started ({reason}); use fewer --workers.") from error

    def roll_out(self, shard: Shard) -> bytes:
        """Have the worker roll a shard out, and wait for it; return the block as a file of numpy arrays."""
        requests, answers = self.process.stdin, self.process.stdout
        assert requests is not None
        assert answers is not None
        try:
            requests.write(json.dumps(asdict(shard)).encode() + b"\n")
            requests.flush()
        except OSError as error:
            raise self._ended() from error
        line = answers.readline()
        if not line.endswith(b"\n"):
            raise self._ended()
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        content: bytes = answers.read(answer["bytes"])
        if len(content) < answer["bytes"]:
            raise self._ended()
        return content

    def _ended(self) -> DataError:
        words, _ = describe_exit(self.process.wait())
        return DataError(f"A worker process {words} before its part of the data was complete; use fewer --workers.")

    def close(self) -> None:
        """Wait for the end of a killed worker, and close the pipes to it."""
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:  # what it did not read any more
                continue


def main() -> None:
    """Roll out the shards that the parent asks for, until it closes the pipe."""
    end_with_parent(int(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints must not get between the answers
    try:
        _serve(sys.stdin.buffer, answers)
    except BrokenPipeError:  # the parent is gone
        os._exit(1)


def _serve(requests: IO[bytes], answers: io.RawIOBase | IO[bytes]) -> None:
    from dtbench.data.behaviours.roll_out import Shard, roll_out

    for line in requests:
        request = json.loads(line)
        buffer = io.BytesIO()
        try:
            shard = Shard(**{**request, "entropy": tuple(request["entropy"])})
            np.savez(buffer, **vars(Block.joined(roll_out(shard))))
            answer: dict[str, object] = {"bytes": buffer.tell()}
        except Exception:  # noqa: BLE001  # the parent raises it
            answer = {"error": traceback.format_exc()}
            buffer = io.BytesIO()
        for part in (json.dumps(answer).encode() + b"\n", buffer.getbuffer()):  # not joined: frames are 176 MB
            message = memoryview(part)
            while message:
                message = message[answers.write(message) :]


if __name__ == "__main__":
    main()
