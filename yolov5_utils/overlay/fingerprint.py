"""Is this file YOLOv5's or ultralytics' torch_utils, and which of its callables do we know exactly?

The file is told by the names it defines, their parameters and the models it names; each hot
callable by its parsed source: two functions are the same if their syntax trees are equal up to
comments, docstrings, layout and names of local variables. What was executed is then compared with
what this source compiles to, and the global names it uses with torch's. Must not import torch.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import dis
import hashlib
import re
import warnings
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from .finder import names_of
from .known_callables import HOT, RELEASES, Form, Left, release_of
from .replaced import code_of

# What every YOLOv5 from 4.0 on defines, and what some release of it did: the rest is a fork's.
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

# Functions of the client itself and its log are looked up at each call, as the original does.
_LOOKED_UP = frozenset(
    ("LOGGER", "de_parallel", "is_parallel", "logger", "sparsity", "thop", "unwrap_model")
)

_Definitions = Mapping[str, "ast.FunctionDef | ast.ClassDef"]


class NotRecognised(Exception):
    """The module is no torch_utils of YOLOv5 or ultralytics that is known here, and why."""

    def __str__(self) -> str:
        known = f"YOLOv5 {RELEASES['YOLOv5'][0]} or later, or of ultralytics"
        return f"not known as a file of {known}: {super().__str__()}"


class Fingerprint(NamedTuple):
    """What is known of a client's file: the forms of its hot callables, the reasons of the rest."""

    release: str  # with the client's name
    forms: dict[str, Form]
    left: dict[str, str]
    codes: dict[str, CodeType]  # what the source of each callable in `forms` compiles to
    functions: dict[str, FunctionType]  # once identified: the client's own, without wrappers


def examine(source: str) -> Fingerprint:
    """The fingerprint of a client's file by its text. NotRecognised where it is something else."""
    try:
        with _no_warnings():
            tree = ast.parse(source, _UNNAMED)
            codes = _codes_of(compile(tree, _UNNAMED, "exec", dont_inherit=True))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotRecognised(f"it cannot be parsed: {error}") from error
    definitions = callables_of(tree)
    family = _family(definitions)
    _check_parameters(definitions)
    if family == "YOLOv5":
        _check_names("\n".join(source.splitlines()[: _first_line_of_code(tree)]), source)
    forms: dict[str, Form] = {}
    left: dict[str, str] = {}
    known: dict[str, CodeType] = {}
    digests = []
    for name, hot in HOT.items():
        definition = definitions.get(name)
        if not isinstance(definition, ast.FunctionDef) or (hot.of_yolov5 and family != "YOLOv5"):
            continue
        digests.append(digest(definition))
        form = hot.forms.get(digests[-1])
        if form is None:
            left[name] = f"differs from every release of {family} that is known here"
        elif isinstance(form, Left):
            left[name] = form.reason
        else:
            forms[name] = form
            line = min([definition.lineno, *(d.lineno for d in definition.decorator_list)])
            known[name] = codes[name, line]
    others = _of_a_fork(definitions) if family == "YOLOv5" else ""
    if others:
        left[others] = "in no YOLOv5 that is known here"
    return Fingerprint(release_of(family, digests), forms, left, known, {})


