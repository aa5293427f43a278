"""Builds the CUDA library with nvcc; setup.py calls build_if(). Knows nothing of torch and of the C
extension."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
LIBRARY = "libyolov5_utils_cuda.so"
OLDEST = (12, 1)  # the first whose kernels take more than 4 KiB of arguments

# Chips that get code of their own where TORCH_CUDA_ARCH_LIST names none: T4; A100; RTX 30, A10;
# RTX 40, L4; H100, H200; B200; RTX 50. Newer ones compile the newest one's PTX at first use.
COMMON = (75, 80, 86, 89, 90, 100, 120)
OLDEST_CHIP = 70  # likewise: more than 4 KiB of arguments

# Names that TORCH_CUDA_ARCH_LIST may hold instead of numbers.
NAMES = {
    "volta": "7.0",
    "turing": "7.5",
    "ampere": "8.0;8.6",
    "ada": "8.9",
    "hopper": "9.0",
    "blackwell": "10.0;12.0",
}
ENTRY = re.compile(r"(\d+)\.(\d)[af]?(\+ptx)?")

COMPILING = ["-std=c++17", "-O3", "-Xptxas", "-v"]
HOST = ["-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]


class CannotBuild(RuntimeError):
    """There is no nvcc, it is too old, or it knows none of the chips wanted."""


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
    if done.returncode != 0:
        raise CannotBuild(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


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
        name, plus, _ = word.lower().partition("+")
        for entry in NAMES.get(name, name).split(";"):
            found = ENTRY.fullmatch(entry + ("+ptx" if plus else ""))
            if found is None:
                raise CannotBuild(
                    f"TORCH_CUDA_ARCH_LIST: {word!r} is neither like 8.6 or 9.0+PTX nor one of "
                    f"{', '.join(NAMES)}"
                )
            number = int(found[1]) * 10 + int(found[2])
            chips.append(number)
            if found[3]:
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
        for source in sorted(path for path in HERE.iterdir() if path.is_file()):
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
        return made, output_of(how.nvcc, *how.flags, "-c", str(source), "-o", made)

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
    """The library, from `folder` where an earlier build left the same."""
    own = folder / how.digest()
    library = own / LIBRARY
    if not (own / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        build(how, own)
        (own / "complete").touch()
    return library


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
            sys.exit(f"YOLOV5_UTILS_CUDA=1: {problem}")
        say(f"CUDA library: not built ({problem})")
        return
    say(f"CUDA library: {into / LIBRARY} for {how.built_for}")
