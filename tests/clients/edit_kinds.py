"""Random edits of a client's torch_utils.py, most of them where its hot functions are.

Knows nothing of torch, of the client's text and of the overlay: an edit is drawn from the text that
is there, or adds lines of its own.
"""

from __future__ import annotations

import ast
import io
import random
import re
import tokenize
from collections.abc import Callable
from typing import NamedTuple

HOT = (
    "ModelEMA.update",
    "fuse_conv_and_bn",
    "prune",
    "scale_img",
    "sparsity",
    "time_sync",
    "time_synchronized",
)
NEAR = (*HOT, "ModelEMA.__init__", "is_parallel", "de_parallel", "unwrap_model")
AT_THE_FUNCTIONS = 0.75  # of the edits that have a place

# Modules beside the edited file: what an import may lead to instead. Each passes on all the rest.
MODULES = {
    "edited_functional": (
        "torch.nn.functional",
        "def pad(*args, value=None, **known): return real.pad(*args, value=0.25, **known)\n"
        "def interpolate(*args, **known): return real.interpolate(*args, **known) + 1\n",
    ),
    "edited_math": ("math", "ceil = real.floor\ndef exp(x): return real.exp(x) / 2\n"),
    "edited_nn": ("torch.nn", "class Conv2d(real.Conv2d): pass\n"),
    "edited_time": ("time", "def time(): return 7\n"),
    "edited_torch": ("torch", "def diag(*args): return 2 * real.diag(*args)\n"),
}
REAL = {real: f"edited_{real.rpartition('.')[2]}" for real, _ in MODULES.values()}


def module_text(name: str) -> str:
    """The text of one of MODULES."""
    real, text = MODULES[name]
    return f"import {real} as real\n{text}\ndef __getattr__(name): return getattr(real, name)\n"


class File(NamedTuple):
    """A text to edit, and where things are in it; lines are counted from 0."""

    text: str
    lines: list[str]  # with their ends
    near: list[int]  # the lines of the functions that matter
    spans: dict[str, tuple[int, int]]  # of these functions: first line, the one after the last
    top: list[int]  # where the statements of the module start, and its end
    names: list[str]
    close: list[str]  # names that the functions use
    tokens: dict[int, list[tokenize.TokenInfo]]


class Edit(NamedTuple):
    """One edited text."""

    kind: str
    text: str


def read(text: str) -> File:
    lines = text.splitlines(keepends=True)
    tree = ast.parse(text)
    spans = {name: span(node) for name, node in functions(tree).items() if name in NEAR}
    near = [line for first, last in spans.values() for line in range(first, last)]
    tokens: dict[int, list[tokenize.TokenInfo]] = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.start[0] == token.end[0] and interesting(token):
            tokens.setdefault(token.start[0] - 1, []).append(token)
    top = [span(node)[0] for node in tree.body[1:]] + [len(lines)]
    names = names_in(tokens, range(len(lines)))
    return File(text, lines, near, spans, top, names, names_in(tokens, near), tokens)


