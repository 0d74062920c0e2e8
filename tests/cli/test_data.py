"""`dtbench data …`: what was done is message, and every mistake is one sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import minari
import pytest

from dtbench.data.sources import d4rl, local
from dtbench.data.sources import minari as minari_source
from tests.commands import command, dtbench, environment, main
from tests.data.sources.test_public import ID, a_minari_dataset, columns, write


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("DTBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def refused(capfd, *words) -> str:
    """Return the one sentence with which the program refuses a command."""
    capfd.readouterr()
    assert main("data", *words) == 2
    message = capfd.readouterr().err
    assert message.count("\n") == 1, message
    return message


# --- importing what exists already


def test_the_same_file_is_imported_once(tmp_path, capfd):
    file = write(tmp_path / "f.hdf5", columns())
    assert dtbench("data", "import", file, "--as", ID).startswith(f"{ID}: 3 episodes, 50 steps")
    before = d4rl.locate(ID).fingerprint
    copy = shutil.copy(file, tmp_path / "copy.hdf5")
    assert "already imported, the same content" in dtbench("data", "import", copy, "--as", ID)
    assert d4rl.locate(ID).fingerprint == before


@pytest.mark.parametrize("kind", ["another file", "no file of D4RL's"])
def test_another_file_is_not_taken_for_the_first(tmp_path, capfd, kind):
    dtbench("data", "import", write(tmp_path / "f.hdf5", columns()), "--as", ID)
    before = d4rl.locate(ID).fingerprint
    other = write(tmp_path / "g.hdf5", columns(seed=1))
    if kind != "another file":
        other.write_bytes(b"nonsense")
    message = refused(capfd, "import", other, "--as", ID)
    assert f"{ID} is imported already, from other content than {other}" in message
    assert "--force" in message
    assert d4rl.locate(ID).fingerprint == before
    if kind == "another file":
        dtbench("data", "import", other, "--as", ID, "--force")
        assert d4rl.locate(ID).fingerprint != before


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minari_folders_are_compared_alike(tmp_path, capfd):
    folder = a_minari_dataset()
    copy = shutil.copytree(folder, tmp_path / "copy")
    name = "own/plain-v0"
    assert dtbench("data", "import", folder, "--as", name).startswith(f"{name}: 3 episodes, 18 steps")
    for same in (folder, folder / "data", copy):
        assert "already imported, the same content" in dtbench("data", "import", same, "--as", name)
    metadata = copy / "data" / "metadata.json"
    metadata.write_text(metadata.read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert "is imported already, from other content" in refused(capfd, "import", copy, "--as", name)
    dtbench("data", "import", copy, "--as", name, "--force")
    assert "already imported" in dtbench("data", "import", copy, "--as", name)


def test_an_import_whose_content_is_not_on_record_is_not_compared(tmp_path, capfd):
    file = write(tmp_path / "f.hdf5", columns())
    dtbench("data", "import", file, "--as", ID)
    metadata = d4rl.store_path(ID) / "metadata.json"
    content = json.loads(metadata.read_text(encoding="utf-8"))
    del content["recipe"]["sha256"]
    metadata.write_text(json.dumps(content), encoding="utf-8")
    assert "is imported already" in refused(capfd, "import", file, "--as", ID)


def test_fetch_and_build_say_when_there_was_nothing_to_do(tmp_path):
    write(tmp_path / "d4rl" / "hopper_medium-v2.hdf5", columns())
    assert "already" not in dtbench("data", "fetch", ID)
    assert "already imported" in dtbench("data", "fetch", ID)
    assert "already" not in dtbench("data", "fetch", ID, "--force")
    words = ("data", "build", "sanity", "--task", "key-to-door", "--steps", "100")
    assert "already" not in dtbench(*words)
    assert "already built" in dtbench(*words)
    assert "already" not in dtbench(*words, "--force")


# --- mistakes

SMALL = ("--steps", "200")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("build d4rl-shrot", "did you mean 'd4rl-short'"),
        ("build none.yaml", "There is no file none.yaml"),
        ("build ../suites/sanity", "Unknown suite '../suites/sanity'"),
        ("build adroit", "no datasets that can be built locally"),
        ("build sanity --task nowhere", "Unknown task 'nowhere'"),
        ("build sanity --format hdf5", "--format must be store or minari"),
        ("fetch hoper-medium-v2", "did you mean 'hopper-medium-v2'"),
        ("fetch ../../x", "Unknown suite or dataset '../../x'"),
        ("fetch hopper-medium-v2", "cannot be reached"),
        ("fetch hopper-medium-v2 --task x", "--task chooses tasks of a suite"),
        ("fetch hopper-medium-v2 --source minari", "is a dataset of d4rl, not of minari"),
        ("fetch d4rl-short --source local", "Unknown source 'local'"),
        ("fetch sanity", "lists no public dataset"),
        ("import none.hdf5 --as hopper-medium-v2", "There is no none.hdf5"),
        ("import a-file --as hopper-medium-v2", "not a whole HDF5 file"),
        ("import a-file --as hoper-medium-v2", "did you mean 'hopper-medium-v2'"),
        ("import a-file --as own/plain-v0", "a-file is a file, and Minari's dataset own/plain-v0 is a folder"),
        ("import a-file/below --as hopper-medium-v2", "There is no a-file/below"),
        ("import a-folder --as hopper-medium-v2", "a-folder is a folder, and D4RL's dataset"),
        ("import a-folder --as own/plain-v0", "not a whole Minari dataset: it has no folder `data`"),
        ("import a-folder --as ../../../x", "the id of a Minari dataset must be made of letters"),
        ("import a-fifo --as hopper-medium-v2", "neither a file nor a folder"),
        ("import a.pkl --as hopper-medium-v2", "not a readable pickle"),
        ("import /dev/null --as hopper-medium-v2", "/dev/null is neither a file nor a folder"),
        ("info hopper-medum", "did you mean 'hopper-medium'"),
        ("info hopper-medium", "is not built; give another --steps"),
        ("info hopper-medium-v2", "is not imported"),
        ("info a-folder", "Unknown dataset 'a-folder'"),
        ("info ../x", "neither the folder of a store"),
        ("info a-broken-store", "metadata.json cannot be read"),
        ("verify a-broken-store", "metadata.json cannot be read"),
        ("export hopper-medium --format hdf5", "--format must be minari or d4rl"),
        ("export hopper-medium --format d4rl", "needs --out FILE"),
        ("export hopper-medium --format d4rl --out x --as y", "--as is for --format minari"),
        ("export hopper-medium --format minari --out x", "--out is for --format d4rl"),
        ("export a-store --format d4rl --out none/x.hdf5", "There is no folder none"),
        ("export a-store --format d4rl --out a-file/x.hdf5", "There is no folder a-file"),
        ("export a-store --format d4rl --out a-folder", "a-folder is a folder"),
        ("export a-store --format d4rl --out a-folder --force", "a-folder is a folder"),
        ("export a-store --format d4rl --out a-file", "a-file exists already; replace it with --force"),
        ("export a-store --format d4rl --out a-store/rewards.npy --force", "inside the store that is exported"),
        ("export a-store --format d4rl --out a-store/x.hdf5", "inside the store that is exported"),
        ("export a-store --format minari --as x", "'x' is not an id of Minari's form"),
        ("export a-store --format minari --as ../x-v0", "'../x-v0' is not an id of Minari's form"),
    ],
)
def test_every_mistake_is_one_sentence(tmp_path, monkeypatch, capfd, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").write_text("nonsense", encoding="utf-8")
    (tmp_path / "a.pkl").write_bytes(b"nonsense")
    (tmp_path / "a-folder").mkdir()
    os.mkfifo(tmp_path / "a-fifo")
    (tmp_path / "a-broken-store").mkdir()
    (tmp_path / "a-broken-store" / "metadata.json").write_text("{", encoding="utf-8")
    if "a-store" in words:
        shutil.copytree(local.build("hopper-medium", steps=200).path, tmp_path / "a-store")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a-store").glob("*")}
    assert message in refused(capfd, *words.split())
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a-store").glob("*")} == before


@pytest.mark.parametrize("words", ["build --workers 0", "build --steps 0", "build --steps many", "info x --steps -1"])
def test_options_out_of_range_name_the_option(capfd, words):
    assert main("data", *words.split()) == 2
    assert f"Invalid value for '{words.split()[-2]}'" in capfd.readouterr().err


def test_folders_that_cannot_be_written_are_named(tmp_path, monkeypatch, capfd):
    file = write(tmp_path / "f.hdf5", columns())
    (tmp_path / "home").write_text("a file", encoding="utf-8")
    assert "set DTBENCH_HOME to another folder" in refused(capfd, "import", file, "--as", ID)
    assert "set DTBENCH_HOME to another folder" in refused(capfd, "build", "sanity", *SMALL)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_exports_do_not_replace_what_they_come_from(tmp_path, capfd):
    folder = a_minari_dataset()
    dtbench("data", "import", folder, "--as", "own/plain-v0")
    words = ("export", "own/plain-v0", "--format", "minari", "--as", "own/plain-v0", "--force")
    assert "is what own/plain-v0 was imported from" in refused(capfd, *words)
    file = write(d4rl.raw_file(ID), columns())
    dtbench("data", "fetch", ID)
    words = ("export", ID, "--format", "d4rl", "--out", file, "--force")
    assert f"is what {ID} was imported from" in refused(capfd, *words)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_failed_replacement_keeps_the_minari_dataset(tmp_path, monkeypatch, capfd):
    store = local.build("hopper-medium", steps=200)
    name = dtbench("data", "export", store.path, "--format", "minari").split()[-1]

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minari.create_dataset_from_buffers", fail)
    assert "No space left" in refused(capfd, "export", store.path, "--format", "minari", "--force")
    assert minari.load_dataset(name).total_steps == 200
    folder = minari_source.minari_folder(name)
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]


@pytest.mark.parametrize("words", [("info", "a-store"), ("info", "a-store", "--json"), ("export", "--help")])
def test_a_closed_pipe_is_no_error(tmp_path, words):
    shutil.copytree(local.build("hopper-medium", steps=200).path, tmp_path / "a-store")
    with subprocess.Popen(
        command("data", *words), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait() == 0
