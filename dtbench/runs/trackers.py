"""Where a training's curves go: TensorBoard and CSV files beside the run, and experiment trackers on request.

`hardware.loggers` (`--logger`) names them. The further ones need a package of their own. Without a network they write
to the run's folder or to their own: `WANDB_MODE=offline`, `MLFLOW_TRACKING_URI` (default: `mlruns` beside the run),
`TRACKIO_DIR`.
"""

from __future__ import annotations

import importlib.util
import os
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from dtbench.errors import ConfigError
from dtbench.runs.folder import RunFolder

PROJECT = "dtbench"
#: The trackers that need a package, and the module to look for. Each is an extra of dtbench's of the same name.
_MODULES = {"wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
#: How often TensorBoard's file is written.
_FLUSH_SECONDS = 5


def check_loggers(names: Sequence[str]) -> None:
    """See that the packages of the loggers are installed.

    Raises:
        ConfigError: one is not; the message has its pip line.
    """
    for name in names:
        if name in _MODULES and importlib.util.find_spec(_MODULES[name]) is None:
            raise ConfigError(f"--logger {name} needs a package that is not installed: pip install 'dtbench[{name}]'")


def loggers(folder: RunFolder, names: Sequence[str]) -> list[Logger]:
    """Make the loggers of one run that `hardware.loggers` names."""
    return [_MAKERS[name](folder.path) for name in names]


def tracker_ids(made: Sequence[Logger]) -> dict[str, str] | None:
    """Return the run's id in each tracker; None where there is none."""
    kinds = {WandbLogger: "wandb", MLFlowLogger: "mlflow", TrackioLogger: "trackio"}
    found = {kinds[type(logger)]: str(logger.version) for logger in made if type(logger) in kinds}
    return found or None


class TrackioLogger(Logger):
    """Logs to Trackio, for which Lightning has no logger."""

    def __init__(self, name: str, group: str) -> None:
        super().__init__()
        self._name, self._group = name, group
        self._run: Any = None

    @property
    def name(self) -> str:
        """The project."""
        return PROJECT

    @property
    def version(self) -> str:
        """The run's name, which is its id."""
        return self._name

    @property
    def experiment(self) -> Any:
        """The run, begun at first use; an interrupted one is continued."""
        if self._run is None:
            import trackio

            options = {"group": self._group, "resume": "allow", "embed": False}
            self._run = trackio.init(
                project=PROJECT, name=self._name, auto_log_gpu=False, auto_log_cpu=False, **options
            )
        return self._run

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the values of a step."""
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Log the configuration."""
        self.experiment.config.update(params if isinstance(params, dict) else vars(params))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the run."""
        if self._run is not None:
            self._run.finish()
            self._run = None


def _tensorboard(folder: Path) -> Logger:
    """Return TensorBoard's logger.

    Ctrl-C while a record is handed to its thread leaves that thread asleep until its next flush, and the end of the run
    waits for it: so it flushes every few seconds, not every two minutes.
    """
    return TensorBoardLogger(folder, name="", version="tensorboard", flush_secs=_FLUSH_SECONDS)


def _csv(folder: Path) -> Logger:
    """Return a logger of another CSV file for a resumed run: it would overwrite the first."""
    return CSVLogger(folder, name="csv", version=f"part-{len(list(folder.glob('csv/part-*')))}")


def _label(folder: Path) -> tuple[str, str]:
    """Return a run's name for people, and what it belongs to: `dt/hopper-medium/seed-0`, `d4rl-short@1/local/quick`."""
    parts = folder.resolve().parts
    return "/".join(parts[-3:]), "/".join(parts[-6:-3])


def _wandb(folder: Path) -> Logger:
    name, group = _label(folder)
    return WandbLogger(project=PROJECT, name=name, group=group, save_dir=folder)


def _mlflow(folder: Path) -> Logger:
    name, group = _label(folder)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"file:{folder.resolve() / 'mlruns'}"
    return MLFlowLogger(PROJECT, run_name=name, tracking_uri=uri, tags={"group": group})


def _trackio(folder: Path) -> Logger:
    return TrackioLogger(*_label(folder))


_MAKERS: dict[str, Callable[[Path], Logger]] = {
    "tensorboard": _tensorboard,
    "csv": _csv,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
}