def functions(tree: ast.Module) -> dict[str, ast.FunctionDef]:
    """The functions of a module, and the methods of its classes, by dotted name."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.ClassDef):
            methods = [inner for inner in node.body if isinstance(inner, ast.FunctionDef)]
            found |= {f"{node.name}.{method.name}": method for method in methods}
    return found


def span(node: ast.stmt) -> tuple[int, int]:
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
    return first - 1, node.end_lineno or first


def interesting(token: tokenize.TokenInfo) -> bool:
    operator = token.type == tokenize.OP and token.string in OTHER
    return operator or token.type in (tokenize.NUMBER, tokenize.NAME, tokenize.STRING)


def names_in(tokens: dict[int, list[tokenize.TokenInfo]], lines: object) -> list[str]:
    kinds = (token for line in lines for token in tokens.get(line, ()))
    return sorted({token.string for token in kinds if token.type == tokenize.NAME})


def place(draw: random.Random, file: File) -> int:
    """The number of a line with something on it, most often one of a function that matters."""
    among = file.near if draw.random() < AT_THE_FUNCTIONS else range(len(file.lines))
    filled = [line for line in among if file.lines[line].strip()]
    return draw.choice(filled)


def joined(lines: list[str]) -> str:
    return "".join(lines)


def put_in(file: File, line: int, text: str) -> str:
    """The text with a line of its own before the line of this number."""
    return joined([*file.lines[:line], f"{text}\n", *file.lines[line:]])


# Kinds of edits: each takes the file and gives another text, or the same where it found no place.

GROUPS = (
    ("+", "-", "*", "/", "//", "%", "**"),
    ("==", "!=", "<", ">", "<=", ">="),
    ("+=", "-=", "*=", "/="),
    ("&", "|", "^"),
)
OTHER = {one: [other for other in group if other != one] for group in GROUPS for one in group}
WORDS = {
    "True": ("False", "None"),
    "False": ("True", "None"),
    "None": ("False", "0"),
    "and": ("or",),
    "or": ("and",),
    "is": ("is not",),
    "in": ("not in",),
    "not": ("", "not not"),
}
STRINGS = {"bilinear": "nearest", "weight": "bias", "module": "modules", "cpu": "meta"}


def one_token(draw: random.Random, file: File) -> str:
    for _ in range(20):
        tokens = file.tokens.get(place(draw, file))
        if tokens:
            return changed(file.lines, draw.choice(tokens), draw, file)
    return file.text


def changed(lines: list[str], token: tokenize.TokenInfo, draw: random.Random, file: File) -> str:
    """The lines with this token made another one."""
    number = token.start[0] - 1
    line, begin, end = lines[number], token.start[1], token.end[1]
    lines = list(lines)
    lines[number] = line[:begin] + other(token, draw, file) + line[end:]
    return joined(lines)


def other(token: tokenize.TokenInfo, draw: random.Random, file: File) -> str:
    text = token.string
    if token.type == tokenize.NUMBER:
        return draw.choice([n for n in (*"0123", "0.5", "1.0", "32.", f"{text}1") if n != text])
    if token.type == tokenize.OP:
        return draw.choice(OTHER[text])
    if token.type == tokenize.STRING:
        return other_string(text, draw)
    if text in WORDS:
        return draw.choice(WORDS[text])
    return draw.choice(file.close if draw.random() < 0.8 else file.names)


def other_string(text: str, draw: random.Random) -> str:
    for word, instead in STRINGS.items():
        if word in text:
            return text.replace(word, instead)
    return draw.choice((f"{text[:-1]}x{text[-1]}", '""', f"b{text}"))


def line_deleted(draw: random.Random, file: File) -> str:
    line = place(draw, file)
    return joined(file.lines[:line] + file.lines[line + 1 :])


def line_duplicated(draw: random.Random, file: File) -> str:
    line = place(draw, file)
    return joined(file.lines[: line + 1] + file.lines[line:])


def lines_swapped(draw: random.Random, file: File) -> str:
    first = place(draw, file)
    second = first + 1 if draw.random() < 0.6 else place(draw, file)
    lines = list(file.lines)
    if second < len(lines):
        lines[first], lines[second] = lines[second], lines[first]
    return joined(lines)


IMPORT = re.compile(r"^(?:import ([\w.]+)(?: as (\w+))?|from torch import (nn))$")


def import_changed(draw: random.Random, file: File) -> str:
    """A module of ours under the name of another, the same module by another line, a name less."""
    lines = list(file.lines)
    places = [number for number, line in enumerate(lines) if re.match(r"(import|from) ", line)]
    wanted = [number for number in places if real_module(lines[number])[0] in REAL]
    number = draw.choice(wanted if wanted and draw.random() < 0.7 else places)
    real, name = real_module(lines[number])
    if real in REAL:
        own = REAL[real]
        package, _, last = real.rpartition(".")
        same = f"from {package} import {last} as {name}" if package else f"import {real} as {name}"
        lines[number] = draw.choice((f"import {own} as {name}", f"import {own} as {name}", same))
        lines[number] += "\n"
    else:
        lines[number] = with_a_name_less(lines[number], draw)
    return joined(lines)


def real_module(line: str) -> tuple[str, str]:
    """The module that a line imports, and its name in the file; empty for other lines."""
    found = IMPORT.match(line.split("#")[0].strip())
    if not found:
        return "", ""
    real, name, nn = found.groups()
    return ("torch.nn", "nn") if nn else (real, name or real)


def with_a_name_less(line: str, draw: random.Random) -> str:
    head, found, names = line.partition(" import ")
    parts = [part.strip() for part in names.split(",")]
    if not found or len(parts) < 2:
        return "\n"
    parts.remove(draw.choice(parts))
    return f"{head} import {', '.join(parts)}\n"


def default_changed(draw: random.Random, file: File) -> str:
    known = functions(ast.parse(file.text))
    near = [known[name] for name in file.spans if known[name].args.defaults]
    among = near if near and draw.random() < AT_THE_FUNCTIONS else list(known.values())
    defaults = draw.choice(among).args.defaults
    if not defaults:
        return file.text
    node = draw.choice(defaults)
    line = file.lines[node.lineno - 1].encode()
    value = draw.choice(("0", "1", "2.0", "0.5", "True", "None", "16", "int"))
    if node.end_lineno != node.lineno:
        return file.text
    lines = list(file.lines)
    line = line[: node.col_offset] + value.encode() + line[node.end_col_offset :]
    lines[node.lineno - 1] = line.decode()
    return joined(lines)


WRAP = "(lambda function: __import__('functools').wraps(function)({}))"
DECORATORS = (
    "torch.no_grad()",
    "torch.inference_mode()",
    "staticmethod",
    "__import__('functools').lru_cache",
    "(lambda function: function)",
    "(lambda function: lambda *args: function(*args))",
    WRAP.format("lambda *args, **known: function(*args, **known)"),
    WRAP.format("lambda *args, **known: (function(*args, **known), 5)[1]"),
    WRAP.format("lambda *args: function(*args[::-1])"),
)


def decorator_added(draw: random.Random, file: File) -> str:
    name = draw.choice(sorted(file.spans))
    indent = "    " if "." in name else ""
    return put_in(file, file.spans[name][0], f"{indent}@{draw.choice(DECORATORS)}")


SHADOWS = (
    "int = round",
    "int = float",
    "range = lambda *args: [1]",
    "print = lambda *args, **known: None",
    "isinstance = lambda value, kind: True",
    "isinstance = lambda value, kind: False",
    "len = lambda value: 1",
    "sum = max",
    "type = id",
    "hasattr = lambda value, name: False",
    "zip = list",
    "globals()['int'] = round",
    "globals().setdefault('isinstance', lambda value, kind: False)",
    "from builtins import round as int",
    "for int in (round, float): pass",
)


def builtin_shadowed(draw: random.Random, file: File) -> str:
    return put_in(file, draw.choice(file.top), draw.choice(SHADOWS))


def function_twice(draw: random.Random, file: File) -> str:
    """A second definition with another token, before the first, after it or under a condition."""
    name = draw.choice(sorted(name for name in file.spans if "." not in name))
    first, last = file.spans[name]
    tokens = [token for line in range(first, last) for token in file.tokens.get(line, ())]
    text = changed(file.lines, draw.choice(tokens), draw, file).splitlines(keepends=True)
    second = joined(text[first:last])
    if draw.random() < 0.4:
        condition = draw.choice(("if True:", "if not torch:", "for _ in range(2):", "try:"))
        second = f"{condition}\n" + re.sub(r"(?m)^(?=.)", "    ", second)
        second += "finally:\n    pass\n" if condition == "try:" else ""
    return put_in(file, draw.choice((first, last, len(file.lines))), second)


ANYTHING = "lambda *args, **known: 3"
AT_THE_END = (
    "scale_img = __import__('functools').partial(scale_img, ratio=0.5)",
    "scale_img = torch.no_grad()(scale_img)",
    "scale_img.__defaults__ = (0.5, True, 8)",
    "scale_img.__defaults__ = None",
    "scale_img.__wrapped__ = is_parallel",
    "scale_img.__code__ = (lambda img, ratio=1.0, same_shape=False, gs=32: img * 2).__code__",
    "scale_img = type(scale_img)(scale_img.__code__, {**globals(), 'int': round})",
    "scale_img = lambda img, ratio=1.0, same_shape=False, gs=32: img",
    "fuse_conv_and_bn = torch.no_grad()(fuse_conv_and_bn)",
    "fuse_conv_and_bn = torch.inference_mode()(fuse_conv_and_bn)",
    "fuse_conv_and_bn = lambda conv, bn: conv",
    "sparsity = lambda model: torch.tensor(0.5)",
    "sparsity = lambda model: 1 / 0",
    "sparsity = lambda model: print('asked') or 0.25",
    "sparsity = prune",
    "prune = sparsity",
    "prune.__defaults__ = (0.75,)",
    "prune = __import__('functools').partial(prune, amount=0.5)",
    "ModelEMA.update = " + ANYTHING,
    "ModelEMA.update = torch.no_grad()(ModelEMA.update)",
    "ModelEMA.update = ModelEMA.update_attr",
    "ModelEMA.updates = property(lambda self: 5, lambda self, value: None)",
    "ModelEMA.enabled = property(lambda self: False, lambda self, value: None)",
    "ModelEMA.__setattr__ = lambda self, name, value: object.__setattr__(self, name, value)",
    "class ModelEMA(ModelEMA): pass",
    "ModelEMA = type('ModelEMA', (ModelEMA,), {})",
    "ModelEMA = __import__('functools').partial(ModelEMA, tau=10)",
    "time_sync = time.time",
    "is_parallel = lambda model: False",
    "de_parallel = lambda model: model",
    "unwrap_model = lambda model: print('unwrapped') or model",
    "de_parallel = 5",
    "del de_parallel",
    "del is_parallel",
    "del unwrap_model",
    "del LOGGER",
    "del logger",
    "LOGGER = None",
    "LOGGER = type('Log', (), {'info': staticmethod(print)})",
    "F = __import__('edited_functional')",
    "F = __import__('types').SimpleNamespace(**vars(F))",
    "math = __import__('edited_math')",
    "torch = __import__('edited_torch')",
    "nn = __import__('edited_nn')",
    "time = __import__('edited_time')",
    "F = math",
    "del F",
    "del math",
    "del torch",
    "del nn",
    "__name__ = 'another'",
    "__spec__ = None",
    "__yolov5_utils__ = {}",
)


def ends_with(draw: random.Random, file: File) -> str:
    return put_in(file, len(file.lines), draw.choice(AT_THE_END))


ELSEWHERE = (
    "import sys; sys.modules['math'] = __import__('edited_math')",
    "import sys; sys.modules['torch.nn.functional'] = __import__('edited_functional')",
    "__builtins__ = {**vars(__import__('builtins')), 'int': round}",
    "__builtins__ = {**vars(__import__('builtins')), 'isinstance': lambda value, kind: False}",
    "import builtins; builtins.int = round",
    "import builtins; builtins.print = lambda *args, **known: None",
    "import math; math.ceil = math.floor",
    "import torch; torch.nn.functional.pad = lambda *args, **known: args[0]",
    "import torch; torch.nn.functional.interpolate = lambda img, **known: img",
    "import torch; torch.mm = lambda one, two: two",
    "import torch; torch.nn.Module.parameters = lambda self, recurse=True: iter(())",
    "import torch.nn.utils.prune; torch.nn.utils.prune.remove = lambda module, name: None",
    "import torch; torch.nn.Module.state_dict = lambda self: {}",
)


def others_changed(draw: random.Random, file: File) -> str:
    """A line that changes what other modules hold."""
    places = [line for line in file.top if line == len(file.lines) or draw.random() < 0.2]
    return put_in(file, draw.choice(places), draw.choice(ELSEWHERE))


KINDS: dict[Callable[[random.Random, File], str], int] = {
    one_token: 12,
    line_deleted: 3,
    line_duplicated: 2,
    lines_swapped: 3,
    import_changed: 4,
    default_changed: 2,
    decorator_added: 2,
    builtin_shadowed: 4,
    function_twice: 3,
    ends_with: 8,
    others_changed: 2,
}


def drawn(number: int, file: File) -> Edit:
    """The edit of this number, which changes something."""
    draw = random.Random(number)
    while True:
        (kind,) = draw.choices(list(KINDS), list(KINDS.values()))
        text = kind(draw, file)
        if text != file.text:
            return Edit(kind.__name__, text)


def rewritten(number: int, file: File) -> ast.Module:
    """The tree of the file with another constant or operator, as a loader may change it."""
    draw = random.Random(number)
    tree = ast.parse(file.text)
    nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.Constant, ast.BinOp))]
    if draw.random() < AT_THE_FUNCTIONS:
        near = set(file.near)
        nodes = [node for node in nodes if node.lineno - 1 in near]
    node = draw.choice(nodes)
    if isinstance(node, ast.BinOp):
        node.op = draw.choice([ast.Add(), ast.Sub(), ast.Mult(), ast.Div(), ast.Mod()])
    else:
        node.value = other_constant(node.value, draw)
    return tree


def other_constant(value: object, draw: random.Random) -> object:
    if isinstance(value, str):
        return STRINGS.get(value, f"{value}x")
    if isinstance(value, (bool, type(None))):
        return not value
    if isinstance(value, (int, float)):
        return draw.choice([number for number in (0, 1, 2, 0.5, value + 1) if number != value])
    return value
