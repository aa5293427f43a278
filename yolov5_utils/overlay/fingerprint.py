"""Is this file YOLOv5's or ultralytics' torch_utils, and which of its callables do we know exactly?

The file is told by its head, the names it defines and their parameters; each hot callable by its
parsed source: two functions are the same if their syntax trees are equal up to comments,
docstrings, layout and names of local variables. Must not import torch.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
from collections.abc import Mapping
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from .forms import HOT, Form, Left
from .ledger import original_of

# What every YOLOv5 from 5.0 on defines, and what some release of it did: anything else is a fork's.
_YOLOV5 = frozenset(
    [
        "ModelEMA",
        "fuse_conv_and_bn",
        "profile",
        "prune",
        "select_device",
        "sparsity",
        "torch_distributed_zero_first",
    ]
)
_YOLOV5_AT_TIMES = frozenset(
    [
        "EarlyStopping",
        "copy_attr",
        "date_modified",
        "de_parallel",
        "device_count",
        "find_modules",
        "git_describe",
        "init_torch_seeds",
        "initialize_weights",
        "intersect_dicts",
        "is_parallel",
        "load_classifier",
        "model_info",
        "reshape_classifier_output",
        "scale_img",
        "smartCrossEntropyLoss",
        "smart_DDP",
        "smart_amp_autocast",
        "smart_hub_load",
        "smart_inference_mode",
        "smart_optimizer",
        "smart_resume",
        "time_sync",
        "time_synchronized",
    ]
)
# What every ultralytics from 8.0 on defines; it grows from release to release.
_ULTRALYTICS = frozenset(
    [
        "ModelEMA",
        "copy_attr",
        "fuse_conv_and_bn",
        "get_flops",
        "get_num_gradients",
        "get_num_params",
        "init_seeds",
        "initialize_weights",
        "intersect_dicts",
        "is_parallel",
        "model_info",
        "one_cycle",
        "scale_img",
        "select_device",
        "smart_inference_mode",
        "strip_optimizer",
        "time_sync",
        "torch_distributed_zero_first",
    ]
)
_PARAMETERS = {
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

_Definitions = Mapping[str, "ast.FunctionDef | ast.ClassDef"]


class NotRecognised(Exception):
    """The module is neither YOLOv5's torch_utils nor ultralytics'; the text says why."""


class Fingerprint(NamedTuple):
    """What is known of a client's file: the forms of its hot callables, the reasons of the rest."""

    release: str  # with the client's name
    forms: dict[str, Form]
    left: dict[str, str]
    lines: dict[str, int]  # the first line of each callable in `forms`


def examine(source: str) -> Fingerprint:
    """The fingerprint of a client's file by its text. NotRecognised where it is something else."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise NotRecognised(f"it cannot be parsed: {error}") from error
    definitions = callables_of(tree)
    family = _family(definitions)
    _check_parameters(definitions)
    head = "\n".join(source.splitlines()[: _first_line_of_code(tree)])
    if "YOLOv5" not in head and "Ultralytics" not in head:
        raise NotRecognised("its first lines name neither YOLOv5 nor Ultralytics")
    if family == "YOLOv5":
        _check_names(head, source)
    forms: dict[str, Form] = {}
    left: dict[str, str] = {}
    lines: dict[str, int] = {}
    release = f"{family}, release unknown"
    for name, hot in HOT.items():
        definition = definitions.get(name)
        if not isinstance(definition, ast.FunctionDef):
            continue
        form = hot.forms.get(digest(definition))
        if form is None:
            left[name] = f"differs from every release of {family} that is known here"
        elif isinstance(form, Left):
            left[name] = form.reason
        else:
            forms[name] = form
            lines[name] = min([definition.lineno, *(d.lineno for d in definition.decorator_list)])
        if name == "ModelEMA.update":
            release = getattr(form, "release", release)
    return Fingerprint(release, forms, left, lines)


def identify(module: Any) -> Fingerprint:
    """The fingerprint of an executed client module. NotRecognised where it is something else."""
    if not isinstance(module, ModuleType):
        raise NotRecognised(f"{type(module).__name__} is not a module")
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError, SyntaxError) as error:
        raise NotRecognised(f"its source cannot be read ({error})") from error
    found = examine(source)
    for name in list(found.forms):
        reason = _not_as_written(module, name, found)
        if reason is not None:
            del found.forms[name]
            found.left[name] = reason
    for name in HOT:  # what the file has from elsewhere
        function = None if "." in name else vars(module).get(name)
        if name not in found.forms and name not in found.left and callable(function):
            found.left[name] = f"is {getattr(function, '__module__', 'another module')}'s"
    return found


def _not_as_written(module: ModuleType, name: str, found: Fingerprint) -> str | None:
    """Why the executed callable is not the one that the source shows, or None where it is."""
    function = original_of(attribute(module, name))
    guard = getattr(found.forms[name], "guard", None)
    if guard is not None:
        decorator = vars(module).get(guard)
        if not callable(decorator):
            return f"{guard} is missing"
        function = _guarded(function, decorator)
    if (
        isinstance(function, FunctionType)
        and function.__globals__ is vars(module)
        and function.__code__.co_firstlineno == found.lines[name]
    ):
        return None
    if hasattr(function, "__wrapped__"):  # by a profiler, say, that must not vanish
        return "something was wrapped around it, and stays"
    return "is not the function of this module's source"


def _guarded(function: Any, decorator: Any) -> Any:
    """What the client's own decorator was put around; `function` itself if it was another one."""
    code = getattr(decorator()(lambda: None), "__code__", None)
    if code is None or getattr(function, "__code__", None) is not code:
        return function
    return getattr(function, "__wrapped__", None)


