"""What `dtbench doctor` says of this machine, and of one that lacks something."""

from __future__ import annotations

import json
from importlib import metadata

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
        assert "--source local" in found[f"source {source}"]["said"]
    assert found["Hopper-v5"]["said"] == "can be made"
    assert "GB free" in found["datasets"]["said"]


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
    assert 'not installed; pip install "lightning' in found["lightning"]["said"]
    assert "9.0 is not known to work" in found["mujoco"]["said"]
    assert found["Nowhere-v0"]["state"] == "bad"
    assert "set DTBENCH_HOME" in found["datasets"]["said"]
