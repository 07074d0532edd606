"""MLflow: a database and a folder of files at results/mlflow/, shared by all runs. fastai has no callback for it."""

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import alembic  # noqa: F401  (MLflow's slim edition lacks these two, and would fail only when it needs them)
import sqlalchemy  # noqa: F401
from fastcore.basics import chunked

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before mlflow is imported
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

from mlflow.entities import Metric, Param  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402

from busfast.files import file_lock  # noqa: E402
from busfast.training.runs import RESULTS  # noqa: E402
from busfast.training.trackers.base import Tracker, read_scores  # noqa: E402

FOLDER = RESULTS / "mlflow"
DATABASE = f"sqlite:///{(FOLDER / 'mlflow.db').as_posix()}"


class MLflow(Tracker):
    """The log's rows and the scores as metrics, the configuration as parameters, files as artifacts."""

    title = "mlflow"

    def open(self, config: dict[str, Any]) -> None:
        """Starts or continues a run in `FOLDER`, or on the server that MLFLOW_TRACKING_URI names."""
        self.server = os.environ.get("MLFLOW_TRACKING_URI")
        FOLDER.mkdir(exist_ok=True)
        with file_lock(FOLDER / ".lock", lambda: None, "creates this database"):  # several folds may start at once
            self.client = MlflowClient(self.server or DATABASE)
            if "id" not in self.state:
                artifacts = None if self.server else (FOLDER / "artifacts").absolute().as_uri()
                self.state["id"] = self._create_run(artifacts, config)
        self.client.update_run(self.state["id"], status="RUNNING")

    def _create_run(self, artifacts: str | None, config: dict[str, Any]) -> str:
        pipeline, _, name = self.tracked_run.name.partition("/")
        pipeline = os.environ.get("MLFLOW_EXPERIMENT_NAME", pipeline)
        existing = self.client.get_experiment_by_name(pipeline)
        experiment = existing.experiment_id if existing else self.client.create_experiment(pipeline, artifacts)
        run = self.client.create_run(experiment, run_name=name).info.run_id
        for items in chunked(config.items(), 100):  # MLflow's limit
            self.client.log_batch(run, params=[Param(_key(key), str(value)) for key, value in items])
        return run

    def before_fit(self):
        history = self.client.get_metric_history(self.state["id"], "train_loss")
        self.logged = {metric.step for metric in history}  # also of a process that ended after its last checkpoint

    def after_epoch(self):
        for row in self.training_log.rows:
            if row["epoch"] not in self.logged:
                self._log({name: float(value) for name, value in row.items() if name != "epoch"}, row["epoch"])
                self.logged.add(row["epoch"])

    def add_files(self, files: Sequence[Path]) -> None:
        for path in files:
            self.client.log_artifact(self.state["id"], path)
            if path.name == "metrics.csv":
                self._log(read_scores(path))

    def _log(self, values: dict[str, float], step: int = 0) -> None:
        now = int(time.time() * 1000)
        metrics = [Metric(_key(name), value, now, step) for name, value in values.items()]
        self.client.log_batch(self.state["id"], metrics)

    def look(self) -> str:
        return self.server or f"mlflow ui --backend-store-uri {DATABASE}"

    def close(self, succeeded: bool) -> None:
        self.client.set_terminated(self.state["id"], "FINISHED" if succeeded else "FAILED")


def _key(name: str) -> str:
    """A name in the characters that MLflow allows; names of classes and centers may have others."""
    return re.sub(r"[^\w.\- :/]", "_", name)