def attribute(module: ModuleType, dotted: str) -> Any:
    """`module.a.b` as it stands in the module's and the class's own dict, or None."""
    value: Any = module
    for part in dotted.split("."):
        value = vars(value).get(part) if hasattr(value, "__dict__") else None
    return value


def callables_of(tree: ast.Module) -> _Definitions:
    """The functions and classes a file defines, and the methods of its ModelEMA, by name."""
    found: dict[str, ast.FunctionDef | ast.ClassDef] = {}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
    average = found.get("ModelEMA")
    if isinstance(average, ast.ClassDef):
        for node in average.body:
            if isinstance(node, ast.FunctionDef):
                found[f"ModelEMA.{node.name}"] = node
    return found


def _family(definitions: _Definitions) -> str:
    names = {name for name in definitions if "." not in name}
    if not isinstance(definitions.get("ModelEMA"), ast.ClassDef):
        raise NotRecognised("it defines no class ModelEMA")
    if names >= _ULTRALYTICS:
        return "ultralytics"
    missing, unknown = _YOLOV5 - names, names - _YOLOV5 - _YOLOV5_AT_TIMES
    if missing:
        raise NotRecognised(f"it defines no {', '.join(sorted(missing))}")
    if unknown:
        raise NotRecognised(f"it also defines {', '.join(sorted(unknown))}")
    return "YOLOv5"


def _check_names(head: str, source: str) -> None:
    """YOLOv3's file is YOLOv5's but for such names; from 2025 on only those below its head tell."""
    for text in (head, source):
        names = set(re.findall(r"\bYOLO\w+", text))
        if names - {"YOLOv5"}:
            raise NotRecognised(f"it names {', '.join(sorted(names - {'YOLOv5'}))}")
        if names:
            return


def _check_parameters(definitions: _Definitions) -> None:
    for name, expected in _PARAMETERS.items():
        definition = definitions.get(name)
        if isinstance(definition, ast.FunctionDef):
            actual = tuple(argument.arg for argument in _arguments(definition.args))
            if actual != expected:
                raise NotRecognised(f"{name}({', '.join(actual)}) has other parameters")
        elif name.startswith("ModelEMA."):
            raise NotRecognised(f"it defines no {name}")


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    """All parameters, in order."""
    found = [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs]
    return [argument for argument in (*found, arguments.kwarg) if argument is not None]


def _first_line_of_code(tree: ast.Module) -> int:
    """The number of the line where the first statement other than a docstring starts."""
    for number, node in enumerate(tree.body):
        if number or ast.get_docstring(tree) is None:
            return node.lineno
    return 0


def digest(definition: ast.FunctionDef) -> str:
    """Twelve hex digits of a function's syntax tree, decorators included, layout and names not."""
    locals_: dict[str, int] = {}
    for node in ast.walk(definition):
        if isinstance(node, ast.arg):
            locals_.setdefault(node.arg, len(locals_))
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            locals_.setdefault(node.id, len(locals_))
    documented = ast.get_docstring(definition, clean=False) is not None
    text = _text(definition, locals_, definition.body[0] if documented else None)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# Fields that say nothing of what a tree computes, or that only some versions of Python have.
_IGNORED_FIELDS = {"ctx", "kind", "type_comment", "type_params"}


def _text(node: Any, locals_: Mapping[str, int], left_out: ast.AST | None) -> str:
    """A tree as text that is the same under every version of Python; ast.dump's is not."""
    if isinstance(node, list):
        texts = (_text(item, locals_, left_out) for item in node if item is not left_out)
        return "[" + ",".join(texts) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = []
    for name, value in ast.iter_fields(node):
        if name in _IGNORED_FIELDS or value is None or value == []:
            continue
        if name in ("id", "arg") and value in locals_:
            value = f"local{locals_[value]}"
        fields.append(f"{name}={_text(value, locals_, left_out)}")
    return f"{type(node).__name__}({','.join(fields)})"
