"""YOLOv5's torch_utils with its hot paths in C. Importing this package does not import torch.

`patch()` is for YOLOv5 and ultralytics as they are, `info()` says what runs where; the names of
YOLOv5's file are here as well as in `yolov5_utils.torch_utils`.
"""

# Under `python -m` this file runs while the working directory leads sys.path, where a script that
# lies elsewhere would import nothing from. So it imports only what Python has imported by then: not
# typing, nor `__future__`, which is a file as well.
import importlib
import importlib.util

TYPE_CHECKING = False  # but type checkers take it for true, as they do typing's

if TYPE_CHECKING:  # at run time __getattr__ finds them
    from collections.abc import Iterable
    from typing import Any

    from .commands.explain import explain as explain
    from .commands.info import info as info
    from .distributed import ShardedEMA as ShardedEMA
    from .ops.fuse_model import fuse_model as fuse_model
    from .torch_utils import *  # noqa: F403

__version__ = "0.1.0"

# What the functions of patched clients call, by a number of each (overlay/patches.py).
_replacements: "dict[int, Any]" = {}


def patch(only: "Iterable[str] | None" = None) -> None:
    """Replace what the hot callables of YOLOv5 and ultralytics do, imported already or later.

    They stay the objects they are, wherever somebody holds one. `only` names those to replace, all
    others run as they are: hot paths ("ema", "fuse") or what the clients call them
    ("ModelEMA.update", "fuse_conv_and_bn"). The last call counts; the same again changes nothing.
    ValueError for another name, or for an unknown value of a YOLOV5_UTILS_* switch; under
    YOLOV5_UTILS_STRICT=1 ImportError for a client's file that is not known. Imports no torch by
    itself.

    >>> yolov5_utils.patch(only=["prune", "scale_img"])
    >>> yolov5_utils.is_patched("prune"), yolov5_utils.is_patched("ema")
    (True, False)
    """
    from .overlay import install
    from .switches import VERBOSE

    install(only)
    if VERBOSE.on():
        from .closing import watch

        watch({}, asked=True)


def unpatch(only: "Iterable[str] | None" = None) -> None:
    """Give the clients' callables their own code back, and watch imports no longer.

    With `only`, those of these names; the others stay replaced. `patch()` undoes that; another
    `import yolov5_utils.auto` does not, as it is imported already.

    >>> yolov5_utils.unpatch()
    >>> yolov5_utils.is_patched()
    False
    """
    from .overlay import uninstall

    uninstall(only)


def is_patched(name: "str | None" = None) -> bool:
    """Whether `patch()` is in force: some callable is replaced in a client that is imported, or
    where none is imported yet, will be. With a name, whether that one is. Imports no torch.

    >>> yolov5_utils.patch()
    >>> yolov5_utils.is_patched("ModelEMA.update")
    True
    """
    from .overlay import replaces

    return replaces(name)


def calls() -> "dict[str, dict[str, int]]":
    """The calls of this process so far, by hot path and by backend: "C", "CUDA" or "torch".

    Under the overlay the client's calls count. Imports torch.

    >>> before = yolov5_utils.calls()["sparsity"]["C"]
    >>> share = yolov5_utils.sparsity(nn.Linear(2, 2))
    >>> yolov5_utils.calls()["sparsity"]["C"] - before
    1
    """
    from .ops import OPERATIONS

    return {name: operation.counted() for name, operation in OPERATIONS.items()}


def __dir__() -> "list[str]":
    """The public names, without importing torch."""
    from .public import NAMES

    return sorted({*NAMES, "torch_utils", *(name for name in globals() if name[:2] == "__")})


def _found(name: str) -> "Any":
    """Submodules and public names, looked up when first used. Imports torch."""
    if name == "__all__":  # asked for by `import *` and help()
        return list(importlib.import_module(f"{__name__}.public").NAMES)
    if name in ("explain", "info"):
        return getattr(importlib.import_module(f"{__name__}.commands.{name}"), name)
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


if not TYPE_CHECKING:  # else type checkers would believe in any name
    __getattr__ = _found
