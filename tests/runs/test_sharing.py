"""Runs sent to and fetched from a hub on this machine, with the hub's own client."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file

from dtbench.errors import ConfigError, SourceError
from dtbench.results.files import read_result
from dtbench.runs.acting import open_policy
from dtbench.runs.reopen import evaluate_again, open_run
from dtbench.runs.sharing import CARD, RECORD, RUN, WEIGHTS, pull, push
from tests.commands import command, dtbench, environment
from tests.runs.hub import TOKEN, serving

REPO = "someone/dt-hopper"


@pytest.fixture
def run(finished_run) -> Path:
    return finished_run


def live_at(address: str, monkeypatch) -> None:
    """Do in this process what `HF_ENDPOINT` does in one of its own: it is read when the client is imported."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with serving() as hub:
        monkeypatch.delenv("DTBENCH_OFFLINE")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        live_at(hub.address, monkeypatch)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True, raising=False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        yield hub


@pytest.fixture
def sent(hub, run):
    push(run, REPO)
    return hub


def test_a_run_is_sent_as_weights_records_and_a_card_in_one_commit(sent, run):
    files = sent.repos[REPO]
    assert set(files) == {WEIGHTS, RECORD, RUN, CARD}
    assert len(sent.messages) == 1
    assert "dt on hopper-medium, seed 0" in sent.messages[0]
    record = run.with_name("seed-0.json")
    assert files[RECORD] == record.read_bytes()
    described = json.loads(files[RUN])
    assert described["model_address"] == ""
    assert str(run.parents[5]) not in files[RUN].decode()
    card = files[CARD].decode()
    assert card.startswith("---\n")
    assert f"{100 * read_result(record).score:.1f}" in card
    assert f"dtbench pull {REPO}" in card


def test_the_weights_are_those_of_the_checkpoint(sent, run, tmp_path):
    (tmp_path / WEIGHTS).write_bytes(sent.repos[REPO][WEIGHTS])
    found = load_file(tmp_path / WEIGHTS)
    expected = torch.load(run / "final.ckpt", weights_only=True)["state_dict"]
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, equal_nan=True)  # losses not seen yet are NaN


def test_a_fetched_run_is_like_ones_own(sent, run, tmp_path):
    folder = pull(REPO, tmp_path / "results")
    assert folder.relative_to(tmp_path / "results") == run.relative_to(run.parents[5])
    assert folder.with_name("seed-0.json").read_bytes() == run.with_name("seed-0.json").read_bytes()
    (mine,), (theirs,) = evaluate_again(run), evaluate_again(folder)
    assert theirs["returns"] == mine["returns"] == read_result(run.with_name("seed-0.json")).scores.returns
    assert "hopper-medium" in dtbench("leaderboard", tmp_path / "results")
    assert repr(open_policy(folder)) == "RunPolicy(dt on hopper-medium, seed 0)"
    dtbench("analyze", "attention", folder, "--episodes", 1)
    assert pull(REPO, tmp_path / "results") == folder  # the same again


def test_the_client_was_redirected_to_the_large_file(sent, tmp_path):
    pull(REPO, tmp_path)
    assert any(method == "GET" and path.startswith("/cdn/") for method, path in sent.seen)
    assert not [path for method, path in sent.seen if method == "GET" and path.endswith(CARD)]


def test_changed_weights_are_noticed_after_fetching(sent, tmp_path):
    folder = pull(REPO, tmp_path)
    state = torch.load(folder / "final.ckpt", weights_only=True)
    torch.save(
        {"state_dict": {name: tensor + 1 for name, tensor in state["state_dict"].items()}}, folder / "final.ckpt"
    )
    with pytest.raises(ConfigError, match="not the file that the result was measured with"):
        open_run(folder)


def test_another_result_in_its_place_is_kept(sent, run, tmp_path):
    place = (tmp_path / run.relative_to(run.parents[5])).with_name("seed-0.json")
    place.parent.mkdir(parents=True)
    place.write_text("{}")
    with pytest.raises(ConfigError, match=r"seed-0\.json holds another result"):
        pull(REPO, tmp_path)
    assert place.read_text() == "{}"


def test_weights_of_another_checkpoint_are_not_sent(hub, run, tmp_path):
    copied = tmp_path / "seed-0"
    shutil.copytree(run, copied)
    shutil.copy(run.with_name("seed-0.json"), tmp_path / "seed-0.json")
    torch.save({"state_dict": {}}, copied / "final.ckpt")
    with pytest.raises(ConfigError, match="SHA-256 differs"):
        push(copied, REPO)
    assert hub.repos == {}


def test_a_private_repository(hub, run):
    push(run, REPO, private=True)
    assert hub.private == [REPO]
    push(run, REPO)  # it exists: the files are replaced


@pytest.mark.parametrize("missing", [WEIGHTS, RECORD, RUN])
def test_a_repository_without_its_files_is_refused_whatever_else_it_holds(sent, tmp_path, missing):
    del sent.repos[REPO][missing]
    sent.repos[REPO] |= {"pytorch_model.bin": b"a pickle", "modeling.py": b"raise SystemExit", "final.ckpt": b"x"}
    with pytest.raises(ConfigError, match=rf"has no {missing}.*pickles are not opened"):
        pull(REPO, tmp_path / "results")
    assert not (tmp_path / "results").exists()
    assert not [path for _, path in sent.seen if path.endswith((".py", ".bin", ".ckpt"))]


