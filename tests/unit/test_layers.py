"""The rules of the tree, checked by reading it: who may include or import what, what is nowhere.

Each rule is a function from a tree to its violations; each is also shown a planted violation, so
that a rule which finds nothing any more is noticed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Rule = Callable[[Path], list[str]]

# C: each file may include what stands in its own row or further up.
C_LAYERS = (
    ("core/y5.h", "core/half.h", "core/items.h", "y5_cuda.h"),
    ("core/y5.c", "core/overlap", "core/levels", "core/parallel", "core/huge_pages"),
    ("core/",),  # the operations
    ("plan/",),  # what a call does with its tensors: no Python from here up
    ("python/",),  # what the bindings stand on
    ("python/ops/",),  # the bindings, one file per hot path
    ("python/module.c",),
)

DLPACK_FILES = {"tensor.c", "tensor.h", "dlpack_abi.h"}

# Python: each module may import what stands in its own row or further up.
PYTHON_LAYERS = (
    ("bits", "closing", "install_hint", "messages", "probe", "public", "switches", "whole"),
    ("originals",),
    ("_C",),
    ("_native",),
    ("reference",),
    ("verify",),
    ("operation",),
    ("parallel",),
    ("ops",),
    ("helpers",),
    ("distributed",),
    ("torch_utils",),
    ("overlay",),
    ("auto",),
    ("commands",),
    ("__main__",),
)

# Modules that run before the client imports torch, and so must not bring it in.
TORCH_FREE = (
    "__init__",
    "__main__",
    "closing",
    "install_hint",
    "messages",
    "public",
    "switches",
    "auto",
    "commands.__init__",
    "commands.cli",
    "commands.run",
    "overlay.__init__",
    "overlay.announce",
    "overlay.finder",
    "overlay.fingerprint",
    "overlay.known_callables",
    "overlay.replaced",
)

# Types whose instances CPython wants writable.
CPYTHON_TABLES = re.compile(
    r"\bPy(MethodDef|ModuleDef|ModuleDef_Slot|MemberDef|Type_(Slot|Spec))\b"
)


def without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL)


def c_files(root: Path) -> Iterator[tuple[Path, str]]:
    """Every C file below csrc with its text, comments blanked out."""
    for path in sorted((root / "csrc").rglob("*")):
        if path.suffix in (".c", ".h", ".inc"):
            yield path, without_comments(path.read_text())


def package_modules(root: Path) -> Iterator[tuple[str, ast.Module]]:
    """Every module of the package by its name within it ("ops.ema") with its syntax tree."""
    package = root / "yolov5_utils"
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package).with_suffix("").parts)
        yield name, ast.parse(path.read_text())


def rank(name: str, layers: tuple[tuple[str, ...], ...]) -> int | None:
    """The row whose longest prefix fits `name` best."""
    fits = [
        (len(prefix), row)
        for row, names in enumerate(layers)
        for prefix in names
        if name.startswith(prefix)
    ]
    return max(fits)[1] if fits else None


def python_h_only_in_csrc_python(root: Path) -> list[str]:
    return [
        f"{path.name} includes Python.h"
        for path, text in c_files(root)
        if "python" not in path.parts[-3:-1] and re.search(r"#\s*include\s*[<\"]Python\.h", text)
    ]


def dlpack_only_in_tensor(root: Path) -> list[str]:
    return [
        f"{path.name} knows of {word}"
        for path, text in c_files(root)
        if path.name not in DLPACK_FILES
        for word in re.findall(
            r"\b(?:kDL|DLPack|DLTensor|DLManaged|DLDevice|DLData|dlpack)\w*", text
        )
    ]


def intrinsics_only_through_levels(root: Path) -> list[str]:
    return [
        f"{path.name} includes {header}"
        for path, text in c_files(root)
        if path.name != "levels.h"
        for header in re.findall(r"#\s*include\s*<(\w*intrin\.h|arm_neon\.h)>", text)
    ]


def cuda_headers_only_in_cuda(root: Path) -> list[str]:
    return [
        f"{path.name} includes {header}"
        for path, text in c_files(root)
        for header in re.findall(r"#\s*include\s*[<\"](cuda\w*\.h|device_\w+\.h)[>\"]", text)
    ]


def includes_point_down(root: Path) -> list[str]:
    found = []
    for path, text in c_files(root):
        name = path.relative_to(root / "csrc").as_posix()
        own = rank(name, C_LAYERS)
        if own is None:
            found.append(f"{name} is in no layer")
            continue
        for included in re.findall(r'#\s*include\s*"([^"]+)"', text):
            other = rank(included, C_LAYERS)
            if other is None or other > own:
                found.append(f"{name} includes {included}")
    return found


def lent_references_are_taken(root: Path) -> list[str]:
    """What looks into dicts and lists lends references; borrowed.h takes them at once."""
    lends = re.compile(
        r"\b(PyDict_GetItem\w*|PyDict_Next|PyList_GetItem|PyList_GET_ITEM|PyWeakref_GetObject)\s*\("
    )
    return [
        f"{path.name} calls {name}"
        for path, text in c_files(root)
        if path.name != "borrowed.h" and path.parent.name != "core"
        for name in lends.findall(text)
    ]


def memory_is_used_in_plans_only(root: Path) -> list[str]:
    """Between a tensor's address and its last use stands plain C (csrc/plan); python/call.c alone
    takes addresses, and PyGC_Disable or the GIL's release would be a sign of another place."""
    words = r"\b(y5_borrow|y5_borrow_foreign|y5_storage_of|PyGC_Disable|PyEval_SaveThread)\s*\("
    borrowing = {"y5_borrow", "y5_borrow_foreign"}
    allowed = {
        "call.c": {*borrowing, "y5_storage_of", "PyGC_Disable", "PyEval_SaveThread"},
        "tensor.c": borrowing,
        "tensor.h": borrowing,
        "questions.c": {"y5_storage_of"},
        "questions.h": {"y5_storage_of"},
        "cuda_loader.c": {"PyEval_SaveThread"},
    }
    return [
        f"{path.name} calls {name}"
        for path, text in c_files(root)
        for name in re.findall(words, text)
        if name not in allowed.get(path.name, ())
    ]


