"""Every code block of README.md and docs/ runs, or says why it does not."""

from __future__ import annotations

import shutil
import time

import pytest

from tests.docs.blocks import LANGUAGES, PAGES, ROOT, blocks, do, page_name

#: The only reasons for which a block is not run.
REASONS = ("needs a GPU", "needs a network", "needs a cluster", "needs another machine", "run by .ci/run", "takes ")


@pytest.fixture(scope="module")
def data_home(tmp_path_factory):
    """One folder of datasets for all pages: each is built once."""
    return tmp_path_factory.mktemp("docs-home")


def pages_with_code():
    return [page for page in PAGES if any(block.is_run for block in blocks(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with_code(), ids=page_name)
def test_every_block_of_a_page_runs_in_its_order(page, tmp_path, data_home):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")  # as a reader's checkout has them
    for block in filter(lambda block: block.is_run, blocks(page)):
        began = time.monotonic()
        do(block, tmp_path, data_home)
        print(f"{block.name}: {time.monotonic() - began:.1f} s")  # noqa: T201 - shown by pytest -rP


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_fence_is_a_block_of_a_known_language(page):
    found = blocks(page)
    fences = [line for line in page.read_text(encoding="utf-8").splitlines() if line.strip().startswith("```")]
    assert len(fences) == 2 * len(found)
    assert {block.language for block in found} <= LANGUAGES


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_what_is_not_run_has_a_reason_that_counts(page):
    for block in blocks(page):
        assert not block.reason or block.reason.startswith(REASONS), f"{block.name}: {block.reason}"


def test_most_blocks_run():
    found = [block for page in PAGES for block in blocks(page) if block.language != "text"]
    assert sum(block.is_run for block in found) > 0.7 * len(found)


def test_the_newcomers_lines_are_where_programs_look_for_them():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for mark in ("run", "test"):
        (block,) = [
            b for b in blocks(ROOT / "README.md") if text.splitlines()[b.line - 2] == f"<!-- newcomer: {mark} -->"
        ]
        assert block.language == "bash"
        assert block.reason


BROKEN = """
```bash
echo first > file
```

<!-- not run: needs a GPU -->
```bash
exit 3
```

```python title="module.py"
VALUE = 5
```

```python
import pathlib, module
assert pathlib.Path("file").read_text() == "first\\n" and module.VALUE == 5
```

1. in a list

    <!-- not run: needs a GPU -->
    ```bash
    exit 3
    ```

```bash
false
echo never
```
"""


def test_the_test_notices_a_block_that_fails(tmp_path, monkeypatch):
    """In order, in one folder, with files saved, and a failure in the middle of a block counts."""
    monkeypatch.setattr("tests.docs.blocks.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(BROKEN, encoding="utf-8")
    found = blocks(page)
    assert [block.is_run for block in found] == [True, False, True, True, False, True]
    for block in found[:1] + found[2:4]:
        do(block, tmp_path, tmp_path)
    with pytest.raises(AssertionError, match="false"):
        do(found[5], tmp_path, tmp_path)
