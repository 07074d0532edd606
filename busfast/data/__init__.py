"""Images and their table -> what may be trained on, and on which side of which split. Needs no torch."""

from busfast.data.check import check_images
from busfast.data.images import read_image, resize_image
from busfast.data.split import SPLITS, count_parts, split_folds, split_table
from busfast.data.split_file import read_split, write_split
from busfast.data.table import CLASSES, read_table

__all__ = ["CLASSES", "SPLITS", "check_images", "count_parts", "resize_image", "read_image", "read_split", "read_table",
           "split_folds", "split_table", "write_split"]
