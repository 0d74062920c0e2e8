"""May these results be published? Each rule that a record breaks is one sentence with the file and the fix.

What is compared with what:

- the protocol (environment, score target, scale, reference scores, episodes, seeds of the environments) with the
  suite's and the preset's files of this version of dtbench;
- the configuration with what model, preset, suite and task are merged to, and what the user is recorded to have
  changed;
- the scores with the returns, the identity with the path;
- the fingerprint of the data with that of the other records on the same dataset, here and among the published results.
  Local data are a function of their recipe, but another MuJoCo or kind of processor may round differently
  (`data/sources/local.py`): a fingerprint unlike the published one is then a warning, because such results stand in a
  table of their own; of downloaded data it is an error.

An error stops publication. A warning says what a reader will see: a row that is incomplete, or a new dataset.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dtbench.config import compose, hashed_part, load_preset, preset_names, task_layers
from dtbench.data.sources import local
from dtbench.environments.make import canonical_id
from dtbench.errors import DtbenchError, ResultError
from dtbench.evaluation.rollout import episode_seeds
from dtbench.registry import models
from dtbench.resources import resource
from dtbench.results.changes import changes_between, without_precision
from dtbench.results.files import result_path, scan
from dtbench.results.schema import DONE, EpisodeScores, Result
from dtbench.results.text import reason
from dtbench.suites.suites import Suite, Task, load_suite, suite_names

#: Of fewer seeds there is no interval.
FEWEST_SEEDS = 3
#: A recomputed score may differ by rounding only.
_ROUNDING = 1e-9
#: What of the configuration is the protocol: it is the suite's and the preset's, never the user's.
_PROTOCOL = ("evaluation.episodes", "evaluation.actions", "evaluation.random_actions", "evaluation.max_episode_steps")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Finding:
    """What is wrong with one file, or with the files of one folder.

    Attributes:
        file: relative to the folder that was checked.
        message: what is wrong, and what to do.
        is_error: whether it stops publication.
    """

    file: str
    message: str
    is_error: bool = True

    def __str__(self) -> str:
        return f"{'error' if self.is_error else 'warning'}: {self.file}: {self.message}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for `--json`."""
        return asdict(self)


def published_results() -> Path | None:
    """Return the folder of the published results, where this is a checkout."""
    folder = resource("leaderboards", "results")
    return folder if folder.is_dir() else None


def check_submission(root: Path, published: Path | None = None) -> tuple[int, list[Finding]]:
    """Check all results under a folder by the rules for publication.

    Args:
        root: the folder.
        published: results whose data these are compared with, if there are some.

    Returns:
        How many records were read, and what is wrong: of single files first, then of several.

    Raises:
        ResultError: there is no such folder, or no result in it.
    """
    results, left_out = scan(root)
    if not results and not left_out:
        raise ResultError(f"{root} holds no results; `dtbench run --output {root}` writes some.")
    findings = [Finding(*_file_and_rest(line)) for line in left_out]
    for result in results:
        file = file_of(result).as_posix()
        findings += [Finding(file, message) for message in _record_findings(result)]
    findings += _data_findings(results, published)
    findings += _seed_findings(results)
    findings += _copies(results)
    return len(results), findings


def file_of(result: Result) -> Path:
    """Return a result's place below the folder of results."""
    task, model = result.task, result.model
    return result_path(
        Path(), result.suite.id, task.source, result.preset, model.folder, task.id, result.seed
    )  # fmt: skip


def _file_and_rest(line: str) -> tuple[str, str]:
    """Divide a sentence of `scan` into the file, with which it begins, and the rest."""
    match = re.match(r"(?:The folder )?(\S+\.json|\S+):? (.*)", line)
    return (match[1], match[2]) if match else ("", line)


def _record_findings(result: Result) -> Iterator[str]:
    """Say what is wrong with one record."""
    if result.status != DONE:
        yield f"it has no score ({reason(result)}); run it again, or leave the model out."
        return
    yield from _provenance(result)
    yield from _scores(result)
    if result.suite.name not in suite_names():
        yield f"the suite {result.suite.id} is not one of ours; send its file in `benchmarks/suites/`, too."
        return
    suite = _suite(result.suite.name)
    if suite.version != result.suite.version:
        yield f"the suite is {suite.id} now, whose scores differ from those of {result.suite.id}; run it again."
        return
    task = next((task for task in suite.tasks if task.id == result.task.id), None)
    if task is None:
        yield f"{suite.id} has no task {result.task.id}; known are {', '.join(task.id for task in suite.tasks)}."
        return
    yield from _protocol(result, task)
    yield from _configuration(result, suite, task)


def _provenance(result: Result) -> Iterator[str]:
    commit = result.provenance.git
    if commit is None:
        yield "it does not say from which commit it was run; run it from a checkout of the repository."
    elif commit.endswith("+dirty"):
        yield f"it was run with changed code ({commit[:12]}+dirty); commit the changes and run it again."
    elif not _COMMIT.fullmatch(commit):
        yield f"its commit {commit!r} is not one; run it again from a clean checkout."
    if result.measured.training.checkpoint_sha256 is None:
        yield "it has no checksum of its weights (training.checkpoint_sha256); run it again with this version."


