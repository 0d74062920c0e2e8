"""Suite files are checked completely when they are read: one sentence names the file, the task and the field."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dtbench.config import load_preset
from dtbench.errors import ConfigError, UnknownNameError
from dtbench.suites.scores import ReferenceScores
from dtbench.suites.suites import (
    Expectation,
    Suite,
    Task,
    check_is_own_name,
    load_suite,
    read_mapping,
    suite_from_dict,
    suite_names,
)

TASK = {
    "id": "hop",
    "env_id": "Hopper-v5",
    "sources": {"d4rl": "hopper-medium-v2", "minari": "mujoco/hopper/medium-v0", "local": "hopper-medium"},
    "environments": {"d4rl": "Hopper-v4"},
    "reference": {"table": "d4rl", "random": -20.0, "expert": 3234.3},
    "return_scale": 1000.0,
    "score_target": 3600.0,
    "targets": [1800.0],
    "env_kwargs": {"reset_noise_scale": 0.005},
}
SUITE = {
    "name": "mine",
    "version": 1,
    "description": "One task",
    "domain": "locomotion",
    "sources": ["d4rl", "minari", "local"],
    "tasks": [TASK, {**TASK, "id": "hop-2"}],
    "models": {"dt": {"model": {"width": 8}}},
    "expected": [{"task": "hop", "reason": "it is", "better": ["dt"], "worse": ["bc"]}],
}
MISSING = object()


def changed(place, value):
    """Return the suite with one value replaced, or taken away; `place` is a path of keys and indices."""
    content = json.loads(json.dumps(SUITE))  # a copy in which no two tasks share a part
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if value is MISSING:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return content


def label(field, value):
    """The same in every process: the repr of an object without one has its address."""
    return f"no {field}" if value is MISSING else f"{field}={value!r:.30}"


def in_task(field, value, expected):
    return pytest.param(("tasks", 1, *field.split(".")), value, f"task 'hop-2': {expected}", id=label(field, value))


def of_suite(field, value, expected):
    return pytest.param((field,), value, expected, id=label(field, value))


WRONG = [
    of_suite("name", "../../x", r"name must be made of letters, digits and `\._-`, not '\.\./\.\./x'"),
    *[of_suite("name", bad, "name must be made of letters, digits") for bad in ("", ".", "..", "a/b", "a b", "ä", 3)],
    of_suite("name", "x" * 101, "name must have at most 100 characters"),
    of_suite("name", MISSING, "name is missing"),
    *[of_suite("version", bad, "version must be a positive whole number") for bad in (0, -1, "1", 1.0, True, None)],
    of_suite("description", 3, "description must be a text, not 3"),
    of_suite("models", {"a\nb": None}, r"models\.'a\\nb' must be a mapping, not None"),
    of_suite("sources", "local", "sources must be a list, not 'local'"),
    of_suite("sources", ["local", "local"], "sources names 'local' twice"),
    of_suite("sources", [["local"]], r"sources\[0\] must be made of letters"),
    of_suite("sources", [], "sources must name at least one"),
    of_suite("tasks", None, "tasks must be a list, not None"),
    of_suite("tasks", [], "tasks must name at least one"),
    of_suite("tasks", {"a": TASK}, "tasks must be a list"),
    of_suite("tasks", ["hop"], "task number 1 must be a mapping, not 'hop'"),
    of_suite("tasks", [TASK, None], "task number 2 must be a mapping, not None"),
    of_suite("tasks", [TASK, TASK], "two tasks are called 'hop'"),
    of_suite("tasks", [{**TASK, "id": "../x"}], r"task '\.\./x': id must be made of letters"),
    of_suite("defaults", ["a"], r"defaults must be a mapping, not \['a'\]"),
    of_suite("models", {"dt": ["width"]}, r"models\.dt must be a mapping"),
    of_suite("config", {"training": {3: 4}}, "config.training has the key 3, which is not a text"),
    of_suite("config", {"training": {"steps": math.nan}}, r"config\.training\.steps must be finite, not nan"),
    of_suite("config", {"training": {"steps": b"1"}}, r"config\.training\.steps must be a plain value, not b'1'"),
    *[of_suite("domain", bad, "domain must be made of letters, digits") for bad in ("../dt", "a b", 3, True, None, [])],
    of_suite("domain", "x" * 101, "domain must have at most 100 characters"),
    of_suite("file", "x.yaml", "unknown field 'file'"),
    of_suite("expected", [["hop"]], r"expected\[0\] must be a mapping"),
    of_suite("expected", {"task": "hop"}, "expected must be a list"),
    of_suite("expected", [{"task": "nowhere", "reason": "x", "tracks_target": ["dt"]}], "Unknown task 'nowhere'"),
    of_suite("expected", [{"task": "hop", "reason": 3, "tracks_target": ["dt"]}], "reason must be a text, not 3"),
    of_suite("expected", [{"task": "hop", "reason": "x", "tracks_target": "dt"}], "tracks_target must be a list"),
    of_suite("expected", [{"task": "hop", "reason": "x", "better": ["dt"]}], "give better and worse, or tracks_target"),
    of_suite(
        "expected",
        [{"task": "hop", "reason": "x", "tracks_target": ["dt"], "correlation": 2}],
        r"correlation must lie in \[-1, 1\], not 2",
    ),
    in_task("env_id", "", "env_id must be a text"),
    in_task("env_id", 5, "env_id must be a text, not 5"),
    in_task("env_id", MISSING, "env_id is missing"),
    in_task("env_ids", "Hopper-v5", "unknown field 'env_ids'"),
    in_task("sources", ["local"], "sources must be a mapping"),
    in_task("sources", {}, "sources must name at least one"),
    in_task("sources.local", "a/../b", r"sources\.local must be made of letters, digits and `\._-`"),
    in_task("sources.local", "/etc", r"sources\.local must be made of"),
    in_task("sources.local", None, r"sources\.local must be made of"),
    in_task("sources.minary", "x", "sources names the source 'minary', the suite does not"),
    in_task("environments", "Hopper-v4", "environments must be a mapping"),
    in_task("environments.d4lr", "Hopper-v4", "environments names the source 'd4lr', the suite does not"),
    in_task("reference", None, "reference must be a mapping"),
    in_task("reference.expert", -20.0, r"reference: random and expert must differ, both are -20"),
    in_task("reference.expert", "high", r"reference: expert must be a finite number, not 'high'"),
    in_task("reference.expert", math.inf, r"reference: expert must be a finite number, not inf"),
    in_task("reference.table", 1, r"reference: table must be a text"),
    in_task("reference.random", MISSING, r"reference: random is missing"),
    in_task("env_kwargs", [1], "env_kwargs must be a mapping"),
    in_task("env_kwargs", {3: 4}, "env_kwargs has the key 3, which is not a text"),
    in_task("env_kwargs", {"noop_max": math.inf}, r"env_kwargs\.noop_max must be finite, not inf"),
    in_task("env_kwargs", {"map": b"1"}, r"env_kwargs\.map must be a plain value, not b'1'"),
    in_task("return_scale", 0, "return_scale must be a positive number, not 0"),
    in_task("return_scale", math.nan, "return_scale must be a positive number, not nan"),
    in_task("return_scale", True, "return_scale must be a positive number, not True"),
    in_task("score_target", "3600", "score_target must be a finite number, not '3600'"),
    in_task("score_target", 10**400, "score_target must be a finite number"),
    in_task("targets", 1800, "targets must be a list, not 1800"),
    in_task("targets", [1, "x"], r"targets\[1\] must be a finite number, not 'x'"),
    in_task("targets", [1, 1.0], "targets names 1.0 twice"),
    in_task("targets", [3600], "targets repeats the score_target 3600"),
    in_task("max_episode_steps", 0, "max_episode_steps must be a positive whole number, not 0"),
    in_task("max_episode_steps", 10.5, "max_episode_steps must be a positive whole number"),
    in_task("delayed_reward", "yes", "delayed_reward must be true or false, not 'yes'"),
    *[in_task("trajectory_ratio", bad, r"trajectory_ratio must lie in \(0, 1\]") for bad in (0, 1.5, -1, "a", None)],
    in_task("top_fraction", 0.0, r"top_fraction must lie in \(0, 1\], not 0"),
    in_task("config", "training", "config must be a mapping"),
    in_task("models", {"dt": None}, r"models\.dt must be a mapping"),
]


def test_the_suite_that_the_mistakes_are_put_into_is_right():
    assert suite_from_dict(SUITE, "x").task("hop").targets == (1800.0,)


@pytest.mark.parametrize(("place", "value", "expected"), WRONG)
def test_one_sentence_names_the_place(place, value, expected):
    with pytest.raises(ConfigError, match=expected) as caught:
        suite_from_dict(changed(place, value), "mine.yaml")
    message = str(caught.value)
    assert message.startswith("mine.yaml: ")
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- 1\n",
        "hello\n",
        "tasks:\n",
        "name: x\nversion: 1\ndescription: d\nsources: [local]\ntasks: [[1]]\n",
        "? [1]\n: 2\n",
        "1: 2\n",
        "a: !!set {x}\n",
        "name: ${nothing}\n",
        "name: ???\n",
        "name: [unclosed\n",
        "a: &x [*x]\n",
        "\x00",
    ],
)
def test_any_yaml_gives_a_sentence(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_suite(str(file))


def test_files_that_are_none_are_named(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    for name, expected in {
        "none": "There is no file",
        "folder": "Is a directory",
        "latin": "not readable YAML",
    }.items():
        with pytest.raises(ConfigError, match=expected):
            load_suite(str(tmp_path / f"{name}.yaml"))


@pytest.mark.parametrize(
    "name", ["../suites/sanity", "../presets/smoke", "/etc/passwd", "", ".", "a\0b", "sanity.yml/"]
)
def test_a_name_is_no_path(name):
    with pytest.raises(UnknownNameError, match="Unknown suite"):
        load_suite(name)
    with pytest.raises(UnknownNameError, match="Unknown preset"):
        load_preset(name)


def test_a_task_without_an_id_is_called_by_its_number():
    content = changed(("tasks", 1, "id"), MISSING)
    with pytest.raises(ConfigError, match=r"^x: task number 2: id is missing\.$"):
        suite_from_dict(content, "x")


@pytest.mark.parametrize("name", suite_names())
def test_shipped_suites_survive_json(name):
    suite = load_suite(name)
    assert Path(suite.file).name == f"{name}.yaml"
    assert suite_from_dict(json.loads(json.dumps(suite.to_dict(), allow_nan=False)), "x") == replace(suite, file="")
    assert suite_from_dict(suite.to_dict(), "x") == replace(suite, file="")


def values_in(content, place=()):
    """Return the places of all values within nested dicts and lists."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [(*place, key) for key, _ in inner] + [found for key, v in inner for found in values_in(v, (*place, key))]


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(place=st.sampled_from(values_in(SUITE)), value=ANY | st.just(MISSING))
def test_any_wrong_value_gives_a_sentence_or_a_suite(place, value):
    message = "x: "
    try:
        suite = suite_from_dict(changed(place, value), "x")
        assert suite_from_dict(json.loads(json.dumps(suite.to_dict(), allow_nan=False)), "x") == suite
    except ConfigError as error:
        message = str(error)
    assert message.startswith("x: ")
    assert "\n" not in message


