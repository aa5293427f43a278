"""Is this executed module YOLOv5's torch_utils, and which of its functions do we know exactly?

Decided by the module's names and signatures, and function by function by its parsed source: two
functions are the same if their syntax trees are equal up to comments, docstrings, layout and names
of local variables. Digests of the trees are kept here, no source. A fork whose function is equal,
statement for statement, is served like YOLOv5; one that differs anywhere is left alone.
Must not import torch.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Mapping
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

MODULE_NAMES = ("utils.torch_utils", "yolov5.utils.torch_utils")


class UpdateForm(NamedTuple):
    """One known form of ModelEMA.update, by what a replacement must keep of it."""

    release: str
    unwrap: str  # the client's helper that tells or strips DP and DDP
    guard: str | None = None  # the client's decorator around it


class SparsityForm(NamedTuple):
    """One known form of sparsity: what its zeros are added up in."""

    exact: bool  # True: int64; False: the default floating dtype, rounding above 2**24 in float32


UPDATE_FORMS: Mapping[str, UpdateForm] = {
    "f939b2285dd7": UpdateForm("5.0 to 6.0", "is_parallel"),
    "4d6d47b14fe5": UpdateForm("between 6.0 and 6.1", "is_parallel"),
    "fdf47482408c": UpdateForm("6.1", "de_parallel"),
    "5766e28a241d": UpdateForm("6.2", "de_parallel", "smart_inference_mode"),
    "39c10a15b50b": UpdateForm("7.0 or later", "de_parallel"),
}
SPARSITY_FORMS: Mapping[str, SparsityForm] = {
    "5cdde3b1869b": SparsityForm(exact=False),
    "11433181328e": SparsityForm(exact=True),
}

# Parameters of functions that every release from 5.0 to 7.0 has.
_SIGNATURES = {
    "torch_distributed_zero_first": ("local_rank",),
    "initialize_weights": ("model",),
    "sparsity": ("model",),
    "prune": ("model", "amount"),
    "fuse_conv_and_bn": ("conv", "bn"),
    "scale_img": ("img", "ratio", "same_shape", "gs"),
    "copy_attr": ("a", "b", "include", "exclude"),
    "ModelEMA.update": ("self", "model"),
    "ModelEMA.update_attr": ("self", "model", "include", "exclude"),
}
_NAMES = ("select_device", "model_info", "is_parallel")


class NotRecognised(Exception):
    """The module is not YOLOv5's torch_utils; the text says what gave it away."""


class Fingerprint(NamedTuple):
    """What is known of a client module; None, and a reason in `left`, for an unknown function."""

    release: str
    update: UpdateForm | None
    sparsity: SparsityForm | None
    left: dict[str, str]


def identify(module: Any) -> Fingerprint:
    """The fingerprint of an executed client module. NotRecognised where it is something else."""
    if not isinstance(module, ModuleType):
        raise NotRecognised(f"{type(module).__name__} is not a module")
    _check_names(module)
    left: dict[str, str] = {}
    update = _known(module, "ModelEMA.update", UPDATE_FORMS, left)
    sparsity = _known(module, "sparsity", SPARSITY_FORMS, left)
    if update is not None and not callable(getattr(module, update.guard or "ModelEMA", None)):
        left["ModelEMA.update"] = f"{update.guard} is missing"
        update = None
    if update is None and sparsity is None:
        raise NotRecognised("; ".join(f"{name}: {why}" for name, why in left.items()))
    return Fingerprint(update.release if update else "unknown", update, sparsity, left)


def _check_names(module: ModuleType) -> None:
    for name in _NAMES:
        if not callable(getattr(module, name, None)):
            raise NotRecognised(f"no function {name}")
    if not isinstance(getattr(module, "ModelEMA", None), type):
        raise NotRecognised("no class ModelEMA")
    for name, expected in _SIGNATURES.items():
        function = _attribute(module, name)
        if not callable(function):
            raise NotRecognised(f"no function {name}")
        actual = tuple(inspect.signature(function).parameters)
        if actual != expected:
            raise NotRecognised(f"{name}({', '.join(actual)}) is not YOLOv5's signature")


def _attribute(module: ModuleType, dotted: str) -> Any:
    """`module.a.b`, or None."""
    value: Any = module
    for part in dotted.split("."):
        value = vars(value).get(part) if isinstance(value, type) else getattr(value, part, None)
    return value


def _known(module: ModuleType, name: str, forms: Mapping[str, Any], left: dict[str, str]) -> Any:
    """The form that `name` of the module has, or None with the reason in `left`."""
    function = inspect.unwrap(_attribute(module, name))
    if not isinstance(function, FunctionType) or function.__globals__ is not vars(module):
        left[name] = "is not a function of this module"
        return None
    try:
        form = forms.get(digest(function))
    except (OSError, TypeError, SyntaxError) as error:  # no source to look at
        left[name] = f"its source cannot be read ({error})"
        return None
    if form is None:
        left[name] = "differs from every release of YOLOv5 that is known here"
    return form


def digest(function: Callable[..., Any]) -> str:
    """Twelve hex digits of a function's syntax tree, decorators included, layout and names not."""
    source = textwrap.dedent(inspect.getsource(function))
    definition = ast.parse(source).body[0]
    if not isinstance(definition, ast.FunctionDef):
        raise TypeError("not a plain function")
    if ast.get_docstring(definition, clean=False) is not None:
        del definition.body[0]
    locals_: dict[str, int] = {}
    for node in ast.walk(definition):
        if isinstance(node, ast.arg):
            locals_.setdefault(node.arg, len(locals_))
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            locals_.setdefault(node.id, len(locals_))
    return hashlib.sha256(_text(definition, locals_).encode()).hexdigest()[:12]


# Fields that say nothing of what a tree computes, or that only some versions of Python have.
_IGNORED_FIELDS = {"ctx", "kind", "type_comment", "type_params"}


def _text(node: Any, locals_: Mapping[str, int]) -> str:
    """A tree as text that is the same under every version of Python; ast.dump's is not."""
    if isinstance(node, list):
        return "[" + ",".join(_text(item, locals_) for item in node) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = []
    for name, value in ast.iter_fields(node):
        if name in _IGNORED_FIELDS or value is None or value == []:
            continue
        if name in ("id", "arg") and value in locals_:
            value = f"local{locals_[value]}"
        fields.append(f"{name}={_text(value, locals_)}")
    return f"{type(node).__name__}({','.join(fields)})"