def _scores(result: Result) -> Iterator[str]:
    """Compute the scores again from the returns."""
    scores, _, evaluation = result.measured
    entries: list[tuple[str, EpisodeScores]] = [("scores", scores)]
    entries += [(f"scores.per_target[{target}]", entry) for target, entry in scores.per_target.items()]
    for name, entry in entries:
        expected = result.task.reference.normalize(entry.returns)
        if not np.allclose(entry.normalized, expected, rtol=_ROUNDING, atol=_ROUNDING):
            yield f"{name}.normalized is not what its returns and reference scores give; restore the file."
    of_target = [entry for target, entry in scores.per_target.items() if float(target) == result.task.score_target]
    if not of_target or of_target[0].returns != scores.returns:
        yield f"scores.returns are not those at the score target {result.task.score_target:g}; restore the file."
    if evaluation.env_seeds != episode_seeds(result.seed, evaluation.episodes):
        yield "evaluation.env_seeds are not those that follow from the run's seed; run it again."


def _protocol(result: Result, task: Task) -> Iterator[str]:
    """Compare with the suite's file what must be equal down a column of a table."""
    recorded, source = result.task, result.task.source
    if source not in task.sources:
        yield f"the task has no data of the source {source!r}; run it on {' or '.join(task.sources)}."
        return
    expected: dict[str, tuple[Any, Any]] = {
        "score_target": (recorded.score_target, task.score_target),
        "return_scale": (recorded.return_scale, task.return_scale),
    }
    if source != "minari":  # whose datasets name their own environment and reference scores
        expected["env_id"] = (recorded.env_id, canonical_id(task.environment(source)))
        expected["reference"] = (recorded.reference, task.reference)
    for name, (found, wanted) in expected.items():
        if found != wanted:
            yield f"task.{name} is {found}, in {result.suite.id} it is {wanted}; run it again with the suite as it is."
    longest = max(result.measured.scores.lengths)
    if longest > task.max_episode_steps:
        yield f"an episode has {longest} steps, the task allows {task.max_episode_steps}; run it again."
    steps = result.model.config.get("data", {}).get("steps")
    if source == "local" and isinstance(steps, int):
        known = local.dataset_id(task.sources[source], steps)
        if recorded.dataset_id != known:
            yield f"its dataset is {recorded.dataset_id}, but {known} is what dtbench builds now; run it again."


def _configuration(result: Result, suite: Suite, task: Task) -> Iterator[str]:
    """Compare the configuration with its hash, with what it is merged from, and with what was recorded as changed."""
    model, training = result.model, result.measured.training
    if model.config_hash != _hash(model.config):
        yield "model.config_hash is not that of model.config; restore the file."
    settings = model.config.get("training", {})
    if training.steps != settings.get("steps"):
        yield f"it was trained for {training.steps} steps instead of {settings.get('steps')}; run it again."
    if result.preset not in preset_names():
        yield f"the preset {result.preset!r} is not one of {', '.join(preset_names())}; run it again with one of them."
        return
    if model.name not in models():
        return  # its code is elsewhere: `_seed_findings` says so
    try:
        own = _composed(model.name, result.preset, suite.name, task)
    except DtbenchError as error:
        yield f"its configuration cannot be composed: {error}"
        return
    cut, limit = result.measured.evaluation.max_episode_steps, own["evaluation"]["max_episode_steps"]
    if cut != (limit if 0 < limit < task.max_episode_steps else None):
        own_cut = f"the preset {result.preset} cuts them after {limit or task.max_episode_steps}"
        yield f"its episodes were cut after {cut or task.max_episode_steps} steps, {own_cut}; run it again."
    changed = without_precision(changes_between(own, model.config))
    recorded = without_precision(model.changes or [])
    for change in changed:
        if change.partition("=")[0] in _PROTOCOL:
            yield f"{change} changes the protocol of the preset {result.preset}; run it without."
    if sorted(changed) != sorted(recorded):
        what = ", ".join(sorted({*changed, *recorded} - ({*changed} & {*recorded})))
        yield f"its configuration and the preset {result.preset} differ in what is not recorded ({what}); run it again."


def _hash(config: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(hashed_part(config), sort_keys=True).encode()).hexdigest()[:12]


def _composed(model: str, preset: str, suite: str, task: Task) -> dict[str, Any]:
    """Return what a model's configuration is merged to; tasks of which it takes the same share it."""
    settings = models()[model].settings
    key = (model, preset, suite, task_layers(task, settings))
    if key not in _COMPOSED:
        composed = compose(settings, preset=load_preset(preset), suite=_suite(suite), task=task)
        _COMPOSED[key] = composed.to_dict()
    return _COMPOSED[key]


