"""A pipeline file and a split -> DALI or torchvision pipelines -> fastai DataLoaders."""

from importlib import import_module

_WHERE = {"Config": "config", "load_config": "config", "ImagePipeline": "image", "make_dls": "dataloaders",
          "TableDataLoaders": "dataloaders", "list_images": "dataloaders"}
__all__ = list(_WHERE)


def __getattr__(name: str):
    # fastai takes seconds to import: only when asked for something that needs it.
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
