"""Builds the CUDA library with nvcc; setup.py calls build_if(). Knows nothing of torch and of the C
extension."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent / "csrc"
SHARED = ("core/items.h", "core/y5.h")  # what y5_cuda.h includes of it
LIBRARY = "libyolov5_utils_cuda.so"
OLDEST = (12, 1)  # the first whose kernels take more than 4 KiB of arguments

# Chips that get code of their own where TORCH_CUDA_ARCH_LIST names none: T4; A100; RTX 30, A10;
# RTX 40, L4; H100, H200; B200; RTX 50. Newer ones compile the newest one's PTX at first use.
COMMON = (75, 80, 86, 89, 90, 100, 120)
OLDEST_CHIP = 70  # likewise: more than 4 KiB of arguments

# Names that TORCH_CUDA_ARCH_LIST may hold instead of numbers, as torch knows them.
NAMES = {
    "kepler": "3.5",
    "kepler+tesla": "3.7",
    "maxwell": "5.0;5.2",
    "maxwell+tegra": "5.3",
    "pascal": "6.0;6.1",
    "volta": "7.0",
    "volta+tegra": "7.2",
    "turing": "7.5",
    "ampere": "8.0;8.6",
    "ampere+tegra": "8.7",
    "ada": "8.9",
    "hopper": "9.0",
    "blackwell": "10.0;10.3;12.0;12.1",
    "blackwell+tegra": "11.0",
}
ENTRY = re.compile(r"(\d+)\.(\d)[af]?")

COMPILING = ["-std=c++17", "-O3", "-Xptxas", "-v"]
HOST = ["-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]


LOG = "nvcc.log"  # in the folder of builds: all that a compiler said that failed
ABANDONED_SECONDS = 86_400  # a folder this old belongs to no build that still runs


class CannotBuild(RuntimeError):
    """There is no nvcc, it is too old, it knows none of the chips wanted, or it failed: one line,
    and in `log` all that was printed."""

    def __init__(self, line: str, log: str = "") -> None:
        super().__init__(line)
        self.log = log


class Architectures(NamedTuple):
    """What the library is built for: machine code of chips, PTX of virtual ones."""

    chips: tuple[int, ...]
    virtual: tuple[int, ...]

    def __str__(self) -> str:
        names = [f"sm_{chip}" for chip in self.chips]
        return " ".join(names + [f"compute_{number}" for number in self.virtual])

    def flags(self) -> list[str]:
        flags = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in self.chips]
        return flags + [f"-gencode=arch=compute_{n},code=compute_{n}" for n in self.virtual]


def find_nvcc() -> str | None:
    """nvcc's path: of CUDA_HOME or CUDA_PATH, on the PATH, where Linux has it, or from wheels."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    for home in filter(None, homes):
        found = shutil.which("nvcc", path=str(Path(home) / "bin"))
        if found:
            return found
    wheels = sorted(Path(sysconfig.get_paths()["purelib"]).glob("nvidia/cu*/bin"), reverse=True)
    places = [os.environ.get("PATH", ""), "/usr/local/cuda/bin", *map(str, wheels)]
    return shutil.which("nvcc", path=os.pathsep.join(places))