#: Configurations as plain values: merging one takes tenths of a second, and a submission has hundreds of records.
_COMPOSED: dict[tuple[str, str, str, str], dict[str, Any]] = {}
_suite = cache(load_suite)


def _data_findings(results: Sequence[Result], published: Path | None) -> list[Finding]:
    """Compare the fingerprints of equal datasets, here and with the published ones."""
    known: dict[tuple[str, str], set[str]] = {}
    for result in scan(published)[0] if published is not None else ():
        if result.task.fingerprint is not None:
            known.setdefault((result.task.source, result.task.dataset_id), set()).add(result.task.fingerprint)
    first: dict[tuple[str, str], Result] = {}
    findings = []
    for result in (result for result in results if result.status == DONE):
        dataset, file = (result.task.source, result.task.dataset_id), file_of(result).as_posix()
        before = first.setdefault(dataset, result)
        if before.task.fingerprint != result.task.fingerprint:
            findings.append(
                Finding(
                    file,
                    f"its data {dataset[1]} have another fingerprint than those of {file_of(before).as_posix()}; run "
                    "both on the same data.",
                )
            )
        elif before is result and published is not None:
            findings += _against_published(result, known.get(dataset), file)
    return findings


def _against_published(result: Result, known: set[str] | None, file: str) -> list[Finding]:
    """Say of a dataset's first record how its data relate to the published ones."""
    source, dataset = result.task.source, result.task.dataset_id
    if known is None:
        return [Finding(file, f"no published result has the data {dataset}; these are the first.", is_error=False)]
    if str(result.task.fingerprint) in known:
        return []
    if source == "local":
        message = (
            f"its data {dataset} were built with another fingerprint than the published ones (another processor or "
            "MuJoCo rounds differently), so that its results stand in a table of their own."
        )
        return [Finding(file, message, is_error=False)]
    return [Finding(file, f"its data {dataset} are not the published ones (fingerprint); fetch them anew.")]


def _seed_findings(results: Sequence[Result]) -> list[Finding]:
    """Say which models have too few seeds, holes, or code that is elsewhere."""
    rows: dict[str, list[Result]] = {}
    for result in (result for result in results if result.status == DONE):
        rows.setdefault(file_of(result).parents[1].as_posix(), []).append(result)
    findings = []
    for folder, row in sorted(rows.items()):
        seeds: dict[str, set[int]] = {}
        for result in row:
            seeds.setdefault(result.task.id, set()).add(result.seed)
        complete, all_seeds = set.intersection(*seeds.values()), set.union(*seeds.values())
        for task, found in sorted(seeds.items()):
            if len(found) < FEWEST_SEEDS:
                findings.append(Finding(f"{folder}/{task}", f"{_seeds(found)}; at least {FEWEST_SEEDS} are needed."))
        if len(complete) < FEWEST_SEEDS <= min(map(len, seeds.values())):
            missing = f"only {_seeds(complete)} on all of its {len(seeds)} tasks"
            findings.append(Finding(folder, f"it has {missing}; run the same {FEWEST_SEEDS} on each of them."))
        elif complete != all_seeds:
            extra = ", ".join(map(str, sorted(all_seeds - complete)))
            findings.append(Finding(folder, f"seed {extra} is not on all of its tasks and is not ranked.", False))
        findings += _claim(folder, row[0], set(seeds))
    return findings


def _seeds(found: set[int]) -> str:
    return f"{len(found)} {'seed' if len(found) == 1 else 'seeds'} ({', '.join(map(str, sorted(found))) or 'none'})"


def _claim(folder: str, one: Result, tasks: set[str]) -> list[Finding]:
    """Say which of the suite's tasks a model lacks, and whether its code is here."""
    findings = []
    if one.suite.name in suite_names():
        known = [task.id for task in _suite(one.suite.name).tasks]
        has = [task for task in known if task in tasks]
        if len(has) < len(known):
            message = (
                f"it has {len(has)} of the suite's {len(known)} tasks and is ranked only where a board names those: "
                f"{', '.join(has)}."
            )
            findings.append(Finding(folder, message, is_error=False))
    if one.model.name not in models():
        message = f"the code of {one.model.name} is not a part of dtbench; say in the pull request where it is."
        findings.append(Finding(folder, message, is_error=False))
    return findings


def _copies(results: Sequence[Result]) -> list[Finding]:
    """Find runs with the very same weights: two trainings never end with equal ones."""
    first: dict[str, Result] = {}
    findings = []
    for result in results:
        checksum = result.training.checkpoint_sha256 if result.training is not None else None
        before = first.setdefault(checksum, result) if checksum is not None else result
        if before is not result:
            findings.append(
                Finding(
                    file_of(result).as_posix(),
                    f"its weights are those of {file_of(before).as_posix()} (training.checkpoint_sha256); one is a "
                    "copy: run it again.",
                )
            )
    return findings
