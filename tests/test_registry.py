"""Models from outside: by the path of a file, by module, by entry point; what is wrong with one is one sentence."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dtbench import registry
from dtbench.data import windows
from dtbench.errors import ConfigError, UnknownNameError
from dtbench.models import gpt2_dt
from dtbench.models.parts import activations, options, tokens
from dtbench.registry import MODELS, model_entry, models
from tests.commands import RUN, dtbench, main, only_result

GOOD = """
from __future__ import annotations
from dataclasses import dataclass
from dtbench.models.bc import BehaviourCloning

@dataclass
class Options(BehaviourCloning.Config):
    extra: int = 3

class Mine(BehaviourCloning):
    Config = Options

class NoModel:
    pass
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    """The import path and the imported modules are as before afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    for name in [name for name in sys.modules if name.startswith("my_")]:  # another test's model of the same name
        monkeypatch.delitem(sys.modules, name)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("my_", registry.FILE_MODULES)):
            del sys.modules[name]


def put(path, code=GOOD):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code, encoding="utf-8")
    return path


def sentence(name):
    """Return the one sentence with which a model is refused, at the latest when it is loaded."""
    with pytest.raises((ConfigError, UnknownNameError)) as caught:
        model_entry(name).load()
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize("form", ["my_model.py", "./my_model.py", "../{folder}/my_model.py", "{absolute}"])
def test_a_model_by_its_file(tmp_path, form):
    file = put(tmp_path / "my_model.py")
    entry = model_entry(f"{form.format(folder=tmp_path.name, absolute=file)}:Mine")
    assert (entry.name, entry.target) == ("my_model:Mine", f"{file}:Mine")
    assert entry.load().__name__ == "Mine"
    assert entry.load() is model_entry(entry.target).load()
    assert entry.defaults is None
    file.with_suffix(".yaml").write_text("model: {extra: 5}\n", encoding="utf-8")
    assert entry.defaults == file.with_suffix(".yaml")
    assert entry.settings.name == "my_model:Mine"


def test_two_files_of_one_name_are_two_models(tmp_path):
    one, other = (model_entry(f"{put(tmp_path / folder / 'my_model.py')}:Mine").load() for folder in "ab")
    assert one is not other


def test_a_file_may_be_called_as_a_library_and_import_its_neighbour(tmp_path):
    """In a fresh process, which imports torch only afterwards."""
    put(tmp_path / "a" / "torch.py", GOOD + "import my_neighbour\n")
    put(tmp_path / "a" / "my_neighbour.py", "")
    code = "from dtbench.registry import model_entry; print(model_entry('a/torch.py:Mine').load().__mro__[2].__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert (done.stdout, done.stderr) == ("OfflineModule\n", "")


def test_a_model_by_its_module(tmp_path):
    put(tmp_path / "my_package" / "inside.py")
    assert model_entry("my_package.inside:Mine").load().__name__ == "Mine"
    put(tmp_path / "my_package" / "inside.yaml", "model: {extra: 5}\n")
    assert model_entry("my_package.inside:Mine").defaults == tmp_path / "my_package" / "inside.yaml"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("my_model.py", "needs the name of its class: my_model.py:Class"),
        ("my_model.py:", "needs the name of its class: my_model.py:Class"),
        ("./my_model:Mine", "./my_model is not a .py file"),
        ("notes.txt:Mine", "cannot be imported: No module named 'notes'"),
        ("./notes.txt:Mine", "./notes.txt is not a .py file"),
        ("none.py:Mine", "There is no file none.py"),
        ("folder.py:Mine", "folder.py is a folder"),
        ("a-b.py:Mine", "'a-b' is no name of a Python module"),
        (":Mine", "is not of the form package.module:Class or FILE.py:Class"),
        (":", "is not of the form"),
        ("my_model:", "is not of the form"),
        ("my_model:Mine:Mine", "is not of the form"),
        ("my_model:Mi ne", "is not of the form"),
        ("my..model:Mine", "is not of the form"),
        ("../my_model:Mine", "../my_model is not a .py file"),
        ("nowhere:Mine", "cannot be imported: No module named 'nowhere'"),
        ("my_model:Mone", "Unknown class 'Mone': did you mean 'Mine'?"),
        ("my_model.py:Mone", "Unknown class 'Mone': did you mean 'Mine'?"),
        ("my_model:NoModel", "must be a subclass of dtbench.models.base.OfflineModule"),
        ("my_model:__name__", "must be a subclass of dtbench.models.base.OfflineModule"),
        ("gpt2_dmta", "did you mean 'gpt2_dtma'"),
        ("", "Unknown model ''"),
    ],
)
def test_names_that_are_none_are_refused(tmp_path, name, expected):
    put(tmp_path / "my_model.py")
    put(tmp_path / "a-b.py")
    put(tmp_path / "notes.txt")
    (tmp_path / "folder.py").mkdir()
    assert expected in sentence(name)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = 1\nclass Mine(\n", "my_model.py, line 2: SyntaxError"),
        (
            "x = 1\n\nimport no_such_package\n",
            "my_model.py, line 3: ModuleNotFoundError: No module named 'no_such_package'",
        ),
        ("def f():\n    raise ValueError('two\\nlines')\nf()\n", "my_model.py, line 2: ValueError: two lines"),
        ("import sys\nsys.exit(3)\n", "my_model.py, line 2: SystemExit: 3"),
        ("1 / 0", "my_model.py, line 1: ZeroDivisionError: division by zero"),
        ("raise Exception", "my_model.py, line 1: Exception"),
        ("import my_helper\n", "my_helper.py, line 1: ZeroDivisionError"),
        ("\x00", "null bytes"),
        ("x = 'é'".encode("latin-1"), "SyntaxError"),
    ],
)
@pytest.mark.parametrize("name", ["my_model:Mine", "my_model.py:Mine"])
def test_an_error_in_the_model_is_told_with_its_line(tmp_path, name, code, expected):
    put(tmp_path / "my_helper.py", "1 / 0\n")
    (tmp_path / "my_model.py").write_bytes(code if isinstance(code, bytes) else code.encode())
    message = sentence(name)
    assert "cannot be imported: " in message
    assert expected in message
    put(tmp_path / "my_model.py", GOOD + "# another size\n")
    assert model_entry(name).load().__name__ == "Mine"  # nothing half-imported is left


def test_the_program_says_it_and_ends_with_2(tmp_path, capfd):
    put(tmp_path / "my_model.py", "1 / 0\n")
    for words in (("show", "model", "./my_model.py:Mine"), (*RUN, "--model", "my_model.py:Mine", "--dry-run")):
        assert main(*words) == 2
        assert "line 1: ZeroDivisionError: division by zero." in capfd.readouterr().err.splitlines()[-1]


def install(site, entries):
    """Lay out what pip would for a package that announces models."""
    info = site / "someones_models-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: someones-models\nVersion: 1.0\n", encoding="utf-8")
    lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
    (info / "entry_points.txt").write_text(f"[dtbench.models]\n{lines}", encoding="utf-8")


def test_entry_points_that_do_not_load_are_listed_and_refused_when_asked_for(tmp_path, monkeypatch):
    put(tmp_path / "site" / "my_broken.py", "1 / 0\n")
    put(tmp_path / "site" / "my_good.py")
    entries = {"theirs": "my_good:Mine", "broken": "my_broken:Mine", "gone": "my_gone:Mine", "odd": "???"}
    entries |= {"extra": "my_good:Mine [gpu]", "dt": "my_broken:Mine", "../up": "my_good:Mine"}
    install(tmp_path / "site", entries)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    listed = dtbench("list", "models")
    for name in entries:
        assert name in listed
    assert models()["dt"] == MODELS["dt"]
    assert model_entry("theirs").load().__name__ == "Mine"
    assert model_entry("extra").load().__name__ == "Mine"
    assert "my_broken.py, line 1: ZeroDivisionError" in sentence("broken")
    assert "No module named 'my_gone'" in sentence("gone")
    assert "is not of the form" in sentence("odd")
    assert "must be made of letters, digits" in sentence("../up")


@pytest.mark.slow
def test_a_model_of_a_file_runs_in_worker_processes_too(tmp_path):
    """The name in the result is free of paths; the worker finds the file."""
    put(tmp_path / "elsewhere" / "my_model.py")
    put(tmp_path / "elsewhere" / "my_model.yaml", "training: {batch_size: 8}\n")
    words = [*RUN, "--model", "elsewhere/my_model.py:Mine", "--jobs", "2", "--seeds", "0,1", "-o", "results"]
    words += ["--set", "training.steps=3", "--set", "evaluation.episodes=1", "--set", "data.steps=300"]
    done = subprocess.run(
        [sys.executable, "-m", "dtbench", *words], capture_output=True, text=True, encoding="utf-8", timeout=300
    )
    assert done.returncode == 0, done.stderr
    result = only_result_of_seed(tmp_path / "results", 0)
    assert result.model.name == "my_model:Mine"
    assert str(tmp_path) not in result.model.name
    weights = next((tmp_path / "results").rglob("seed-0"))
    again = dtbench("evaluate", weights, "--episodes", 1)  # whose folder says where the file of the model is
    assert "normalised" in again


def only_result_of_seed(folder, seed):
    for path in folder.rglob("seed-*.json"):
        if path.stem != f"seed-{seed}":
            path.unlink()
    return only_result(folder)


@pytest.mark.parametrize("name", list(MODELS))
def test_options_are_found_without_importing_the_model(name):
    assert model_entry(name).options is model_entry(name).load().Config


PLAN = """
import sys

import dtbench.runs.execute
from dtbench.registry import MODELS
from dtbench.runs.plan import RunRequest, plan_runs

[entry.settings for entry in MODELS.values()]
print("torch" in sys.modules)
plan_runs(RunRequest(models=list(MODELS), preset="quick", source="local"))
print("lightning" in sys.modules)
"""


def test_planning_imports_no_lightning():
    """Torch is asked which precision is fast, so that it may be imported then."""
    done = subprocess.run([sys.executable, "-c", PLAN], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_names_of_options_are_those_of_the_parts():
    """The options name what the parts build, in a module that does not import them."""
    assert set(options.ACTIVATIONS) == set(activations.ACTIVATIONS)
    assert set(options.MAPS) == set(tokens.EMBEDDINGS)
    assert set(options.ALIGNMENTS) == set(gpt2_dt.ALIGNMENTS)
    assert options.TOP_BY == windows.TOP_BY
