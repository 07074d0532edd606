"""Images and a pipeline file -> fastai DataLoaders: cache, DALI and torchvision, augmentation."""

from busfast.imports import lazy_names

MODULES = {
    "Config": ".config",
    "load_config": ".pipeline_file",
    "ImagePipeline": ".image",
    "make_dls": ".dataloaders",
    "TableDataLoaders": ".dataloaders",
    "list_images": "busfast.data.sources.listing",
    "load_table": ".splits",
    "split_data": ".splits",
}
__all__ = list(MODULES)
__getattr__ = lazy_names(__name__, MODULES)
