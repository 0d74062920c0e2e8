"""The main job from the command line: plan, train, evaluate, record, rank; interrupt and go on."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dtbench.cli.app import app
from dtbench.data.sources import open_store
from dtbench.errors import ConfigError, SourceError, UnknownNameError
from dtbench.results.schema import INTERRUPTED
from dtbench.runs import live
from dtbench.runs.execute import execute, run
from dtbench.runs.folder import Progress, RunFolder
from dtbench.runs.plan import RunRequest, plan_runs
from dtbench.runs.trackers import loggers
from dtbench.suites.suites import Suite, load_suite
from tests.commands import LONG, RESULTS, RUN, TASK, dtbench, main, only_result, process, results, start, wait_until


def test_run_records_ranks_and_skips_what_is_done(tmp_path):
    text = dtbench(*RUN, "--model", "dt,gpt2_dtma", "--output", tmp_path)
    assert "preset smoke (asked for)" in text
    assert "Leaderboard: " in text
    for model in ("dt", "gpt2_dtma"):
        path = tmp_path / "d4rl-short@1" / "local" / "smoke" / model / TASK / "seed-0.json"
        result = json.loads(path.read_text())
        assert result["status"] == "ok"
        assert (result["task"]["id"], result["model"]["name"]) == (TASK, model)
        assert len(result["scores"]["normalized"]) == result["evaluation"]["episodes"] == 2
        assert result["task"]["fingerprint"]
        random, expert = result["task"]["reference"]["random"], result["task"]["reference"]["expert"]
        expected = [(value - random) / (expert - random) for value in result["scores"]["returns"]]
        assert result["scores"]["normalized"] == pytest.approx(expected)
    assert "random (2 × 32, 2 heads)" in (tmp_path / "leaderboard.md").read_text()
    before = path.read_bytes()
    assert "2 of 2 runs are finished already" in dtbench(*RUN, "--model", "dt,gpt2_dtma", "--output", tmp_path)
    assert path.read_bytes() == before
    dtbench("leaderboard", tmp_path, "--out", tmp_path / "again.md")
    assert "gpt2_dtma" in (tmp_path / "again.md").read_text()


def test_analyses_of_a_trained_run(tmp_path):
    dtbench(*RUN, "--model", "lamo", "--output", tmp_path)
    (folder,) = tmp_path.glob("*@*/*/*/*/*/seed-0")
    heads = json.loads(dtbench("analyze", "markov-heads", folder, "--json"))["layers"]
    assert [len(layer["heads"]) for layer in heads] == [2, 2]
    words = ("analyze", "attention", tmp_path, "--task", TASK, "--episodes", "2", "--plot", tmp_path / "a.png")
    content = json.loads(dtbench(*words, "--json").partition("\n")[2])  # the first line names the figure
    for layer in (*content["layers"], *content["before"]["layers"]):
        for head in layer["heads"]:
            assert 0 <= head["last_token_mass"] <= 1
            assert head["entropy"] >= 0
    assert content["layers"] != content["before"]["layers"]
    assert (tmp_path / "a.png").is_file()
    with pytest.raises(ConfigError, match="no finished run of walker2d-medium"):
        dtbench("analyze", "attention", tmp_path, "--task", "walker2d-medium")


def test_a_backbone_that_cannot_be_had_stops_before_anything_is_built(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path / "home"))
    with pytest.raises(SourceError, match=r"HF_HOME.*model\.backbone=FOLDER.*model\.backbone=bundled"):
        dtbench(*RUN, "--model", "gpt2_dt", "--set", "model.backbone=gpt2", "--output", tmp_path)
    assert not (tmp_path / "home").exists()


def test_evaluate_again_repeats_the_score(tmp_path):
    dtbench(*RUN, "--model", "dt", "--seeds", "3", "--output", tmp_path)
    result = only_result(tmp_path)
    (folder,) = tmp_path.glob("*@*/*/*/*/*/seed-3")
    rows = json.loads(dtbench("evaluate", folder, "--json"))
    assert rows[0]["returns"] == result.scores.returns
    rows = json.loads(dtbench("evaluate", folder, "--seed", "4", "--json"))
    assert rows[0]["returns"] != result.scores.returns
    rows = json.loads(dtbench("evaluate", folder, "--target", "100", "--target", "5000", "--episodes", "1", "--json"))
    assert [(row["target"], len(row["returns"])) for row in rows] == [(100.0, 1), (5000.0, 1)]


def test_the_last_checkpoint_at_the_score_target_is_the_score(tmp_path):
    """Other targets and evaluations during training are diagnostics and change nothing."""
    dtbench(*RUN, "--model", "dt", "--output", tmp_path / "plain")
    more = ("--set", "evaluation.every=4", "--set", "evaluation.all_targets=true", "--set", "evaluation.data_targets=3")
    dtbench(*RUN, "--model", "dt", *more, "--output", tmp_path / "more")
    plain, scores = only_result(tmp_path / "plain").scores, only_result(tmp_path / "more").scores
    assert scores.returns == plain.returns
    targets = [float(target) for target in scores.per_target]
    assert targets[:2] == [3600.0, 1800.0]
    returns = open_store("local", load_suite("d4rl-short").task(TASK).sources["local"], 4000).episode_returns
    spread = [returns.min(), (returns.min() + returns.max()) / 2, returns.max()]
    assert targets[2:] == pytest.approx(spread, rel=1e-3)
    assert scores.per_target["3600.0"].returns == scores.returns
    assert scores.per_target["1800.0"].returns != scores.returns
    assert [step for step, _ in scores.during_training] == [4, 8]


def test_a_failing_run_is_recorded_and_the_others_go_on(tmp_path, monkeypatch):
    from dtbench.models.dt import DecisionTransformer

    def explode(self, batch):
        raise ValueError("the loss exploded")

    monkeypatch.setattr(DecisionTransformer, "loss", explode)
    text = dtbench(*RUN, "--model", "dt,gpt2_dtma", "--jobs", "1", "--output", tmp_path, expect=1)
    assert "1 runs failed" in text
    statuses = {}
    for path in tmp_path.glob("*@*/*/*/*/*/seed-*.json"):
        result = json.loads(path.read_text())
        statuses[result["model"]["name"]] = result["status"]
        if result["status"] == "failed":
            assert result["error"]["message"] == "the loss exploded"
            assert "Traceback" in result["error"]["traceback"]
    assert statuses == {"dt": "failed", "gpt2_dtma": "ok"}
    monkeypatch.undo()
    dtbench(*RUN, "--model", "dt", "--output", tmp_path)  # a failed run is planned again


def test_existing_results_can_be_refused_or_done_again(tmp_path):
    dtbench(*RUN, "--model", "dt", "--output", tmp_path)
    asked = {"models": ["dt"], "output": tmp_path, "preset": "smoke", "tasks": [TASK], "source": "local"}
    fail, rerun = (RunRequest(**asked, existing=existing) for existing in ("fail", "rerun"))
    with pytest.raises(ConfigError, match="exists; choose --existing"):
        execute(fail, plan_runs(fail))
    with pytest.raises(ConfigError, match="skip, rerun or fail"):
        RunRequest(**asked, existing="overwrite")
    first = only_result(tmp_path)
    execute(rerun, plan_runs(rerun))
    second = only_result(tmp_path)
    assert second.provenance.finished >= first.provenance.finished
    assert second.scores == first.scores  # the same seed gives the same run


def test_changed_configuration_is_another_identity(tmp_path):
    dtbench(*RUN, "--model", "dt", "--output", tmp_path)
    dtbench(*RUN, "--model", "dt", "--output", tmp_path, "--set", "optimizer.learning_rate=0.01")
    folders = sorted(path.parent.parent.name for path in tmp_path.glob("*@*/*/*/*/*/seed-0.json"))
    assert folders[0] == "dt"
    assert folders[1].startswith("dt+")


def losses(folder: Path) -> dict[int, float]:
    """Return step → logged loss, of all pieces of an interrupted run."""
    import csv

    found = {}
    for file in folder.glob("*@*/*/*/*/*/seed-0/csv/*/metrics.csv"):
        with file.open() as content:
            found |= {
                int(row["step"]): float(row["train/loss"]) for row in csv.DictReader(content) if row["train/loss"]
            }
    return found


@pytest.mark.slow
def test_interrupted_by_ctrl_c_the_same_line_ends_where_an_uninterrupted_run_does(tmp_path):
    words = (*RUN, "--model", "dt", *LONG, "--output")
    whole = process(*words, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    with start(*words, tmp_path / "parts") as child:
        wait_until(lambda: list((tmp_path / "parts").rglob("latest.ckpt")))
        child.send_signal(signal.SIGINT)
        _, text = child.communicate(timeout=60)
    assert child.returncode == 130, text
    assert "interrupted by SIGINT; the same command continues" in text
    assert "Traceback" not in text
    assert only_result(tmp_path / "parts").status == INTERRUPTED
    resumed = process(*words, tmp_path / "parts")
    assert resumed.returncode == 0, resumed.stderr
    one, other = only_result(tmp_path / "whole"), only_result(tmp_path / "parts")
    assert one.scores == other.scores
    assert one.training.final_loss == other.training.final_loss
    curve = losses(tmp_path / "parts")
    assert len(curve) > 300  # what the stopped process had not flushed may be missing, the rest is there
    assert curve.items() <= losses(tmp_path / "whole").items()


def test_a_record_that_ctrl_c_cut_short_does_not_hold_up_the_end(tmp_path):
    """An item in the queue of TensorBoard's thread without the call that wakes it, as the interrupt leaves it."""
    (logger,) = loggers(RunFolder(tmp_path), ["tensorboard"])
    logger.log_metrics({"loss": 1.0}, step=0)
    time.sleep(0.5)  # the thread has written it and sleeps until its next flush
    queue = logger.experiment.file_writer.event_writer._async_writer._byte_queue
    with queue.mutex:
        queue._put(b"record")
        queue.unfinished_tasks += 1
    end = threading.Thread(target=logger.experiment.flush, daemon=True)
    end.start()
    end.join(timeout=40)
    assert not end.is_alive()


