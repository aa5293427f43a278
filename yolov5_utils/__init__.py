"""YOLOv5's torch_utils with its hot paths in C. Importing this package does not import torch."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # at run time __getattr__ finds them
    from .torch_utils import *  # noqa: F403

__version__ = "0.1.0"

# Public names that the original's torch_utils lacks, and their modules.
_ADDED = {"fuse_model": "ops.fuse_model"}


def __getattr__(name: str) -> Any:
    """Submodules, and the public names of torch_utils, looked up when first used."""
    if not name.startswith("_"):
        if importlib.util.find_spec(f"{__name__}.{name}") is not None:
            return importlib.import_module(f"{__name__}.{name}")
        if name in _ADDED:
            return getattr(importlib.import_module(f"{__name__}.{_ADDED[name]}"), name)
        torch_utils = importlib.import_module(f"{__name__}.torch_utils")
        if name in torch_utils.__all__:
            return getattr(torch_utils, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
