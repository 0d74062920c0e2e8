"""Where the pages and files of a site are, relative to its folder, and how links name them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from dtbench.results.files import result_path
from dtbench.results.schema import Result

#: Folders of the site.
ASSETS, BOARDS, DATA, MODELS, RECORDS, SECTIONS = "assets", "boards", "data", "models", "records", "sections"


def slugs(names: Iterable[str]) -> dict[str, str]:
    """Give each name a file name of its own, in lower case, for servers and disks of all kinds.

    >>> slugs(["d4rl-short@1", "D4RL-short 1", "dt"])
    {'d4rl-short@1': 'd4rl-short-1', 'D4RL-short 1': 'd4rl-short-1-2', 'dt': 'dt'}
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        if name in found:
            continue
        base = re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-") or "unnamed"
        slug, count = base, 1
        while slug in taken:
            count += 1
            slug = f"{base}-{count}"
        taken.add(slug)
        found[name] = slug
    return found


def own_path(result: Result) -> Path:
    """Return where a result is below the folder of results."""
    task, model = result.task, result.model
    return result_path(Path(), result.suite.id, task.source, result.preset, model.folder, task.id, result.seed)


def record_link(result: Result) -> str:
    """Return the link to the copy of a result, from the site's folder."""
    return quote(f"{RECORDS}/{own_path(result).as_posix()}", safe="/@+=,()")
