"""A client's edited torch_utils.py behaves the same with the overlay as without.

edits.py MODULE SEED COUNT [--folder FOLDER] [--plant] runs in an environment with the client and
this package. Each number from SEED on draws one edit of the file that MODULE is, so one edit can be
run again alone. An edit that executes is run in these ways:

import   the edited text is imported with the overlay in place
late     it is imported without, the file's own text put back, and then the overlay is installed
         (even numbers)
loader   the file is as it was, but its loader compiles a changed tree: another edit (odd numbers)

Each difference is printed as a line of JSON, and a summary as the last line. With --plant the
overlay does not compare what was executed with the file, so that there must be differences.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import contextlib
import difflib
import importlib
import importlib.util
import io
import json
import math
import os
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import edit_kinds
import edit_probes
import torch
import torch.nn.functional as F
from edit_probes import Hang
from torch import nn
from torch.nn.utils import prune

from yolov5_utils import overlay
from yolov5_utils.overlay import fingerprint

SECONDS = 10  # for one edited module and all its calls
MEMORY = 1 << 30  # bytes, beyond what is in use already
REFUSED = ("subprocess.Popen", "os.system", "os.remove", "os.rename", "socket.connect")


Told = Callable[[], dict[str, Any]]  # what an edit is


class Loader(SourceFileLoader):
    """Loads a file, or what a tree says that is not the file's."""

    tree: ast.Module | None = None

    def source_to_code(self, data: bytes, path: str, *, _optimize: int = -1) -> Any:
        if self.tree is None:
            return super().source_to_code(data, path, _optimize=_optimize)
        return compile(self.tree, path, "exec", dont_inherit=True)


class Client:
    """The client's module, which is found in a file of ours."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.path = folder / "torch_utils.py"
        self.tree: ast.Module | None = None  # to load instead of what the file says
        spec = importlib.util.find_spec(name)
        self.text = Path(spec.origin).read_text(encoding="utf-8")
        importlib.import_module(name)  # so that all which it imports is there
        for module in [each for each in sys.modules if overlay.is_client(each)]:
            del sys.modules[module]
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        loader = Loader(name, str(self.path))
        loader.tree = self.tree
        return importlib.util.spec_from_file_location(name, self.path, loader=loader)

    def write(self, text: str) -> None:
        self.path.write_text(text, encoding="utf-8")

    @contextlib.contextmanager
    def imported(self) -> Iterator[ModuleType]:
        """The module as the file is now; nothing of it is left afterwards."""
        parent = sys.modules[self.name.rpartition(".")[0]]
        before = vars(parent).get("torch_utils")
        try:
            yield importlib.import_module(self.name)
        finally:
            sys.modules.pop(self.name, None)
            parent.torch_utils = before


class Ran(NamedTuple):
    """What was seen of a module: of each call, and what the overlay had replaced."""

    seen: dict[str, dict[str, Any]]
    replaced: tuple[str, ...] = ()


OWNERS = (builtins, math, time, torch, nn, F, prune, nn.Module, nn.Conv2d)


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Give back what a file may change outside of itself; end it where it takes too long."""
    owners = [(owner, dict(vars(owner))) for owner in OWNERS]
    modules, environ = dict(sys.modules), dict(os.environ)
    filters, path = list(warnings.filters), list(sys.path)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        for owner, names in owners:
            give_back(owner, names)
        sys.modules.update(modules)
        os.environ.clear()
        os.environ.update(environ)
        warnings.filters[:], sys.path[:] = filters, path


def give_back(owner: Any, names: dict[str, Any]) -> None:
    if vars(owner) == names:
        return
    for name in vars(owner).keys() - names.keys():
        delattr(owner, name)
    for name, value in names.items():
        if vars(owner).get(name) is not value:
            setattr(owner, name, value)


def calls(module: ModuleType) -> dict[str, dict[str, Any]]:
    """What is seen of the calls of every hot function that the module has."""
    return {
        f"{name}: {probe.__name__}": edit_probes.observed(probe, module)
        for name, probes in edit_probes.PROBES.items()
        if hasattr(module, name.partition(".")[0])
        for probe in probes
    }


def stock(client: Client) -> Ran:
    with restored(), client.imported() as module:
        return Ran(calls(module))


def imported(client: Client) -> Ran:
    """The file as it is, imported with the overlay in place."""
    with restored(), with_overlay(), client.imported() as module:
        return Ran(calls(module), replaced(client.name))


def late(client: Client) -> Ran:
    """The file as it is, imported; then its own text comes back, and the overlay into place."""
    with restored(), client.imported() as module:
        client.write(client.text)
        with with_overlay():
            return Ran(calls(module), replaced(client.name))


@contextlib.contextmanager
def with_overlay() -> Iterator[None]:
    overlay.install()
    try:
        yield
    finally:
        overlay.uninstall()


def replaced(name: str) -> tuple[str, ...]:
    return next((r.replaced for r in overlay.status() if r.module in (name, "another")), ())


class Tally:
    """What became of the edits of one way."""

    def __init__(self, hot: tuple[str, ...]) -> None:
        self.hot = hot
        self.counts = Counter[str]()
        self.replaced = Counter[str]()
        self.left = Counter[str]()

    def add(self, ours: Ran) -> None:
        self.counts["executed"] += 1
        self.counts["with something replaced"] += bool(ours.replaced)
        self.replaced.update(ours.replaced)
        self.left.update(name for name in self.hot if name not in ours.replaced)

    def summary(self) -> dict[str, Any]:
        names = ("edits", "skipped", "executed", "with something replaced", "differences")
        counts = {name: self.counts[name] for name in names}
        return {**counts, "replaced": dict(self.replaced), "left": dict(self.left)}