def test_objects_built_in_python_are_checked_alike():
    reference = ReferenceScores("d4rl", 0, 1)
    task = Task("a", "Hopper-v5", {"local": "hopper-medium"}, reference, 1, 2, targets=[3, 4])
    assert (task.targets, type(task.return_scale), type(reference.random)) == ((3.0, 4.0), float, float)
    for field, value in (("id", "a/b"), ("max_episode_steps", -1), ("reference", {"random": 0}), ("targets", 3)):
        with pytest.raises(ConfigError, match=rf"^task '?a.*{field} must"):
            replace(task, **{field: value})
    with pytest.raises(ConfigError, match="random and expert must differ"):
        ReferenceScores("d4rl", 1, 1)
    suite = Suite("s", 1, "", ["local"], [task])
    assert suite == suite_from_dict(suite.to_dict(), "x")
    for field, value in (("version", 0), ("name", "../s"), ("tasks", ()), ("tasks", ["a"]), ("sources", ["d4rl"])):
        with pytest.raises(ConfigError, match=rf"^suite '(s|../s)': .*({field}|source)"):
            replace(suite, **{field: value})
    with pytest.raises(ConfigError, match="give better and worse"):
        Expectation("a", "because")


def test_yaml_of_a_suite_reads_as_its_dict(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(OmegaConf.to_yaml(OmegaConf.create(SUITE)), encoding="utf-8")
    assert replace(load_suite(str(file)), file="") == suite_from_dict(SUITE, "x")
    assert read_mapping(file)["name"] == "mine"


def test_a_shipped_suites_name_is_kept_for_its_own_tasks():
    """Results of equal name and version are put into one table."""
    shipped = load_suite("d4rl-short")
    task = replace(shipped.tasks[0], score_target=1.0)
    for changed in (
        replace(shipped, tasks=(task, *shipped.tasks[1:])),
        replace(shipped, tasks=(*shipped.tasks, replace(task, id="mine"))),
        replace(shipped, config={"training": {"steps": 7}}),
        replace(shipped, domain="atari"),
        replace(shipped, tasks=(replace(shipped.tasks[0], env_kwargs={"x": 1}), *shipped.tasks[1:])),
    ):
        with pytest.raises(ConfigError, match=r"d4rl-short@\d is the name of a shipped suite, .* rename yours\.$"):
            check_is_own_name(changed)
        check_is_own_name(replace(changed, name="mine"))
        check_is_own_name(replace(changed, version=99))
    check_is_own_name(replace(shipped, tasks=shipped.tasks[:1], description="only the first"))
