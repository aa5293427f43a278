"""One file per hot path: try C, otherwise the reference. Each has its record, collected here."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ..operation import Operation
from ..switches import VERBOSE

_modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]

# Hot path -> its record, in the order of the names.
OPERATIONS: dict[str, Operation] = {
    module.OPERATION.name: module.OPERATION for module in _modules if hasattr(module, "OPERATION")
}
if VERBOSE.on():
    from ..closing import watch

    watch(OPERATIONS)
