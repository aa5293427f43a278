"""YOLOv5's torch_utils with its hot paths in C. Importing this package does not import torch."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Submodules that bring public names along; looked up on first use, so that importing stays cheap.
_LAZY_MODULES = ("torch_utils",)


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module_name in _LAZY_MODULES:
        module = importlib.import_module(f"{__name__}.{module_name}")
        if name == module_name:
            return module
        if name in module.__all__:
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