@pytest.mark.slow
def test_side_by_side_gives_the_same_results(tmp_path):
    # Each run on one thread: how a sum is split over threads changes its last bits.
    for jobs in ("1", "2"):
        done = process(*RUN, "--model", "dt", "--seeds", "0,1", "--jobs", jobs, "--output", tmp_path / jobs)
        assert done.returncode == 0, done.stderr
    for seed in (0, 1):
        one, two = (results(tmp_path / jobs)[f"dt/{TASK}/seed-{seed}"] for jobs in ("1", "2"))
        assert one.scores == two.scores


@pytest.mark.slow
def test_two_devices_train_one_run(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = ("--devices", "2", "--accelerator", "cpu", "--set", "hardware.strategy=ddp")
    evaluation = ("--set", "evaluation.episodes=3", "--set", "evaluation.every=5")
    dtbench(*RUN, "--model", "gpt2_dtma", *options, *evaluation, "--output", tmp_path)
    result = only_result(tmp_path)
    assert result.training.world_size == 2
    assert result.training.effective_batch == 2 * result.model.config["training"]["batch_size"]
    assert [step for step, _ in result.scores.during_training] == [5, 10]
    # The episodes were divided: one process alone, with the same weights, gives the same ones.
    (folder,) = (file.parent for file in tmp_path.rglob("final.ckpt"))
    (again,) = json.loads(dtbench("evaluate", folder, "--json"))
    assert again["returns"] == result.scores.returns
    assert again["lengths"] == result.scores.lengths
    assert len(set(again["returns"])) == 3


MISTAKES = {
    ("run", "--model", "dt", "--launcher", "slurm"): "Unknown launcher 'slurm'",
    ("run", "--model", "gpt2_dmta"): "did you mean 'gpt2_dtma'",
    ("run", "--model", "dt", "--suite", "d4rl-shrot"): "did you mean 'd4rl-short'",
    ("run", "--model", "dt", "--preset", "quik"): "did you mean 'quick'",
    ("run", "--model", "dt", "--task", "hopper-medum"): "did you mean 'hopper-medium'",
    ("run", "--model", "dt", "--source", "minary"): "Unknown source 'minary'",
    ("run", "--model", "dt", "--seeds", "one"): "not a list of seeds",
    ("run", "--model", "dt", "--seeds", "0,0"): "must be distinct",
    ("run", "--model", "dt", "--set", "training.stepz=1"): "did you mean 'steps'",
    ("run", "--model", "dt", "--config", "nowhere.yaml"): "There is no file nowhere.yaml",
    ("show", "suite", "d4rl"): "Unknown suite 'd4rl'",
    ("show", "model", "td"): "Unknown model 'td'",
    ("leaderboard", "nowhere"): "There is no folder nowhere",
    ("evaluate", "nowhere"): "not the folder of a run",
    ("data", "info", "hopper-medium", "--steps", "77"): "is not built",
    ("data", "info", "hoper-medium"): "did you mean 'hopper-medium'",
}


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_mistakes_get_one_sentence_and_exit_code_2(words, capsys):
    code = main(*words)
    said = capsys.readouterr().err.splitlines()
    assert code == 2
    assert MISTAKES[words] in said[-1]
    assert len([line for line in said if not line.startswith("dtbench 0")]) == 1


def test_lists_and_shows_print_json():
    assert {"dt", "gpt2_dtma"} <= {row["name"] for row in json.loads(dtbench("list", "models", "--json"))}
    assert "d4rl-short" in {row["name"] for row in json.loads(dtbench("list", "suites", "--json"))}
    assert {"smoke", "quick", "paper"} <= {row["name"] for row in json.loads(dtbench("list", "presets", "--json"))}
    suite = json.loads(dtbench("show", "suite", "d4rl-short", "--json"))
    assert len(suite["tasks"]) == 9
    assert json.loads(dtbench("show", "model", "dt", "--json"))["config"]["training"]["steps"] == 100_000
    assert "hopper-medium-replay" in dtbench("show", "suite", "d4rl-short")


def test_dry_run_plans_and_does_nothing(tmp_path):
    plans = json.loads(
        CliRunner().invoke(app, [*RUN, "--model", "dt", "--dry-run", "--json", "-o", str(tmp_path)]).stdout
    )
    assert [(plan["model"], plan["task"], plan["finished"]) for plan in plans] == [("dt", TASK, False)]
    assert not list(tmp_path.iterdir())


def test_data_commands():
    dtbench("data", "build", "d4rl-short", "--task", TASK, "--steps", "300")
    assert json.loads(dtbench("data", "info", TASK, "--steps", "300", "--json"))["steps"] == 300
    assert "matches the fingerprint" in dtbench("data", "verify", TASK, "--steps", "300")


def test_help_needs_neither_torch_nor_lightning():
    code = "import sys, dtbench.cli.app; print({'torch', 'lightning', 'gymnasium', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_a_model_from_outside_follows_the_walk_of_the_docs(tmp_path):
    """The example, copied to a folder of the user's and run by its place."""
    for name in ("my_model.py", "my_model.yaml"):
        shutil.copy(Path(__file__).parents[2] / "examples" / name, tmp_path)
    command = (*RUN, "--model", "my_model:LinearPolicy", "--output", tmp_path / "out")
    done = process(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = only_result(tmp_path / "out")
    assert result.model.name == "my_model:LinearPolicy"
    assert result.model.config["optimizer"]["weight_decay"] == 0.01  # from the yaml
    assert "my_model:LinearPolicy" in (tmp_path / "out" / "leaderboard.md").read_text()
    assert "1 of 1 runs are finished already" in process(*command, cwd=tmp_path).stderr
    for wrong, said in (("my_model:Nothing", "Nothing"), ("no_module:Model", "no_module"), ("json:loads", "subclass")):
        done = process(*RUN, "--model", wrong, "--output", tmp_path / "x", cwd=tmp_path)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        assert said in done.stderr


def own_suite() -> Suite:
    """A suite that is in no file."""
    shipped = load_suite("d4rl-short")
    return Suite("mine", 3, "Built in Python.", shipped.sources, tuple(shipped.select([TASK])))


@pytest.mark.slow
def test_a_suite_built_in_python_runs_in_workers(tmp_path):
    steps = ["training.steps=100", "training.context_length=5"]  # enough for a process of its own
    summary = run(own_suite(), "bc", preset="smoke", output=tmp_path, overrides=steps)
    assert (summary.finished, summary.failed) == (1, 0)
    assert summary.results[0].suite.id == "mine@3"
    assert next(tmp_path.glob(RESULTS)).parts[-6] == "mine@3"


def test_run_has_the_defaults_of_the_request_and_refuses_what_it_does_not_know(tmp_path):
    with pytest.raises(ConfigError, match="Name at least one model"):
        run(own_suite(), preset="smoke", output=tmp_path)
    with pytest.raises(UnknownNameError, match="did you mean 'preset'"):
        run(own_suite(), "bc", presett="smoke")


SCALED = """
from dtbench.models.bc import BehaviourCloning


class Scaled(BehaviourCloning):
    window_options = {"return_scale": 7.0, "delayed_reward": True}
"""


def test_what_a_model_asks_of_its_windows_holds_in_evaluation_too(tmp_path):
    (tmp_path / "scaled.py").write_text(SCALED, encoding="utf-8")
    dtbench(*RUN, "--model", f"{tmp_path / 'scaled.py'}:Scaled", "--output", tmp_path / "out")
    (file,) = (tmp_path / "out").rglob("run.json")
    protocol = json.loads(file.read_text(encoding="utf-8"))["protocol"]
    assert (protocol["return_scale"], protocol["delayed_reward"]) == (7.0, True)


def test_without_a_terminal_lines_tell_how_far_the_runs_are(tmp_path, monkeypatch, capsys):
    request = RunRequest(models=["bc"], preset="smoke", tasks=[TASK], output=tmp_path, source="local")
    (plan,) = plan_runs(request)
    assert live.describe(plan, live.look(plan)).endswith("seed 0: starting")
    plan.folder.create()
    plan.folder.write_progress(Progress(step=4, loss=0.5, steps_per_s=0.05))
    monkeypatch.setattr(live, "_LINE_EVERY_S", 0.0)
    with live.Display([plan]) as display:
        display.show([(plan, live.look(plan))])
    assert "1/1 bc · hopper-medium · seed 0: step 4 of 10, loss 0.5, 2 min left to train" in capsys.readouterr().err


def test_a_dry_run_estimates_the_time_of_each_run_and_of_the_whole(tmp_path):
    text = dtbench(*RUN, "--model", "dt,cql", "--dry-run", "--output", tmp_path)
    assert "2 runs to do" in text
    assert text.count("(about ") == 2
    assert not list(tmp_path.iterdir())
