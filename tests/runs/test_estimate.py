"""The parts of an estimate, with every timed part done once and taking one second."""

from __future__ import annotations

import pytest

from dtbench.runs import estimate, timing
from dtbench.runs.plan import RunRequest, plan_runs


@pytest.mark.parametrize(("model", "evaluations"), [("dt", 2 + 1 + 1 + 5), ("bc", 2 + 1 + 1), ("edt", 2 + 1 + 1)])
def test_every_evaluation_counts(model, evaluations, monkeypatch, tmp_path):
    """Two during training, the score target and the task's other one, and five that `bc` does not condition on."""
    monkeypatch.setattr(timing, "_seconds", lambda call, times: (call(), 1.0)[1])
    overrides = ["training.steps=10", "evaluation.every=5", "evaluation.data_targets=5", "evaluation.episodes=3"]
    overrides.append("evaluation.all_targets=true")
    request = RunRequest(
        models=[model], tasks=["hopper-medium"], source="local", preset="smoke", overrides=overrides, output=tmp_path
    )
    (plan,) = plan_runs(request)
    (seconds,) = estimate.estimate_seconds([plan], tmp_path / "none", jobs=1)
    assert seconds == timing._START_S + 10 + evaluations * 1000 * (1 + 3)