_UNNAMED = "<yolov5_utils: a client's file>"


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Let nothing that is said of a file of this name be shown, and leave no trace.

    warnings.catch_warnings would show anew what was already shown once.
    """
    nothing = ("ignore", None, Warning, re.compile(re.escape(_UNNAMED)), 0)
    filters: Any = warnings.filters
    filters.insert(0, nothing)
    try:
        yield
    finally:
        filters.remove(nothing)


def _codes_of(code: CodeType, within: str = "") -> dict[tuple[str, int], CodeType]:
    """The functions of a module and the methods of its classes, by dotted name and first line."""
    found = {}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            name = within + inner.co_name
            found[name, inner.co_firstlineno] = inner
            if not within:
                found.update(_codes_of(inner, f"{name}."))
    return found


def identify(module: Any) -> Fingerprint:
    """The fingerprint of an executed client module. NotRecognised where it is something else."""
    if not isinstance(module, ModuleType):
        raise NotRecognised(f"{type(module).__name__} is not a module")
    found = examine(_source_of(module))
    for name in list(found.forms):
        function = _without_wrappers(attribute(module, name), module)
        reason = _not_as_written(function, found.codes[name], names_of(module))
        if reason is not None:
            del found.forms[name]
            found.left[name] = reason
        else:
            found.functions[name] = function
    for name, hot in HOT.items():  # what the file has from elsewhere
        function = None if "." in name else vars(module).get(name)
        place = getattr(function, "__module__", "another module")
        if hot.of_yolov5 and place == names_of(module)["__name__"]:
            continue
        if name not in found.forms and name not in found.left and callable(function):
            found.left[name] = f"is {place}'s"
    return found


def _source_of(module: ModuleType) -> str:
    """The text that the module's loader has now, read as Python reads it."""
    spec = names_of(module).get("__spec__")
    get_source = getattr(getattr(spec, "loader", None), "get_source", None)
    try:
        source = get_source(getattr(spec, "name", "")) if get_source else None
    except (ImportError, OSError, SyntaxError, UnicodeError) as error:
        raise NotRecognised(f"its source cannot be read ({error})") from error
    if not isinstance(source, str):
        raise NotRecognised("its source cannot be read")
    return source


def _without_wrappers(function: Any, module: ModuleType) -> Any:
    """The module's own function inside of all that was put around it, which stays."""
    for _ in range(100):
        own = isinstance(function, FunctionType) and function.__globals__ is names_of(module)
        wrapped = None if own else getattr(function, "__wrapped__", None)
        if wrapped is None:
            break
        function = wrapped
    return function


def _not_as_written(function: Any, written: CodeType, names: Mapping[str, Any]) -> str | None:
    """Why the executed function is not the one that the source shows, or None where it is."""
    if not isinstance(function, FunctionType) or function.__globals__ is not names:
        return "is not the function of this module's source"
    code = code_of(function)
    if code != written:
        return "what was executed is not what the file says now"
    if getattr(function, "__builtins__", None) is not vars(builtins):
        return "its built-in functions are not Python's"
    from ..originals import MODULES  # torch is loaded: the client's file needs it

    for name in global_names(code) - _LOOKED_UP:
        if name in MODULES:
            if names.get(name) is not MODULES[name]:
                return f"{name} is not {MODULES[name].__name__}"
        elif name in names or not hasattr(builtins, name):
            return f"{name} is this file's own"
    return None


def global_names(code: CodeType) -> set[str]:
    """The global names that a function uses, also inside of functions that it defines."""
    names = {
        i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            names |= global_names(inner)
    return names


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
    missing = {"ultralytics": _ULTRALYTICS - names, "YOLOv5": _YOLOV5 - names}
    nearest = min(missing, key=lambda family: len(missing[family]))
    if missing[nearest]:
        absent = ", ".join(sorted(missing[nearest]))
        raise NotRecognised(f"it defines no {absent}, as every {nearest} known here does")
    return nearest


def _of_a_fork(definitions: _Definitions) -> str:
    """The names that no YOLOv5 has: "shrink(), train_all()"."""
    names = {name for name in definitions if "." not in name} - _YOLOV5 - _YOLOV5_AT_TIMES
    return ", ".join(f"{name}()" for name in sorted(names))


def _check_names(head: str, source: str) -> None:
    """YOLOv3's file is YOLOv5's but for such names; where the head has none, the rest tells.

    4.0 has none at all.
    """
    for text in (head, source):
        names = set(re.findall(r"\bYOLO\w+", text))
        others = sorted(name for name in names if not re.match(r"YOLOv5(?!\d)", name))
        if others:
            raise NotRecognised(f"it names {', '.join(others)}")
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
