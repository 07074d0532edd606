"""What a run writes under results/: its record, log and curves, and the comparison of runs."""

from importlib import import_module

_WHERE = {"load_table": "train", "train_run": "train", "split_data": "splits", "find_run": "runs",
          "run_learner": "handover", "export_run": "handover", "evaluate_run": "summary", "explain_run": "explain",
          "draw_maps": "explain", "write_report": "report", "compare_runs": "compare"}
__all__ = list(_WHERE)


def __getattr__(name: str):
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
