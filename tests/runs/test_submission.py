"""The rules for publication: each is broken in one record, and named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dtbench.errors import ConfigError
from dtbench.results.files import read_result, write_result
from dtbench.results.schema import Result
from dtbench.runs.replay import replay
from dtbench.runs.submission import check_submission, file_of, published_results
from tests.commands import dtbench

PUBLISHED = Path(__file__).parents[2] / "leaderboards" / "results"
DT = "d4rl-short@1/local/quick/dt/hopper-medium"


@pytest.fixture
def submission(tmp_path):
    """Three published records of one model on one task, which keep all rules."""
    shutil.copytree(PUBLISHED / DT, tmp_path / "s" / DT)
    for file in (tmp_path / "s" / DT).glob("seed-*.json"):
        if file.name not in ("seed-0.json", "seed-1.json", "seed-2.json"):
            file.unlink()
    return tmp_path / "s"


def errors(root: Path) -> list[str]:
    _, findings = check_submission(root, PUBLISHED)
    return [str(finding) for finding in findings if finding.is_error]


def change(root: Path, edit, seed: int = 0) -> None:
    """Edit a record; what the edit returns takes its place."""
    file = root / DT / f"seed-{seed}.json"
    changed = edit(read_result(file))
    file.unlink()
    write_result(root / file_of(changed), changed)


def test_records_that_keep_the_rules(submission):
    count, findings = check_submission(submission, PUBLISHED)
    assert count == 3
    assert [finding.is_error for finding in findings] == [False]
    assert "1 of the suite's 9 tasks" in findings[0].message
    assert published_results() == PUBLISHED


def task(**changes):
    return lambda result: replace(result, task=replace(result.task, **changes))


def model(**changes):
    return lambda result: replace(result, model=replace(result.model, **changes))


def git(commit):
    return lambda result: replace(result, provenance=replace(result.provenance, git=commit))


def scores(**changes):
    return lambda result: replace(result, scores=replace(result.scores, **changes))


def better(result: Result) -> Result:
    """Scores that its returns do not give."""
    entry = replace(next(iter(result.scores.per_target.values())), normalized=[1.0] * 10)
    per_target = dict.fromkeys(result.scores.per_target, entry)
    return replace(result, scores=replace(result.scores, normalized=[1.0] * 10, per_target=per_target))


def config(section: str, **changes):
    def edit(result: Result) -> Result:
        content = {**result.model.config, section: {**result.model.config[section], **changes}}
        return replace(result, model=replace(result.model, config=content))

    return edit


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (git(None), "does not say from which commit"),
        (git("0" * 40 + "+dirty"), "changed code"),
        (git("main"), "its commit 'main'"),
        (task(score_target=1800.0), "score_target is 1800.0"),
        (task(return_scale=1.0), "return_scale is 1.0"),
        (task(env_id="Hopper-v4"), "env_id is Hopper-v4"),
        (task(dataset_id="local/hopper-medium-r0-100000-s0"), "hopper-medium-r0-100000-s0"),
        (task(fingerprint="0" * 64), "another fingerprint"),
        (lambda r: task(reference=replace(r.task.reference, expert=3000.0))(r), "reference"),
        (better, "normalized is not what its returns"),
        (lambda r: scores(returns=[0.0] * 10)(r), "scores.returns are not those at the score target"),
        (lambda r: replace(r, evaluation=replace(r.evaluation, env_seeds=list(range(10)))), "env_seeds"),
        (lambda r: replace(r, training=replace(r.training, steps=9000)), "9000 steps instead of 1500"),
        (lambda r: replace(r, training=replace(r.training, checkpoint_sha256=None)), "no checksum"),
        (config("optimizer", learning_rate=0.1), "not recorded (optimizer.learning_rate=0.1)"),
        (config("evaluation", episodes=11), "evaluation.episodes=11 changes the protocol"),
        (model(config_hash="0" * 12), "config_hash is not that"),
        (lambda r: replace(r, evaluation=replace(r.evaluation, max_episode_steps=100)), "cut after 100 steps"),
    ],
)  # fmt: skip
def test_each_rule_names_the_file(submission, edit, sentence):
    change(submission, edit)
    found = errors(submission)
    assert any(line.startswith(f"error: {DT}/seed-") and sentence in line for line in found), found


def test_a_preset_may_cut_episodes(submission):
    """`quick` cuts those of Atari after 5,000 steps; uncut ones are another protocol."""
    folder = "atari@1/local/quick/bc/pong-medium-replay"
    shutil.copytree(PUBLISHED / folder, submission / folder, ignore=shutil.ignore_patterns("seed-?"))
    assert errors(submission) == []
    file = submission / folder / "seed-0.json"
    content = json.loads(file.read_text())
    assert content["evaluation"].pop("max_episode_steps") == 5000
    file.write_text(json.dumps(content))
    said = "its episodes were cut after 27000 steps, the preset quick cuts them after 5000; run it again."
    assert errors(submission) == [f"error: {folder}/seed-0.json: {said}"]


def test_a_suite_of_another_version_and_an_unknown_one(submission):
    for name, sentence in (("d4rl-short", "d4rl-short@1 now"), ("mine", "mine@7 is not one of ours")):
        moved = submission / f"{name}@7" / DT.partition("/")[2]
        moved.mkdir(parents=True)
        for file in (submission / DT).glob("*.json"):
            content = json.loads(file.read_text())
            content["suite"] = {"name": name, "version": 7}
            (moved / file.name).write_text(json.dumps(content))
        assert sum(sentence in line for line in errors(submission)) == 3


def test_two_seeds_are_too_few(submission):
    (submission / DT / "seed-2.json").unlink()
    assert errors(submission) == [f"error: {DT}: 2 seeds (0, 1); at least 3 are needed."]


def test_tasks_must_share_three_seeds(submission):
    other = DT.replace("hopper-medium", "walker2d-medium")
    (submission / other).mkdir()
    for seed in (1, 2, 3):
        shutil.copy(PUBLISHED / other / f"seed-{seed}.json", submission / other)
    assert errors(submission) == [
        "error: d4rl-short@1/local/quick/dt: it has only 2 seeds (1, 2) on all of its 2 tasks; run the same 3 on each "
        "of them."
    ]
    shutil.copy(PUBLISHED / other / "seed-0.json", submission / other)
    assert errors(submission) == []
    assert any("seed 3 is not on all" in finding.message for finding in check_submission(submission)[1])


def test_a_copied_run_is_found(submission):
    """With another seed, and with scores that were changed by hand."""
    copied = json.loads((submission / DT / "seed-1.json").read_text())
    original = read_result(submission / DT / "seed-0.json")
    copied["training"]["checkpoint_sha256"] = original.training.checkpoint_sha256
    (submission / DT / "seed-1.json").write_text(json.dumps(copied))
    (line,) = errors(submission)
    assert "one is a copy" in line


def test_misplaced_failed_and_unreadable_files(submission):
    shutil.copy(submission / DT / "seed-0.json", submission / DT / "seed-7.json")
    (submission / DT / "seed-8.json").write_text("{")
    failed = replace(read_result(submission / DT / "seed-1.json"), status="failed", scores=None, seed=9)
    write_result(submission / DT / "seed-9.json", failed)
    found = errors(submission)
    for seed, sentence in ((7, "holds the result of"), (8, "cannot be read"), (9, "it has no score (failed")):
        assert any(line.startswith(f"error: {DT}/seed-{seed}.json: ") and sentence in line for line in found), found


def test_other_local_data_are_a_warning_and_other_downloads_an_error(submission):
    for seed in range(3):
        change(submission, task(fingerprint="1" * 64), seed)
    _, findings = check_submission(submission, PUBLISHED)
    (finding,) = [finding for finding in findings if "fingerprint" in finding.message]
    assert not finding.is_error
    assert "a table of their own" in finding.message


def test_the_command(submission):
    assert "3 records: no errors, 1 warnings" in dtbench("results", "check", submission)
    change(submission, git(None))
    content = json.loads(dtbench("results", "check", submission, "--json", expect=1))
    assert (content["records"], content["errors"]) == (3, 1)
    assert {finding["file"] for finding in content["findings"] if finding["is_error"]} == {f"{DT}/seed-0.json"}


@pytest.mark.slow
def test_the_published_results_keep_the_rules():
    assert errors(PUBLISHED) == []


def test_a_replay_repeats_the_returns_and_notices_others(finished_run, tmp_path):
    shutil.copytree(finished_run.parents[5], tmp_path, dirs_exist_ok=True)
    (done,) = replay(tmp_path, 1)
    assert done.is_equal
    model = finished_run.parents[1].name
    assert str(done).startswith(f"equal: d4rl-short@1/local/smoke/{model}/hopper-medium/seed-0.json: 3 episodes")
    (file,) = tmp_path.glob("*@*/*/*/*/*/seed-0.json")
    result = read_result(file)
    returns = [result.scores.returns[0] + 1.0, *result.scores.returns[1:]]
    write_result(file, replace(result, scores=replace(result.scores, returns=returns)))
    (done,) = replay(tmp_path, 1)
    assert (done.is_equal, done.differing, done.episodes) == (False, 1, 3)
    assert "1 of 3 episodes have another return" in str(done)
    with pytest.raises(ConfigError, match=r"has 1 finished runs.*--replay asks for 2"):
        list(replay(tmp_path, 2))
    (file.with_suffix("") / "final.ckpt").write_bytes(b"damaged")
    (done,) = replay(tmp_path, 1)
    assert done.repeated is None
    assert "cannot be evaluated again" in str(done)
