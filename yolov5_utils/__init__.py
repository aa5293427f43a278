"""YOLOv5's torch_utils with its hot paths in C. Importing this package does not import torch.

Under `python -m` this file runs while the working directory leads sys.path, where a script that
lies elsewhere would import nothing from. So it imports only what Python has imported by then: not
typing, nor `__future__`, which is a file as well.
"""

import importlib
import importlib.util

TYPE_CHECKING = False  # but type checkers take it for true, as they do typing's

if TYPE_CHECKING:  # at run time __getattr__ finds them
    from typing import Any

    from .distributed import ShardedEMA as ShardedEMA
    from .torch_utils import *  # noqa: F403

__version__ = "0.1.0"

# What the functions of patched clients call, by a number of each (overlay/patches.py).
_replacements: "dict[int, Any]" = {}


def patch() -> None:
    """Replace what the hot callables of YOLOv5 and ultralytics do, imported already or later.

    They stay the objects they are, wherever somebody holds one. A second call changes nothing.
    ValueError for an unknown value of a YOLOV5_UTILS_* switch. Imports no torch by itself.
    """
    from .overlay import install

    install()


def unpatch() -> None:
    """Give the clients' callables their own code back, and watch imports no longer.

    `patch()` undoes that; another `import yolov5_utils.auto` does not, as it is imported already.
    """
    from .overlay import uninstall

    uninstall()


def calls() -> "dict[str, dict[str, int]]":
    """The calls of this process so far, by hot path and by backend: "C", "CUDA" or "torch".

    >>> yolov5_utils.calls()["ema"]
    {'C': 3, 'CUDA': 0, 'torch': 0}

    Under the overlay the client's calls count. Imports torch.
    """
    from .ops import OPERATIONS

    return {name: operation.counted() for name, operation in OPERATIONS.items()}


def explain(name: "str | None" = None, *args: "Any") -> "Any":
    """Which way a hot path runs here, and why: see `commands.explain`. Imports torch."""
    from .commands.explain import explain

    return explain(name, *args)


def info() -> "dict[str, Any]":
    """What `python -m yolov5_utils info --json` prints, as a dict. Imports torch."""
    from .commands.info import facts

    return facts()


def __getattr__(name: str) -> "Any":
    """Submodules, and the public names of torch_utils, looked up when first used."""
    if not name.startswith("_") and name != "auto":  # which patches: only by its import
        if importlib.util.find_spec(f"{__name__}.{name}") is not None:
            return importlib.import_module(f"{__name__}.{name}")
        torch_utils = importlib.import_module(f"{__name__}.torch_utils")
        if name in torch_utils.__all__:
            return getattr(torch_utils, name)
        distributed = importlib.import_module(f"{__name__}.distributed")
        if name in distributed.__all__:
            return getattr(distributed, name)
        if importlib.util.find_spec(f"{__name__}.ops.{name}") is not None:  # a name of our own
            module = importlib.import_module(f"{__name__}.ops.{name}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
