"""A run -> predictions.csv, scores with intervals, Grad-CAM pages, report, comparison, export."""

from busfast.imports import lazy_names

MODULES = {
    "run_learner": ".export",
    "export_run": ".export",
    "evaluate_run": ".evaluation",
    "explain_run": ".explain",
    "draw_maps": ".explain",
    "write_report": ".report",
    "compare_runs": ".compare",
    # What a notebook calls before it, so that one import serves it all.
    "load_table": "busfast.pipelines.splits",
    "train_run": "busfast.training.train",
    "find_run": "busfast.training.runs",
    "split_data": "busfast.pipelines.splits",
}
__all__ = list(MODULES)
__getattr__ = lazy_names(__name__, MODULES)
