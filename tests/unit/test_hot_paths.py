"""Every hot path of the registry has all that belongs to one, in files of its name; and its record
is right: the usual call has the reference's bits, and is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

import yolov5_utils
from yolov5_utils import _C
from yolov5_utils.commands.selftest.comparison import usual_call
from yolov5_utils.operation import BACKENDS, Operation
from yolov5_utils.ops import OPERATIONS
from yolov5_utils.overlay.known_callables import HOT

ROOT = Path(__file__).parents[2]
# What belongs to a hot path, by what is missed without it.
FILES = {
    "the binding": "csrc/python/ops/{}.c",
    "the function in Python": "yolov5_utils/ops/{}.py",
    "its tests": "tests/unit/test_{}.py",
    "its benchmark": "benchmarks/bench_{}.py",  # with a function tables(), which `make bench` calls
}
every_hot_path = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda o: o.name)


@every_hot_path
@pytest.mark.parametrize("what", FILES)
def test_it_has_a_file_of_its_name(operation: Operation, what: str) -> None:
    file = FILES[what].format(operation.name)
    assert (ROOT / file).is_file(), f"{what} of {operation.name} is missing: {file}"


@every_hot_path
def test_it_is_known_under_its_names(operation: Operation) -> None:
    """In the package, in the stub of the C extension, in the documents."""
    for name in operation.public_names:
        assert hasattr(yolov5_utils, name.partition(".")[0]), f"yolov5_utils has no {name}"
        assert f"`{name}`" in (ROOT / "docs" / "exactness.md").read_text(), f"{name}: exactness.md"
    stub = (ROOT / "yolov5_utils" / "_C.pyi").read_text()
    assert hasattr(_C, operation.function)
    assert f"def {operation.function}(" in stub, f"_C.pyi has no {operation.function}"


@every_hot_path
def test_its_usual_call_is_equal_and_counted(operation: Operation) -> None:
    before = operation.counted()
    if operation.name == "time_synchronized":  # no two calls are equal
        operation.call()
    else:
        done = usual_call(operation)
        assert done.equal + sum(done.left.values()) == 1
    after = operation.counted()
    assert list(after) == list(BACKENDS)
    assert sum(after.values()) == sum(before.values()) + 1


def test_clients_names_lead_to_hot_paths() -> None:
    for name, hot in HOT.items():
        if name != "model_info":  # no hot path
            assert name in OPERATIONS[hot.operation].public_names


def test_no_file_of_a_hot_path_is_left_out() -> None:
    """A binding or a benchmark of another name would be found by nobody."""
    files = {file.stem for file in (ROOT / "yolov5_utils" / "ops").glob("*.py")} - {"__init__"}
    beside = {name for name in files if name not in OPERATIONS}
    assert all(any(name.startswith(f"{stem}_") for stem in OPERATIONS) for name in beside)
