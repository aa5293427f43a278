"""explain: which backend runs a hot path, or one call of it, and why; the call is not made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, overload

import torch

from .. import _C, overlay
from ..helpers import counting
from ..helpers.inspection import load_thop
from ..operation import Operation
from ..ops import OPERATIONS
from ..ops.fuse_model import fusable
from ..overlay.known_callables import HOT, Form
from ..overlay.replaced import ENTRIES
from ..overlay.replacements import RECORDS, client_refusal
from . import notebook


class Explanation(NamedTuple):
    """Which way a hot path, or one call of it, runs in this process, and why."""

    name: str
    way: str  # "C", "CUDA", "torch", "error" for a call that raises; of model_info also "shapes"
    why: str

    def __repr__(self) -> str:
        return f"{self.name}: {self.way}: {self.why}"

    def _repr_html_(self) -> str:
        return notebook.table([self])


class Explanations(tuple[Explanation, ...]):
    """Those of all hot paths, a line each."""

    def __repr__(self) -> str:
        return "\n".join(map(repr, self))

    def _repr_html_(self) -> str:
        return notebook.table(self)


@overload
def explain(name: None = None) -> Explanations: ...
@overload
def explain(name: str, *args: Any) -> Explanation: ...
def explain(name: str | None = None, *args: Any) -> Explanation | Explanations:
    """Which way the hot path `name` runs, and why; all of them without a name.

    `name` is a hot path's or a client's: "ema" or "ModelEMA.update", "fuse" or "fuse_conv_and_bn";
    or "fuse_model", or "model_info", which is no hot path.
    With the arguments of a call (of the average: the ModelEMA and the model) the answer is for that
    call, which is not made: no tensor is changed and no call counted. Without them it is for a call
    as YOLOv5 makes it, on the CPU, which is tried. ValueError for another name.

    An answer has a `name`, a `way` ("C", "CUDA", "torch", "error" for a call that raises; of
    model_info "shapes" or "torch") and in words the reason, `why`.

    The way is that of the package's own function. What the overlay did of that name in the clients
    of this process, and where such a call would go another way there, is added to the reason.

    >>> yolov5_utils.explain("scale_img", torch.zeros(1, 3, 64, 64, dtype=torch.float64), 0.5)
    scale_img: torch: image: not float32
    """
    if name is None:
        return Explanations(_explained(operation, operation, ()) for operation in RECORDS)
    called = {alias: one.name for one in OPERATIONS.values() for alias in one.public_names}
    called |= {"fuse_model": "fuse", **{operation: operation for operation in RECORDS}}
    if name not in called:
        known = ", ".join(dict.fromkeys([*RECORDS, *called]))
        raise ValueError(f"name: got {name!r}, allowed are {known}")
    return _explained(name, called[name], args)


def _explained(name: str, operation: str, args: tuple[Any, ...]) -> Explanation:
    if name == "fuse_model" and args:
        own = _of_fuse_model(name, args[0])
    elif operation in OPERATIONS:
        own = of_the_package(name, OPERATIONS[operation], args)
    else:
        own = _of_model_info(name, *args[:1])
    asked = () if own.way in ("torch", "error") or name == "fuse_model" else args
    return own._replace(why="; ".join([own.why, *_in_clients(operation, asked)]))


def _of_fuse_model(name: str, model: Any) -> Explanation:
    """Of all its pairs; where not all run in C or on the GPU, of the first that does not."""
    try:
        pairs = fusable(model)
    except Exception as error:
        return Explanation(name, "error", f"{type(error).__name__}: {error}")
    rows = [of_the_package(name, OPERATIONS["fuse"], (conv, bn)) for _, conv, bn, _ in pairs]
    others = [row for row in rows if row.way in ("torch", "error")]
    if not rows:
        return Explanation(name, "C", "no pair of a convolution and a batch norm")
    row = (others or rows)[0]
    return row._replace(why=f"{len(others or rows)} of {len(rows)} pairs: {row.why}")


def _of_model_info(name: str, model: Any = None) -> Explanation:
    """What thop counts a model's operations in."""
    reason = counting.RECORD.refusal()
    if reason is None and model is not None:
        reason = counting.why_a_copy(model, load_thop())
    if reason is not None:
        return Explanation(name, "torch", f"thop counts in a copy of the model: {reason}")
    return Explanation(name, "shapes", "thop's rules, on the shapes of one forward pass")


def _in_clients(operation: str, args: tuple[Any, ...]) -> Iterator[str]:
    """What the overlay did of a hot path in each client of this process, and with such a call."""
    names = [name for name, hot in HOT.items() if hot.operation == operation]
    for record in overlay.status():
        if record.release is not None and "module" in record.left:
            yield f"{record.module} runs as it is: {record.left['module']}"
        for name in names:
            if name in record.left:
                yield f"{record.module} keeps its own {name}: {record.left[name]}"
            if name in record.replaced:
                reason = client_refusal(_form(record.module, name), *args) if args else None
                but = "" if reason is None else f", but this call is torch's: {reason}"
                yield f"{name} of {record.module} replaced{but}"


def _form(module: str, name: str) -> Form:
    """The form that a replaced callable had, last where the module was loaded again."""
    return [entry.form for entry in ENTRIES if (entry.module, entry.name) == (module, name)][-1]


def of_the_package(name: str, operation: Operation, args: tuple[Any, ...]) -> Explanation:
    """Which way the package's own function takes with these arguments, or with usual ones."""
    refusal = operation.refusal()
    if refusal is not None:
        return Explanation(name, "torch", refusal)
    try:
        with torch.random.fork_rng(devices=[]):
            reason, _ = operation.run(operation.check, *(args or operation.usual()))
    except Exception as error:
        # No more than the call's own name: of a wrong number of arguments Python says who minds it.
        said = str(error).replace(f"{operation.check.__name__}()", f"{name}()")
        return Explanation(name, "error", f"{type(error).__name__}: {said}")
    if reason is not None:
        return Explanation(name, "torch", reason)
    if not args:
        usual = f"dense CPU tensors, level {_C.info()['level']}; {_elsewhere()}"
        return Explanation(name, "C", operation.runs or usual)
    device = _gpu_of(args)
    if device is not None:
        return Explanation(name, "CUDA", f"the CUDA library on {device}")
    return Explanation(name, "C", f"level {_C.info()['level']}")


def _gpu_of(args: tuple[Any, ...]) -> torch.device | None:
    """The GPU of the first tensor, or of a module's first parameter, among the arguments."""
    for value in args:
        module = getattr(value, "ema", value)
        tensors = module.parameters() if isinstance(module, torch.nn.Module) else iter([module])
        tensor = next(tensors, None)
        if isinstance(tensor, torch.Tensor):
            return tensor.device if tensor.is_cuda else None
    return None


def _elsewhere() -> str:
    """In words, what runs the calls that are not for the CPU."""
    if _C.cuda_info()["problem"] is None:
        return "the CUDA library for those of one GPU; torch for all others"
    return "torch for all others"
