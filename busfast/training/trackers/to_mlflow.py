"""MLflow: a database and a folder of files at results/mlflow/, which all runs share. fastai has no callback for it."""

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import alembic  # noqa: F401  (MLflow's slim edition comes without the two, and fails only where they are needed)
import sqlalchemy  # noqa: F401
from fastcore.basics import chunked
from filelock import FileLock

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before it is imported
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

from mlflow.entities import Metric, Param  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402

from busfast.training.runs import RESULTS  # noqa: E402
from busfast.training.trackers.base import Tracker, read_scores  # noqa: E402

PLACE = RESULTS / "mlflow"


class MLflow(Tracker):
    """The rows of the log and the scores as metrics, the configuration as parameters, all files as artifacts."""

    title = "mlflow"

    def open(self, facts: dict[str, Any]) -> None:
        """Begins a run, or goes on with it; elsewhere than in `PLACE` where MLFLOW_TRACKING_URI says so."""
        server = os.environ.get("MLFLOW_TRACKING_URI")
        PLACE.mkdir(exist_ok=True)
        with FileLock(PLACE / ".lock"):  # several folds may begin at once
            self.client = MlflowClient(server or f"sqlite:///{(PLACE / 'mlflow.db').as_posix()}")
            if "id" not in self.known:
                self.known["id"] = self._begin(None if server else (PLACE / "artifacts").absolute().as_uri(), facts)
        self.client.update_run(self.known["id"], status="RUNNING")

    def _begin(self, place: str | None, facts: dict[str, Any]) -> str:
        pipeline, _, name = self.folder.name.partition("/")
        pipeline = os.environ.get("MLFLOW_EXPERIMENT_NAME", pipeline)
        found = self.client.get_experiment_by_name(pipeline)
        experiment = found.experiment_id if found else self.client.create_experiment(pipeline, artifact_location=place)
        run = self.client.create_run(experiment, run_name=name).info.run_id
        for some in chunked(facts.items(), 100):  # as many as MLflow takes at once
            self.client.log_batch(run, params=[Param(_key(key), str(value)) for key, value in some])
        return run

    def before_fit(self):
        history = self.client.get_metric_history(self.known["id"], "train_loss")
        self.there = {metric.step for metric in history}  # of a process that was stopped after its checkpoint, too

    def after_epoch(self):
        for row in self.training_log.rows:
            if row["epoch"] not in self.there:
                self._log({name: float(value) for name, value in row.items() if name != "epoch"}, row["epoch"])
                self.there.add(row["epoch"])

    def add(self, files: Sequence[Path]) -> None:
        for path in files:
            self.client.log_artifact(self.known["id"], path)
            if path.name == "metrics.csv":
                self._log(read_scores(path))

    def _log(self, values: dict[str, float], step: int = 0) -> None:
        now = int(time.time() * 1000)
        metrics = [Metric(_key(name), value, now, step) for name, value in values.items()]
        self.client.log_batch(self.known["id"], metrics)

    def close(self, ended_well: bool) -> None:
        self.client.set_terminated(self.known["id"], "FINISHED" if ended_well else "FAILED")


def _key(name: str) -> str:
    """A class or center may be called as MLflow lets no metric be called."""
    return re.sub(r"[^\w.\- :/]", "_", name)