def exceptions_are_not_dropped_unseen(root: Path) -> list[str]:
    """PyErr_Clear() in C only where a comment beside it says which exception it is."""
    found = []
    for path in sorted((root / "csrc" / "python").rglob("*.c")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if "PyErr_Clear()" in line and "/*" not in line:
                found.append(f"{path.name}:{number} drops an exception without saying which")
    return found


def no_names_of_newer_c_libraries(root: Path) -> list[str]:
    """What newer headers than those here turn into a name that glibc 2.17 lacks, though the text is
    the same: the wheel would not load, or would not be built, where the release is made."""
    names = r"\b(strto\w+|ato[fil]+|\w*scanf|fmodf?|exp2?f?|log2?f?|powf?|[fl]?stat)\s*\("
    return [
        f"{path.name} calls {name}"
        for folder in ("csrc", "cuda")
        for path in sorted((root / folder).rglob("*"))
        if path.suffix in (".c", ".h", ".inc")
        for name in re.findall(names, without_comments(path.read_text()))
    ]


def no_forbidden_flags(root: Path) -> list[str]:
    flag = re.compile(r"-ffast-math|-Ofast|-march=native|-fopenmp|-funsafe-math-optimizations")
    places = ["setup.py", "pyproject.toml", "Makefile", "csrc", "cuda", "tools", ".ci", ".github"]
    found = []
    for place in (*places, "tests/native"):
        top = root / place
        files = [top] if top.is_file() else [path for path in top.rglob("*") if path.is_file()]
        for path in files:
            if path.suffix not in (".so", ".o", ".pyc"):
                found += [
                    f"{path.name}: {word}"
                    for word in flag.findall(path.read_text(errors="replace"))
                ]
    return found


def files_under_500_lines(root: Path) -> list[str]:
    suffixes = (".c", ".h", ".inc", ".cu", ".cuh", ".py", ".pyi", ".sh")
    return [
        f"{path.relative_to(root)}: {lines} lines"
        for folder in ("csrc", "cuda", "yolov5_utils", "tests", "benchmarks", "examples", "tools")
        for path in sorted((root / folder).rglob("*"))
        if path.suffix in suffixes and (lines := len(path.read_text().splitlines())) >= 500
    ]


def top_level_statements(text: str) -> Iterator[str]:
    """The statements outside all braces, what stands inside their braces left out."""
    depth, statement = 0, ""
    for char in re.sub(r"^[ \t]*#(?:\\\n|[^\n])*", "", text, flags=re.MULTILINE):
        if char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0 and "(" in statement.partition("=")[0]:  # the end of a function
                yield statement
                statement = ""
        elif char == ";" and depth == 0:
            yield statement
            statement = ""
        elif depth == 0:
            statement += char
    if statement.strip():
        yield statement


def is_mutable_variable(statement: str) -> bool:
    """True for the definition (text up to its initialiser) of something that can be written to."""
    head = " ".join(statement.partition("=")[0].split())
    if not head or CPYTHON_TABLES.search(head) or re.match(r"(typedef|extern)\b", head):
        return False
    if re.fullmatch(r"(struct|union|enum)( \w+)?", head):
        return False
    if "(" in head and not re.match(r"[\w\s*]+\(\s*\*", head):  # a function or a macro's use
        return False
    pointed = head.rpartition("*")[2]
    return "const" not in (pointed if "*" in head else head).split()


def no_mutable_file_scope_state(root: Path) -> list[str]:
    found = []
    for path, text in c_files(root):
        if path.name == "borrowed.c":  # the witness of debug builds, not there in others
            text = re.sub(r"#ifndef NDEBUG.*?#endif", "", text, flags=re.DOTALL)
        text = re.sub(r'"(?:\\.|[^"\\\n])*"', '""', text)
        top = [s for s in top_level_statements(text) if is_mutable_variable(s)]
        local = [
            s
            for s in re.findall(r"^[ \t]+static\b([^;={]*)[;=]", text, re.MULTILINE)
            if is_mutable_variable(s)
        ]
        found += [f"{path.name}: {' '.join(s.split())[:60]}" for s in top + local]
    return found


def imports_of(name: str, tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """What module `name` imports: ("torch.nn", False), or ("ops.ema", True) of the package."""
    package = name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                inside = alias.name.startswith("yolov5_utils.")
                yield alias.name.removeprefix("yolov5_utils."), inside
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level == 0 and module.split(".")[0] != "yolov5_utils":
                yield module, False
                continue
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = base + [part for part in module.split(".") if part and part != "yolov5_utils"]
            if stem:
                yield ".".join(stem), True
            else:
                yield from ((alias.name, True) for alias in node.names)


class WithoutTypeChecking(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> ast.AST:
        return ast.Pass() if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)


class WithoutFunctions(WithoutTypeChecking):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return ast.Pass()


def imports_point_left(root: Path) -> list[str]:
    found = []
    for name, tree in package_modules(root):
        if name == "__init__":  # public names, resolved on first use
            continue
        own = rank(name, PYTHON_LAYERS)
        if own is None:
            found.append(f"{name} is in no layer")
            continue
        for other, inside in imports_of(name, WithoutTypeChecking().visit(tree)):
            other_rank = rank(other, PYTHON_LAYERS) if inside else None
            if other_rank is not None and other_rank > own:
                found.append(f"{name} imports {other}")
    return found


def torch_comes_from_the_client(root: Path) -> list[str]:
    found = []
    for name, tree in package_modules(root):
        if name not in TORCH_FREE:
            continue
        for other, inside in imports_of(name, WithoutFunctions().visit(tree)):
            allowed = {*TORCH_FREE, "overlay", "__version__", "patch"} if inside else {}
            if (inside and other not in allowed) or other.split(".")[0] in ("torch", "torchvision"):
                found.append(f"{name} imports {other} when it is imported")
    return found


LIST_WITH_IF = (ast.ListComp, ast.SetComp, ast.DictComp)


def directly_in(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below that are code of the same function."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.Lambda, ast.ClassDef, ast.GeneratorExp)):
            yield child
            yield from directly_in(child)


def jumps_back_on_a_condition(node: ast.AST) -> bool:
    if isinstance(node, ast.For):
        last = node.body[-1]
        ends_with_if = isinstance(last, ast.If) and not last.orelse
        return ends_with_if or any(isinstance(each, ast.Continue) for each in directly_in(node))
    if isinstance(node, LIST_WITH_IF):
        return any(each.ifs for each in node.generators)
    return isinstance(node, ast.While)


def signals_stay_in_their_try(root: Path) -> list[str]:
    """CPython 3.12 and later leave the jump to a loop's begin out of the `try` or `with` around the
    loop where it depends on a condition, and handle signals there: what a handler raises passes
    `except`, `finally` and the end of `with`. In a function of its own the loop does no harm."""
    return [
        f"{name}:{each.lineno} loops inside {type(node).__name__.lower()}"
        for name, tree in package_modules(root)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Try, ast.With))
        for statement in node.body
        for each in (statement, *directly_in(statement))
        if jumps_back_on_a_condition(each)
    ]


PLANTS: list[tuple[Rule, str, str]] = [
    (python_h_only_in_csrc_python, "csrc/core/ema.c", "#include <Python.h>\n"),
    (dlpack_only_in_tensor, "csrc/python/bindings.c", "static void f(const DLTensor *t);\n"),
    (dlpack_only_in_tensor, "csrc/core/ema.c", '#include "python/dlpack_abi.h"\n'),
    (intrinsics_only_through_levels, "csrc/core/ema.inc", "#include <immintrin.h>\n"),
    (cuda_headers_only_in_cuda, "csrc/python/cuda_loader.c", "#include <cuda_runtime.h>\n"),
    (includes_point_down, "csrc/core/levels.h", '#include "core/ops.h"\n'),
    (includes_point_down, "csrc/core/ema.c", '#include "python/tensor.h"\n'),
    (includes_point_down, "csrc/other/new.c", ""),
    (lent_references_are_taken, "csrc/python/a.c", "x = PyDict_GetItemWithError(d, k);\n"),
    (lent_references_are_taken, "csrc/python/ops/a.c", "while (PyDict_Next(d, &p, &k, &v)) {}\n"),
    (memory_is_used_in_plans_only, "csrc/python/ops/ema.c", "s = y5_borrow(state, o, &t);\n"),
    (
        memory_is_used_in_plans_only,
        "csrc/python/ops/sparsity.c",
        "s = y5_borrow_foreign(state, o, &t);\n",
    ),
    (memory_is_used_in_plans_only, "csrc/python/ops/ema.c", "r = PyEval_SaveThread();\n"),
    (exceptions_are_not_dropped_unseen, "csrc/python/a.c", "    PyErr_Clear();\n"),
    (python_h_only_in_csrc_python, "csrc/plan/ema.c", "#include <Python.h>\n"),
    (includes_point_down, "csrc/plan/ema.c", '#include "python/call.h"\n'),
    (no_names_of_newer_c_libraries, "csrc/python/a.c", "n = strtol(text, NULL, 10);\n"),
    (no_names_of_newer_c_libraries, "cuda/a.c", 'sscanf(text, "%d", &n);\n'),
    (no_forbidden_flags, "setup.py", 'flags = ["-Ofast"]\n'),
    (no_forbidden_flags, ".github/workflows/ci.yml", "run: CFLAGS=-march=native make\n"),
    (files_under_500_lines, "csrc/core/ema.c", "\n" * 500),
    (files_under_500_lines, "yolov5_utils/ops/ema.py", "\n" * 500),
    (no_mutable_file_scope_state, "csrc/core/a.c", "static int counter;\n"),
    (no_mutable_file_scope_state, "csrc/core/a.c", "int table[3] = {1, 2, 3};\n"),
    (no_mutable_file_scope_state, "csrc/core/a.c", "static const char *name = 0;\n"),
    (no_mutable_file_scope_state, "csrc/core/a.c", "static int (*hook)(int);\n"),
    (no_mutable_file_scope_state, "csrc/core/a.c", "int\nf(void)\n{\n    static int n = 0;\n}\n"),
    (signals_stay_in_their_try, "yolov5_utils/a.py", "with a:\n    while b:\n        c()\n"),
    (
        signals_stay_in_their_try,
        "yolov5_utils/a.py",
        "try:\n    for a in b:\n        if a:\n            c()\nfinally:\n    d()\n",
    ),
    (signals_stay_in_their_try, "yolov5_utils/a.py", "with a:\n    [b for b in c if d]\n"),
    (imports_point_left, "yolov5_utils/reference.py", "from .ops import ema\n"),
    (
        imports_point_left,
        "yolov5_utils/ops/ema.py",
        "def f():\n    from ..torch_utils import prune\n",
    ),
    (imports_point_left, "yolov5_utils/switches.py", "import yolov5_utils._native\n"),
    (imports_point_left, "yolov5_utils/new.py", ""),
    (torch_comes_from_the_client, "yolov5_utils/switches.py", "import torch\n"),
    (torch_comes_from_the_client, "yolov5_utils/commands/cli.py", "from torch import nn\n"),
    (torch_comes_from_the_client, "yolov5_utils/overlay/finder.py", "from .. import _native\n"),
]
RULES = list(dict.fromkeys(rule for rule, _, _ in PLANTS))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps_the_rule(rule: Rule) -> None:
    assert rule(ROOT) == []


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    PLANTS,
    ids=[f"{rule.__name__}-{i}" for i, (rule, _, _) in enumerate(PLANTS)],
)
def test_a_planted_violation_is_found(rule: Rule, path: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    assert rule(tmp_path)


def test_what_is_allowed_is_not_reported(tmp_path: Path) -> None:
    core = tmp_path / "csrc/core/a.c"
    core.parent.mkdir(parents=True)
    core.write_text(
        '#include "core/y5.h"\n/* DLTensor, Python.h */\nstatic const int table[] = {1};\n'
        'static const char *const names[2] = {"a;", "b"};\nstruct node {\n    int value;\n};\n'
        "typedef int (*callback)(void *);\nint f(int (*body)(int));\n"
        "static PyMethodDef methods[] = {{0}};\n"
        "static int\ng(int n)\n{\n    int local = n;\n    return local;\n}\n"
    )
    ops = tmp_path / "yolov5_utils/ops/ema.py"
    ops.parent.mkdir(parents=True)
    ops.write_text(
        "import torch\nfrom .. import _C, _native, reference\nfrom ..parallel import copy_attr\n"
    )
    assert [message for rule in RULES for message in rule(tmp_path)] == []