def output_of(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    printed = done.stdout + done.stderr
    if done.returncode != 0:
        lines = printed.splitlines() or [f"status {done.returncode}, without a word"]
        told = next((line for line in lines if "error" in line.lower()), lines[0]).strip()
        raise CannotBuild(f"{command[0]} failed: {told}", f"{' '.join(command)}\n{printed}")
    return printed


def version_of(nvcc: str) -> tuple[int, int]:
    """The toolkit's release, as (13, 0)."""
    found = re.search(r"release (\d+)\.(\d+)", output_of(nvcc, "--version"))
    if found is None:
        raise CannotBuild(f"{nvcc} --version names no release")
    return int(found[1]), int(found[2])


def known_to(nvcc: str) -> list[int]:
    """Numbers of the architectures this nvcc compiles for, in ascending order."""
    listed = output_of(nvcc, "--list-gpu-arch")
    return sorted({int(number) for number in re.findall(r"compute_(\d+)$", listed, re.MULTILINE)})


def wanted_by(text: str) -> tuple[list[int], list[int]]:
    """Chips and virtual architectures that a TORCH_CUDA_ARCH_LIST names."""
    chips: list[int] = []
    virtual: list[int] = []
    for word in text.replace(";", " ").replace(",", " ").split():
        name = word.lower().removesuffix("+ptx")
        for entry in NAMES.get(name, name).split(";"):
            found = ENTRY.fullmatch(entry)
            if found is None:
                raise CannotBuild(
                    f"TORCH_CUDA_ARCH_LIST: {word!r} is neither like 8.6 or 9.0+PTX nor one of "
                    f"{', '.join(NAMES)}"
                )
            number = int(found[1]) * 10 + int(found[2])
            chips.append(number)
            if name != word.lower():
                virtual.append(number)
    return chips, virtual


def architectures(nvcc: str, wanted: str) -> Architectures:
    """What is wanted and known; without a wish the common chips and PTX of the newest of them."""
    known = [number for number in known_to(nvcc) if number >= OLDEST_CHIP]
    chips, virtual = wanted_by(wanted) if wanted.strip() else (list(COMMON), [])
    built = sorted(set(chips) & set(known))
    if not built:
        raise CannotBuild(
            f"{nvcc} knows none of the architectures wanted ({', '.join(map(str, chips))}), "
            f"but {', '.join(map(str, known))}"
        )
    return Architectures(tuple(built), tuple(sorted(set(virtual) & set(known))) or (built[-1],))


class Plan(NamedTuple):
    """All that decides what the library becomes, but for the sources."""

    nvcc: str
    built_for: Architectures
    flags: list[str]

    def digest(self) -> str:
        """A name for what these and the sources lead to."""
        digest = hashlib.sha256(repr((self, version_of(self.nvcc))).encode())
        own = sorted(path for path in HERE.iterdir() if path.is_file())
        for source in [*own, *(CSRC / name for name in SHARED)]:
            digest.update(source.name.encode() + source.read_bytes())
        return digest.hexdigest()[:16]


def plan(*, strict: bool = False) -> Plan:
    """How to build here; `strict` makes warnings errors. CannotBuild says what is missing."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise CannotBuild("no nvcc was found; CUDA_HOME can say where the toolkit is")
    version = version_of(nvcc)
    if version < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise CannotBuild(f"{nvcc} is of CUDA {version[0]}.{version[1]}, needed is {needed}")
    built_for = architectures(nvcc, os.environ.get("TORCH_CUDA_ARCH_LIST", ""))
    compress = ["-compress-mode=size"] if version >= (13, 0) else ["-Xfatbin=-compress-all"]
    flags = [*COMPILING, *compress, *built_for.flags(), f'-DY5_CUDA_ARCHITECTURES="{built_for}"']
    flags += [f"-Xcompiler={','.join([*HOST, '-Werror'] if strict else HOST)}"]
    flags += ["-Werror=all-warnings"] if strict else []
    return Plan(nvcc, built_for, flags)


def build(how: Plan, folder: Path) -> tuple[Path, str]:
    """The library, made in `folder`, and ptxas' report on registers. An nvcc that fails on the
    sources is a CannotBuild with its output."""
    folder.mkdir(parents=True, exist_ok=True)

    def compile_one(source: Path) -> tuple[str, str]:
        made = str(folder / f"{source.stem}.o")
        return made, output_of(how.nvcc, *how.flags, f"-I{CSRC}", "-c", str(source), "-o", made)

    # The one that takes longest first.
    sources = sorted(HERE.glob("*.cu"), key=lambda path: path.stat().st_size, reverse=True)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        results = list(threads.map(compile_one, sources))
    library = folder / LIBRARY
    libraries = Path(how.nvcc).resolve().parent.parent / "lib"  # of wheels: the static runtime
    output_of(
        how.nvcc, "-shared", *how.built_for.flags(), "-cudart=static", f"-L{libraries}",
        "-Xlinker=--exclude-libs=ALL", *(made for made, _ in results), "-o", str(library),
    )  # fmt: skip
    return library, "".join(report for _, report in results)


def build_once(how: Plan, folder: Path) -> Path:
    """The library, from `folder` where an earlier build left the same.

    Other builds may run in the same folder: each has one of its own until it is complete.
    """
    own = folder / how.digest()
    if not own.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for other in folder.iterdir():
            if other.is_dir() and time.time() - other.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(other, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=folder) as made:
            build(how, Path(made) / "done")
            with contextlib.suppress(OSError):  # one that was quicker has left the same
                (Path(made) / "done").rename(own)
    return own / LIBRARY


def kept_log(problem: CannotBuild, folder: Path) -> str:
    """Writes down what a compiler said, and names the file for the end of a sentence."""
    if not problem.log:
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOG).write_text(problem.log)
    return f"; all of it in {folder / LOG}"


def build_if(switch: str, into: Path, temporary: Path, *, strict: bool, say: Callable) -> None:
    """What YOLOV5_UTILS_CUDA asks for: "1" builds or exits, "auto" builds where it can, "0" not.

    Says in one line what was done. A library of an earlier build does not survive one without.
    """
    (into / LIBRARY).unlink(missing_ok=True)
    if switch == "0":
        say("CUDA library: not built (YOLOV5_UTILS_CUDA=0)")
        return
    if switch == "auto" and find_nvcc() is None:
        say("CUDA library: not built (no nvcc was found)")
        return
    try:
        how = plan(strict=strict)
        into.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(build_once(how, temporary), into / LIBRARY)
    except CannotBuild as problem:
        if switch == "1":
            sys.exit(f"YOLOV5_UTILS_CUDA=1: {problem}\n{problem.log}".rstrip())
        say(f"CUDA library: not built ({problem}{kept_log(problem, temporary)})")
        return
    say(f"CUDA library: {into / LIBRARY} for {how.built_for}")
