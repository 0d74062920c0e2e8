"""The code blocks of README.md and of the pages in docs/, as a reader would run them, from top to bottom.

* `bash` blocks are run by bash, `python` blocks as a script of their own, in one folder per page;
* a block with a title, e.g. ```` ```python title="my_model.py" ````, is saved under it, and loaded if it is Python;
* `yaml` and `toml` blocks without a title must be readable; `text` is output, not code;
* a block under `<!-- not run: … -->` is not run; the comment says why.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"bash", "python", "yaml", "toml", "text"}
#: Seconds that a block may take, on a machine that is busy with other things, too.
_TIMEOUT_S = 900
_FENCE = re.compile(r"^```(\w+)(?: +title=\"([^\"]+)\")?$")
_NOT_RUN = re.compile(r"^<!-- not run: (.+) -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, its language, the file that it is saved as, its text, and why it is not run."""

    page: str
    line: int
    language: str
    title: str
    text: str
    reason: str

    @property
    def is_run(self) -> bool:
        return not self.reason and self.language != "text"

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """Return a page's blocks in their order."""
    found: list[Block] = []
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), start=1))
    comments: list[str] = []
    for number, line in lines:
        opening = _FENCE.match(line.strip())
        if opening is None:
            assert not line.strip().startswith("```"), f"{page_name(page)}:{number}: a block without a language"
            if not line.strip().startswith("<!--"):
                comments = []
            comments.append(line.strip())
            continue
        indent = len(line) - len(line.lstrip())
        text = "\n".join(_until_closed(lines, indent)) + "\n"
        reason = next((match[1] for comment in comments if (match := _NOT_RUN.match(comment))), "")
        found.append(Block(page_name(page), number, opening[1], opening[2] or "", text, reason))
        comments = []
    return found


def _until_closed(lines: Iterator[tuple[int, str]], indent: int) -> Iterator[str]:
    for _, line in lines:
        if line.strip() == "```":
            return
        yield line[indent:]
    raise AssertionError("a block is not closed")


def do(block: Block, folder: Path, home: Path) -> None:
    """Run a block, save it, or read it.

    Raises:
        AssertionError: it failed, with what it printed.
    """
    if block.title:
        file = folder / block.title
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.text, encoding="utf-8")
        if block.language == "python":  # what it defines and imports; blocks after it run it
            _run([sys.executable, "-c", f"import runpy; runpy.run_path({block.title!r})"], block, folder, home)
    elif block.language == "yaml":
        yaml.safe_load(block.text)
    elif block.language == "toml":
        tomllib.loads(block.text)
    elif block.language == "python":
        script = folder / f"line-{block.line}.py"
        script.write_text(block.text, encoding="utf-8")
        _run([sys.executable, script.name], block, folder, home)
    else:
        _run(["bash", "-euo", "pipefail", "-c", block.text], block, folder, home)


def _run(words: list[str], block: Block, folder: Path, home: Path) -> None:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    python_path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    environment = {**os.environ, "PATH": path, "PYTHONPATH": python_path, "OMP_NUM_THREADS": "1"}
    environment |= {"DTBENCH_HOME": str(home), "DTBENCH_OFFLINE": "1", "MPLBACKEND": "agg"}
    with subprocess.Popen(
        words,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    ) as running:
        try:
            printed, _ = running.communicate(timeout=_TIMEOUT_S)
        except BaseException:
            os.killpg(running.pid, signal.SIGKILL)  # bash alone would leave its commands running
            raise
    assert running.returncode == 0, f"{block.name}\n{block.text}\n{printed}"
