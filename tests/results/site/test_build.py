"""The folder of a site, and the mistakes that users make with it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dtbench.errors import ConfigError
from dtbench.results.site import folder
from dtbench.results.site.build import build
from dtbench.results.site.libraries import as_script, scripts
from tests.commands import dtbench, main
from tests.data import factory
from tests.results import samples
from tests.results.site import tiny


def contents(out: Path) -> dict[str, bytes]:
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in out.rglob("*") if file.is_file()}


@pytest.mark.slow
def test_equal_results_give_equal_bytes(site, root, boards, tmp_path):
    build(root, tmp_path / "again", boards, tiny.datasets)
    assert contents(tmp_path / "again") == contents(site)


def test_a_site_is_renewed_and_foreign_files_stay(tmp_path):
    out = tmp_path / "site"
    folder.write(out, {"index.html": b"1", "models/a.html": b"1", "models/b/c.html": b"1"})
    (out / "CNAME").write_text("example.org")
    (out / "models" / "mine.txt").write_text("mine")
    folder.write(out, {"index.html": b"2", "models/d.html": b"2"})
    kept = {name for name in contents(out) if name != folder.MANIFEST}
    assert kept == {"index.html", "models/d.html", "CNAME", "models/mine.txt"}
    assert (out / "index.html").read_bytes() == b"2"
    assert not (out / "models/b").exists()


def test_a_manifest_cannot_remove_what_is_elsewhere(tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("keep")
    out = tmp_path / "site"
    folder.write(out, {"index.html": b"1"})
    listed = (out / folder.MANIFEST).read_text().replace("index.html", "../other.txt")
    (out / folder.MANIFEST).write_text(listed)
    folder.write(out, {"index.html": b"2"})
    assert other.read_text() == "keep"


def test_a_foreign_folder_is_refused_before_any_work(root, tmp_path, capfd):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    assert main("site", root, "--out", out) == 2
    assert "thesis.tex" in capfd.readouterr().err
    assert contents(out) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("site {tmp}/nowhere --out {tmp}/out", "nowhere"),
        ("site {tmp}/empty --out {tmp}/out", "no results"),
        ("site --out {tmp}/out", "dtbench site DIR"),
        ("site {root} --out {tmp}/file", "is not a folder"),
        ("site {root} --out {tmp}/out --boards {tmp}/none.yaml", "none.yaml"),
    ],
)
def test_mistakes_get_one_sentence(words, named, root, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert main(*words.format(tmp=tmp_path, root=root).split()) == 2
    message = " ".join(capfd.readouterr().err.split())
    assert named in message
    assert "Traceback" not in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package", ["jinja2", "plotly", "itables", "markdown_it"])
def test_a_missing_package_is_named_with_its_fix(package, root, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{package}: pip install 'dtbench\[site\]'"):
        build(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_board_without_results_is_named(root, tmp_path):
    file = tmp_path / "boards.yaml"
    file.write_text("boards:\n  - {file: none.md, suite: d4rl-short, preset: paper}\n")
    with pytest.raises(ConfigError, match=r"none\.md.*no run of it is finished"):
        build(root, tmp_path / "out", file)


def test_another_form_of_the_bundle_is_refused():
    with pytest.raises(ConfigError, match="itables"):
        as_script("var a = 1;")


def test_the_scripts_are_classic_ones():
    """A module cannot be loaded from a disk; a stray `export` would be a syntax error in a classic script."""
    found = scripts()
    tables = found["datatables.min.js"].decode()
    assert "window.DataTable=" in tables
    assert "export{" not in tables
    assert b"Plotly" in found["plotly.min.js"]


def test_the_command_builds_names_what_is_left_out_and_describes_data(tmp_path, monkeypatch):
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path / "home"))
    place = tmp_path / "home/datasets/local/mine"
    store = factory.store(place, lengths=(5, 7), source="local", dataset_id="local/mine", env_id="Hopper-v5")
    root = tmp_path / "results"
    record = samples.result(task_fingerprint=store.fingerprint, task_dataset_id="local/mine")
    samples.save(root, record)
    broken = samples.save_raw(root, {}, samples.result(seed=1))
    said = dtbench("site", root, "--out", tmp_path / "site")
    assert "index.html" in said
    assert "1 records" in said
    assert broken.name in said
    page = (tmp_path / "site/data/local-mine.html").read_text(encoding="utf-8")
    assert "MIT licence" in page
    assert str(tmp_path) not in page
    assert "<dd>12</dd>" in page  # the steps
