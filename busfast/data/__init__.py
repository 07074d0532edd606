"""Images and their table -> what may be trained on, and on which side of which split. Needs no torch."""

from busfast.imports import lazy_names

MODULES = {
    "CLASSES": ".labels",
    "SPLITS": ".split",
    "Split": ".split",
    "Table": ".table",
    "check_images": ".check",
    "count_parts": ".split",
    "list_images": ".sources.listing",
    "resize_image": ".images",
    "read_image": ".images",
    "read_split": ".split_file",
    "read_table": ".table",
    "split_folds": ".split",
    "split_table": ".split",
    "write_split": ".split_file",
}
__all__ = list(MODULES)
__getattr__ = lazy_names(__name__, MODULES)
