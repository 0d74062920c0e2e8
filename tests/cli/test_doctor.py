"""What `dtbench doctor` reports of this machine, and of one that lacks something."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dtbench.cli import app as cli
from dtbench.cli import doctor


def findings():
    done = CliRunner().invoke(cli.app, ["doctor", "--json"])
    return done.exit_code, {row["subject"]: row for row in json.loads(done.stdout)}


def test_this_machine_is_fit():
    code, found = findings()
    assert code == 0, [row for row in found.values() if row["state"] == "bad"]
    assert found["torch"]["state"] == "ok"
    assert found["source local"]["state"] == "ok"
    for source in ("minari", "d4rl"):
        assert found[f"source {source}"]["state"] == "note"  # the tests are offline
        assert "--source local" in found[f"source {source}"]["detail"]
    assert found["Hopper-v5"]["detail"] == "can be made"
    assert "GB free" in found["datasets"]["detail"]


def test_what_is_missing_or_too_new_is_named(monkeypatch, tmp_path):
    real = metadata.version

    def version(name):
        if name == "lightning":
            raise metadata.PackageNotFoundError(name)
        return "9.0" if name == "mujoco" else real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    monkeypatch.setattr(doctor, "_ENVIRONMENTS", ("Nowhere-v0",))
    monkeypatch.setattr(doctor.os, "access", lambda *args: False)
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path))
    code, found = findings()
    assert code == 1
    assert 'not installed; pip install "lightning' in found["lightning"]["detail"]
    assert "9.0 is not known to work" in found["mujoco"]["detail"]
    assert found["Nowhere-v0"]["state"] == "bad"
    assert "set DTBENCH_HOME" in found["datasets"]["detail"]


@pytest.fixture
def quick(monkeypatch):
    """Examine no environments, which takes seconds."""
    monkeypatch.setattr(doctor, "_ENVIRONMENTS", ())


def test_an_installation_without_metadata_is_reported(monkeypatch, quick):
    def requires(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", requires)
    code, found = findings()
    assert code == 0
    assert found["packages"]["state"] == "note"
    assert "not installed as a package" in found["packages"]["detail"]


@pytest.mark.parametrize("version", [None, "not a version"])
def test_a_package_with_broken_metadata_is_reported(monkeypatch, quick, version):
    real = metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: version if name == "scipy" else real(name))
    code, found = findings()
    assert code == 1
    assert "its version cannot be read" in found["scipy"]["detail"]


@pytest.mark.parametrize("part", ["_python", "_packages", "_gpu", "_network", "_folders"])
def test_what_fails_to_be_examined_does_not_stop_the_rest(monkeypatch, quick, part):
    def fail():
        raise RuntimeError("two\nlines")
        yield

    monkeypatch.setattr(doctor, part, fail)
    code, found = findings()
    assert code == 1
    assert found[part.strip("_")]["detail"] == "cannot be examined: RuntimeError: two lines"
    assert len(found) > 3


def test_folders_that_cannot_be_read_are_reported(monkeypatch, quick, tmp_path):
    """Root may read every folder, hence the errors are made here."""
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path / "home"))
    real = Path.exists

    def exists(path, **options):
        if path.is_relative_to(tmp_path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(Path, "exists", exists)
    code, found = findings()
    assert code == 1
    assert found["datasets"]["state"] == "bad"
    assert "cannot be read (Permission denied); set DTBENCH_HOME" in found["datasets"]["detail"]


@pytest.mark.parametrize("home", ["a-file", "a-file/below", "~nobody-of-this-name/x", "relative"])
def test_any_home_can_be_examined(monkeypatch, quick, tmp_path, home):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").write_text("", encoding="utf-8")
    monkeypatch.setenv("DTBENCH_HOME", home)
    code, found = findings()
    is_bad = home.startswith("a-file")
    assert code == is_bad
    assert found["datasets"]["state"] == ("bad" if is_bad else "ok")
    assert ("is not a folder" in found["datasets"]["detail"]) == is_bad


def test_a_broken_torch_is_reported(monkeypatch, quick):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, found = findings()
    assert code == 1
    assert "torch cannot be imported" in found["GPU"]["detail"]