class Fuzz:
    """Runs edits of one client and prints where the overlay changes something."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.file = edit_kinds.read(client.text)
        client.write(client.text)
        before, after = stock(client), imported(client)
        self.hot = after.replaced
        self.ways = {way: Tally(self.hot) for way in ("import", "late", "loader")}
        for difference in differences(before, after):  # of the file as it is
            self.ways["import"].counts["differences"] += 1
            print(json.dumps(difference))

    def edit(self, number: int) -> None:
        """One edit of the text, imported and late."""
        edit = edit_kinds.drawn(number, self.file)

        def ours(way: Callable[[Client], Ran]) -> Ran:
            self.client.write(edit.text)
            return way(self.client)

        def told() -> dict[str, Any]:
            return {"number": number, "kind": edit.kind, "edit": diff(self.file.text, edit.text)}

        ways = {"import": imported} if number % 2 else {"import": imported, "late": late}
        self.run(told, ours, ways)

    def rewrite(self, number: int) -> None:
        """One edit of the tree by the loader."""
        tree = edit_kinds.rewritten(number, self.file)

        def ours(way: Callable[[Client], Ran]) -> Ran:
            self.client.write(self.client.text)
            self.client.tree = tree
            try:
                return way(self.client)
            finally:
                self.client.tree = None

        def told() -> dict[str, Any]:
            before, after = ast.unparse(ast.parse(self.file.text)), ast.unparse(tree)
            return {"number": number, "kind": "tree", "edit": diff(before, after)}

        self.run(told, ours, {"loader": imported})

    def run(self, told: Told, ours: Callable[..., Ran], ways: dict[str, Any]) -> None:
        """Compare each way with the stock client, unless that does not execute."""
        for way in ways:
            self.ways[way].counts["edits"] += 1
        try:
            with refusing():
                expected = ours(stock)
        except (Exception, SystemExit, Hang):
            for way in ways:
                self.ways[way].counts["skipped"] += 1
            return
        for way, function in ways.items():
            self.compare(way, told, expected, lambda f=function: ours(f))

    def compare(self, way: str, told: Told, expected: Ran, run: Callable[[], Ran]) -> None:
        tally = self.ways[way]
        try:
            with refusing():
                found = run()
        except (Exception, SystemExit, Hang) as error:
            found = Ran({"import": {"raised": repr(error)}})
        tally.add(found)
        for difference in differences(expected, found):
            tally.counts["differences"] += 1
            print(json.dumps({"way": way, **told(), "replaced": found.replaced, **difference}))


def differences(stock: Ran, ours: Ran) -> Iterator[dict[str, Any]]:
    """What differs of each call, with both sides."""
    for call in sorted(stock.seen.keys() | ours.seen.keys()):
        one, two = stock.seen.get(call, {}), ours.seen.get(call, {})
        names = [name for name in {**one, **two} if one.get(name) != two.get(name)]
        if names:
            texts = {name: parting(str(one.get(name)), str(two.get(name))) for name in names}
            yield {"call": call, **texts}


def parting(stock: str, ours: str) -> dict[str, str]:
    """Both texts from a little before where they part."""
    start = max(0, len(os.path.commonprefix([stock, ours])) - 80)
    return {"stock": stock[start : start + 300], "ours": ours[start : start + 300]}


def diff(before: str, after: str) -> str:
    """The changed lines alone."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return "\n".join(list(lines)[2:])


_refuse = [False]


def audit(event: str, args: object) -> None:
    if _refuse[0] and event in REFUSED:
        raise PermissionError(f"an edited file asked for {event}")


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Run a file that may do anything: no other programs, no network, no output."""
    _refuse[0] = True
    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    try:
        with quiet[0], quiet[1]:
            yield
    finally:
        _refuse[0] = False


def hang(*_: object) -> None:
    raise Hang


def limit() -> None:
    """Set bounds to what an edited file takes."""
    sys.dont_write_bytecode = True
    sys.addaudithook(audit)
    signal.signal(signal.SIGALRM, hang)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))


def plant() -> None:
    """Let the overlay take every function for what its file says."""
    fingerprint._not_as_written = lambda function, written, names: None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("module")
    parser.add_argument("seed", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--folder", help="where the module is, if not in the environment")
    parser.add_argument("--plant", action="store_true", help="make the overlay miss what differs")
    given = parser.parse_args()
    if given.folder:
        sys.path.insert(0, given.folder)
    if given.plant:
        plant()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        for name in edit_kinds.MODULES:
            (Path(folder) / f"{name}.py").write_text(edit_kinds.module_text(name))
        sys.path.insert(0, folder)
        client = Client(given.module, Path(folder))
        os.chdir(folder)
        limit()
        fuzz = Fuzz(client)
        for number in range(given.seed, given.seed + given.count):
            fuzz.edit(number)
            if number % 2:
                fuzz.rewrite(number)
        ways = {way: tally.summary() for way, tally in fuzz.ways.items()}
        print(json.dumps({"hot": fuzz.hot, **ways}))
        os.chdir("/")


if __name__ == "__main__":
    main()