def changed(hub, name: str, change) -> None:
    content = json.loads(hub.repos[REPO][name])
    change(content)
    hub.repos[REPO][name] = json.dumps(content).encode()


def test_names_that_lead_elsewhere_are_refused(sent, tmp_path):
    for name in (RECORD, RUN):
        changed(sent, name, lambda content: content["task"].update(id="../../../../../../escaped"))
    with pytest.raises(ConfigError, match=r"task\.id"):
        pull(REPO, tmp_path / "results")
    assert list(tmp_path.rglob("*escaped*")) == []


def test_a_module_in_front_of_an_environment_is_refused(sent, tmp_path):
    changed(sent, RUN, lambda content: content["protocol"].update(env_id="evil:Env-v0"))
    with pytest.raises(ConfigError, match="names a module"):
        pull(REPO, tmp_path)


def test_the_place_of_a_models_code_is_the_users_to_say(sent, tmp_path):
    for name in (RECORD, RUN):
        changed(sent, name, lambda content: content["model"].update(name="os:system"))
    changed(sent, RUN, lambda content: content.update(model_address="/tmp/evil.py:Model"))
    with pytest.raises(ConfigError, match=r"run of os:system, which is not part of dtbench.*--model"):
        pull(REPO, tmp_path)
    with pytest.raises(ConfigError, match="--model names dt"):
        pull(REPO, tmp_path, model="dt")


def test_records_of_two_runs_are_refused(sent, tmp_path):
    changed(sent, RECORD, lambda content: content.update(seed=3))
    with pytest.raises(ConfigError, match="not those of one finished run"):
        pull(REPO, tmp_path)


def test_damaged_weights_are_refused(sent, tmp_path):
    sent.repos[REPO][WEIGHTS] = sent.repos[REPO][WEIGHTS][:100]
    with pytest.raises(ConfigError, match="damaged"):
        pull(REPO, tmp_path)


def test_weights_of_another_record_are_refused(sent, tmp_path):
    changed(sent, RECORD, lambda content: content["training"].update(checkpoint_sha256="0" * 64))
    with pytest.raises(ConfigError, match="not what its record was measured with"):
        pull(REPO, tmp_path)


def test_refusals_are_one_sentence(hub, run, tmp_path, monkeypatch):
    with pytest.raises(SourceError, match="has no someone/dt-hopper"):
        pull(REPO, tmp_path)
    push(run, REPO)
    with pytest.raises(SourceError, match="no such revision"):
        pull(REPO, tmp_path, revision="v9")
    hub.refuses = True
    with pytest.raises(SourceError, match=r"refuses someone/dt-hopper \(403\)"):
        push(run, REPO)
    with pytest.raises(ConfigError, match="not a possible id"):
        pull("a/b/c", tmp_path)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match="needs a token"):
        push(run, REPO)
    monkeypatch.setenv("DTBENCH_OFFLINE", "1")
    with pytest.raises(SourceError, match="DTBENCH_OFFLINE"):
        pull(REPO, tmp_path)
    monkeypatch.delenv("DTBENCH_OFFLINE")
    live_at("http://127.0.0.1:1", monkeypatch)
    with pytest.raises(SourceError, match="cannot be reached"):
        pull(REPO, tmp_path)
    with pytest.raises(ConfigError, match="not the folder of a run"):
        push(tmp_path, REPO)
    shutil.copy(Path(run) / "run.json", tmp_path)
    with pytest.raises(ConfigError, match="not trained yet"):
        push(tmp_path, REPO)


@pytest.mark.slow
def test_from_the_command_line(hub, run, tmp_path):
    """In processes of their own, which know of the hub by HF_ENDPOINT alone."""
    surroundings = environment(HF_ENDPOINT=hub.address, HF_HUB_DISABLE_XET="1", HF_HOME=str(tmp_path / "hf"))
    options = {"env": surroundings, "capture_output": True, "text": True, "timeout": 300, "cwd": tmp_path}
    assert "DTBENCH_OFFLINE" not in os.environ
    done = subprocess.run(command("push", run, REPO), **options)
    assert (done.returncode, done.stdout) == (0, f"Sent to {hub.address}/{REPO}\n"), done.stderr
    done = subprocess.run(command("pull", REPO), **options)
    assert done.returncode == 0, done.stderr
    folder = done.stdout.removeprefix("Fetched ").strip()
    done = subprocess.run(command("evaluate", folder, "--json"), **options)
    (row,) = json.loads(done.stdout)
    assert row["returns"] == read_result(run.with_name("seed-0.json")).scores.returns
    done = subprocess.run(command("pull", "someone/unknown"), **options)
    assert done.returncode == 2
    assert done.stderr.startswith("dtbench: The model hub has no someone/unknown")
    assert len(done.stderr.splitlines()) == 1
