"""What works and what is said without torch, in whichever Python runs this, with nothing but the
standard library: `python torch_free.py [FOLDER]`, where FOLDER has the package, else it must be
installed. Ends with "done"."""

from __future__ import annotations

import importlib.util
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

sys.path[:0] = [*sys.argv[1:2], str(Path(__file__).parent)]

from producers import DISHONEST, HONEST, VERSIONS, Producer  # noqa: E402

from yolov5_utils import _C  # noqa: E402

# Types of DLPack, by code and bits, with the format of an element; of floats only the sign may be
# set in a zero.
TYPES = {(0, 8): "b", (0, 16): "h", (0, 32): "i", (0, 64): "q", (2, 32): "f", (2, 64): "d"}


def every_producer() -> None:
    for version in VERSIONS:
        for fields, zeros in HONEST:
            producer = Producer(version=version, **fields)
            found = _C.count_zeros(producer)
            assert zeros is None or found == zeros, (version, fields, found)
            assert producer.deleted == int(fields.get("deleter", True)), fields
        for fields, error in DISHONEST:
            producer = Producer(version=version, **fields)
            try:
                _C.count_zeros(producer)
            except error:
                assert producer.deleted == 1, fields
            else:
                raise AssertionError(f"{fields} was believed")


def every_size() -> None:
    """Zeros counted in arrays of each type and of many sizes, against a count in Python."""
    draw = random.Random(0)
    for (code, bits), form in TYPES.items():
        for count in (*range(40), 255, 256, 257, 1023, 5000):
            values = [draw.choice((0, 0, 1, -1, 77)) for _ in range(count)]
            data = struct.pack(f"={count}{form}", *values).ljust(-(-count * bits // 32) * 4, b"\0")
            floats = struct.unpack(f"={len(data) // 4}f", data)
            producer = Producer(floats or (0.0,), shape=(count,), dtype=(code, bits, 1))
            assert _C.count_zeros(producer) == values.count(0), (form, count)


def every_level() -> None:
    info = _C.info()
    for level in info["levels_found"]:
        _C.configure(level=level)
        every_producer()
        every_size()
    for wrong in ("sse", ""):
        try:
            _C.configure(level=wrong)
            raise AssertionError(f"level {wrong!r} was taken")
        except ValueError as error:
            told = str(error)
        assert "allowed are 'portable'" in told
    print(f"Python {sys.version.split()[0]}: levels {', '.join(info['levels_found'])}")


def commands() -> None:
    """One sentence where torch is missing, and nothing but it."""
    flags = ["-S"] * sys.flags.no_site
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for command in ("info", "selftest"):
        done = subprocess.run(
            [sys.executable, *flags, "-m", "yolov5_utils", command],
            cwd=Path(__file__).parent,  # which python -m looks into first
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stderr.splitlines()
        assert (done.returncode, done.stdout, len(said)) == (1, "", 1), done
        assert "torch is not installed for" in said[0], done


def no_other_interpreter() -> None:
    """One beside the main one cannot have the extension, as it cannot have torch. Before 3.13
    Python makes none that would ask the extension and not its own lock."""
    if sys.version_info < (3, 13):
        return
    import _interpreters

    other = _interpreters.create(_interpreters.new_config("isolated", gil="shared"))
    refused = _interpreters.exec(
        other, f"import sys; sys.path[:] = {sys.path}; import yolov5_utils._C"
    )
    assert refused is not None, "the extension was loaded"
    assert "does not support loading in subinterpreters" in refused.msg, refused
    _interpreters.destroy(other)


if __name__ == "__main__":
    assert importlib.util.find_spec("torch") is None, "this is for a Python without torch"
    every_level()
    commands()
    no_other_interpreter()
    print("done")
