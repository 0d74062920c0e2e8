"""Leaderboards as CSV, JSON and LaTeX hold the numbers of the sections."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from dtbench.errors import UnknownNameError
from dtbench.results import exports
from dtbench.results.files import read_folder
from dtbench.results.sections import Selection, sections
from tests.results import samples

ONE = Selection(tasks=["hopper-medium"])


@pytest.fixture
def results(tmp_path):
    for seed in range(3):
        samples.save(tmp_path, samples.result("dt", seed=seed, score=0.3 + 0.01 * seed))
        samples.save(tmp_path, samples.result("lamo", seed=seed, score=0.5 + 0.02 * seed))
        samples.save(tmp_path, samples.changed("gate=false", model="gpt2_dtma", seed=seed, score=0.45 + 0.01 * seed))
    samples.save(tmp_path, samples.failed("cql", seed=1))
    return read_folder(tmp_path)[0]


def test_csv_has_a_line_per_number(results):
    rows = list(csv.DictReader(io.StringIO(exports.to_csv(results, ONE))))
    assert tuple(rows[0]) == exports.COLUMNS
    found = {(row["model"], row["name"]): row for row in rows}
    (section,) = sections(results, ONE)
    for label, estimates in section.estimates.items():
        for name, estimate in estimates.items():
            row = found[label, name]
            assert float(row["estimate"]) == estimate.value
            assert (float(row["low"]), float(row["high"])) == estimate.interval
    task = found["dt", "hopper-medium"]
    assert float(task["estimate"]) == pytest.approx(0.31)
    assert float(task["sd"]) == pytest.approx(np.std([0.3, 0.31, 0.32], ddof=1))
    assert (task["kind"], task["seeds"], task["low"]) == ("task", "3", "")
    assert found["lamo", "iqm"]["p_against_best"] == ""  # it is the best
    assert float(found["dt", "iqm"]["p_against_best"]) == pytest.approx(0.1)  # 2 of 20 orders


def test_json_has_protocol_rows_and_unfinished_runs(results):
    (content,) = json.loads(exports.to_json(results, ONE), parse_constant=pytest.fail)
    assert content["protocol"]["score_targets"] == {"hopper-medium": 3600.0}
    assert [row["label"] for row in content["rows"]] == ["lamo", "gpt2_dtma gate=false", "dt"]
    first = content["rows"][0]
    assert first["tasks"]["hopper-medium"]["scores"] == pytest.approx({"0": 0.5, "1": 0.52, "2": 0.54})
    assert content["unfinished"][0]["model"] == "cql"


def test_an_incomplete_model_has_no_aggregates(results):
    (content,) = json.loads(exports.to_json(results))
    assert all(not row["complete"] and row["aggregates"] == {} for row in content["rows"])
    rows = csv.DictReader(io.StringIO(exports.to_csv(results)))
    assert {row["kind"] for row in rows} == {"task"}


def test_latex_has_the_rows_of_the_pages(results):
    text = exports.to_latex(results, ONE)
    assert text.count(r"\begin{table}") == text.count(r"\toprule") == text.count(r"\end{tabular}") == 2
    assert r"\textbf{lamo}" in text
    assert r"gpt2\_dtma gate=false" in text
    assert r"52.0 $\pm$ 2.0" in text
    assert text.isascii()
    for table in text.split(r"\begin{tabular}")[1:]:
        columns = len(re.match(r"\{(\w+)\}", table)[1])
        lines = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert {line.count(" & ") + 1 for line in lines} == {columns}


@pytest.mark.parametrize("hostile", ["a_b & 50 % $x$ #1 {y} ~ ^ \\input{z}", "数 → ±"])
def test_latex_shows_names_as_they_are(hostile):
    shown = exports.latex(hostile)
    assert shown.isascii()
    assert not re.search(r"(?<!\\)[&%#_]", shown.replace(r"$\pm$", "").replace(r"$\to$", ""))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed here")
def test_latex_compiles(results, tmp_path):
    tables = exports.to_latex(results, ONE)
    document = rf"\documentclass{{article}}\usepackage{{booktabs,graphicx}}\begin{{document}}{tables}\end{{document}}"
    (tmp_path / "t.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "t.pdf").stat().st_size > 1000


def test_an_unknown_format_is_named(results):
    with pytest.raises(UnknownNameError, match="did you mean 'latex'"):
        exports.export(results, ONE, "latx")
