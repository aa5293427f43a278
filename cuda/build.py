"""Builds the CUDA library: kernels by nvcc and ptxas, launchers by the C compiler; setup.py calls
build_if(). Knows nothing of torch and of the C extension.

nvcc makes PTX only, which is lowered to the language of CUDA 12.1: the kernels use nothing newer.
An assembler of CUDA 12 makes machine code of it that every driver from 530 on can load."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent / "csrc"
SHARED = ("core/items.h", "core/y5.h", "core/dl.h")  # what is included of it
LIBRARY = "libyolov5_utils_cuda.so"
IMAGE = "kernels.fatbin"  # as image.c includes it
OLDEST = (12, 1)  # the first whose kernels take more than 4 KiB of arguments
PTX_VERSION = "8.1"  # of that release

# Chips that get code of their own, by the virtual architecture it is made from: V100; T4; A100; RTX
# 30, A10; RTX 40, L4; H100, H200; B200; RTX 50. All others compile the newest PTX at first use.
CHIPS = {75: (70, 75), 80: (80, 86, 89, 90, 100, 120)}
EMBEDDED = max(CHIPS)

COMPILING = ["-std=c++17", "-O3", "-ptx"]
HOST = ["-std=c11", "-O2", "-fPIC", "-shared", "-s", "-fvisibility=hidden", "-Wall", "-Wextra"]


# Flags that change results, or have whoever loads what is made flush subnormal numbers: variables
# that a user exports for other builds may hold them.
INEXACT = re.compile(
    r"-(Ofast|ffast-math|ffinite-math-only|funsafe-math-optimizations|fassociative-math"
    r"|freciprocal-math|fno-signed-zeros|fsingle-precision-constant|ffp-model=.*"
    r"|mfpmath=.*|mrecip.*|mdaz-ftz|-?(use_fast_math|ftz|prec-div|prec-sqrt|fmad)(=.*)?)"
)
NVCC_VARIABLES = ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS")

LOG = "nvcc.log"  # in the folder of builds: all that a compiler said that failed
ABANDONED_SECONDS = 86_400  # a folder this old belongs to no build that still runs


class CannotBuild(RuntimeError):
    """A program is missing, too old, or failed: one line, and in `log` all that it printed."""

    def __init__(self, line: str, log: str = "") -> None:
        super().__init__(line)
        self.log = log


def of_wheels(*places: str) -> list[str]:
    """Folders of programs that came as wheels, the newest release first."""
    site = Path(sysconfig.get_paths()["purelib"])
    return [str(path) for place in places for path in sorted(site.glob(place), reverse=True)]


def exact(words: Iterable[str]) -> list[str]:
    """A command without what would change results."""
    return [word for word in words if not INEXACT.fullmatch(word)]


def find_nvcc() -> str | None:
    """nvcc's path: of CUDA_HOME or CUDA_PATH, on the PATH, where Linux has it, or from wheels."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    for home in filter(None, homes):
        found = shutil.which("nvcc", path=str(Path(home) / "bin"))
        if found:
            return found
    places = [os.environ.get("PATH", ""), "/usr/local/cuda/bin", *of_wheels("nvidia/cu*/bin")]
    return shutil.which("nvcc", path=os.pathsep.join(places))


def beside(nvcc: str, program: str) -> str:
    """Another program of the toolkit that nvcc is of."""
    found = shutil.which(program, path=str(Path(nvcc).resolve().parent))
    if found is None:
        raise CannotBuild(f"there is no {program} beside {nvcc}")
    return found


def find_ptxas(nvcc: str) -> str:
    """An assembler of CUDA 12, from wheels where the toolkit is newer; otherwise the toolkit's."""
    older = shutil.which("ptxas", path=os.pathsep.join(of_wheels("nvidia/cuda_nvcc/bin")))
    return older if older and version_of(nvcc)[0] > 12 else beside(nvcc, "ptxas")


def output_of(*command: str, cwd: Path | None = None) -> str:
    flags = {name: " ".join(exact(os.environ.get(name, "").split())) for name in NVCC_VARIABLES}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env=os.environ | flags
    )
    printed = done.stdout + done.stderr
    if done.returncode != 0:
        lines = printed.splitlines() or [f"status {done.returncode}, without a word"]
        told = next((line for line in lines if "error" in line.lower()), lines[0]).strip()
        raise CannotBuild(f"{command[0]} failed: {told}", f"{' '.join(command)}\n{printed}")
    return printed


def version_of(program: str) -> tuple[int, int]:
    """The release of the toolkit that a program is of, as (13, 0)."""
    found = re.search(r"release (\d+)\.(\d+)", output_of(program, "--version"))
    if found is None:
        raise CannotBuild(f"{program} --version names no release")
    return int(found[1]), int(found[2])


class Plan(NamedTuple):
    """All that decides what the library becomes, but for the sources."""

    nvcc: str
    release: tuple[int, int]
    ptxas: str
    ptxas_release: tuple[int, int]
    chips: tuple[int, ...]
    compiler: tuple[str, ...]
    strict: bool

    def __str__(self) -> str:
        """What the library is built for."""
        return " ".join([*(f"sm_{chip}" for chip in self.chips), f"compute_{EMBEDDED}"])

    def digest(self) -> str:
        """A name for what these and the sources lead to."""
        digest = hashlib.sha256(repr(tuple(self)).encode())
        own = sorted(path for path in HERE.iterdir() if path.is_file())
        for source in [*own, *(CSRC / name for name in SHARED)]:
            digest.update(source.name.encode() + source.read_bytes())
        return digest.hexdigest()[:16]


def plan(*, strict: bool = False) -> Plan:
    """How to build here; `strict` makes warnings errors. CannotBuild says what is missing."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise CannotBuild("no nvcc was found; CUDA_HOME can say where the toolkit is")
    release = version_of(nvcc)
    if release < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise CannotBuild(f"{nvcc} is of CUDA {release[0]}.{release[1]}, needed is {needed}")
    ptxas = find_ptxas(nvcc)
    known = set(map(int, re.findall(r"'sm_(\d+)'", output_of(ptxas, "--help"))))
    chips = tuple(chip for chips in CHIPS.values() for chip in chips if chip in known)
    compiler = tuple(exact(shlex.split(os.environ.get("CC", "cc"))))
    return Plan(nvcc, release, ptxas, version_of(ptxas), chips, compiler, strict)


def lowered(ptx: str, architecture: int) -> str:
    """PTX in the oldest language that has all it uses, for chips from `architecture` on."""
    ptx = re.sub(r"^\.version .*$", f".version {PTX_VERSION}", ptx, flags=re.MULTILINE)
    return re.sub(r"^\.target .*$", f".target sm_{architecture}", ptx, flags=re.MULTILINE)


def build_kernels(how: Plan, folder: Path) -> str:
    """The image of all kernels; ptxas' report on registers."""

    def compile_for(virtual: int) -> str:
        flags = [*COMPILING, *(["-Werror=all-warnings"] if how.strict else [])]
        made, source = folder / f"{virtual}.ptx", str(HERE / "kernels.cu")
        command = [how.nvcc, *flags, f"-arch=compute_{virtual}", f"-I{CSRC}", source]
        output_of(*command, "-o", str(made))
        return made.read_text()

    def assemble(chip: int) -> str:
        virtual = max(number for number in CHIPS if chip in CHIPS[number])
        own = folder / f"sm_{chip}.ptx"
        own.write_text(lowered(ptx[virtual], min(virtual, chip)))
        command = [how.ptxas, "-v", "-O3", f"-arch=sm_{chip}", str(own)]
        return output_of(*command, "-o", str(own.with_suffix(".cubin")))

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        ptx = dict(zip(CHIPS, threads.map(compile_for, CHIPS), strict=True))
        reports = list(threads.map(assemble, how.chips))
    embedded = folder / f"compute_{EMBEDDED}.ptx"
    embedded.write_text(lowered(ptx[EMBEDDED], EMBEDDED))
    # The compression that drivers have always known; 13.0 made another one the default.
    compression = ["--compress-all", *(["--compress-mode=speed"] if how.release >= (13, 0) else [])]
    images = [f"--image3=kind=elf,sm={chip},file=sm_{chip}.cubin" for chip in how.chips]
    images += [f"--image3=kind=ptx,sm={EMBEDDED},file={embedded.name}"]
    command = [beside(how.nvcc, "fatbinary"), "--64", *compression, *images]
    output_of(*command, f"--create={IMAGE}", cwd=folder)
    return "".join(reports)


def build(how: Plan, folder: Path) -> tuple[Path, str]:
    """The library, made in `folder`, and ptxas' report on registers. A compiler that fails on the
    sources is a CannotBuild with its output."""
    folder.mkdir(parents=True, exist_ok=True)
    report = build_kernels(how, folder)
    definitions = [
        f'-DY5_CUDA_ARCHITECTURES="{how}"',
        f"-DY5_CUDA_TOOLKIT={how.release[0] * 1000 + how.release[1] * 10}",
    ]
    flags = [*HOST, *(["-Werror"] if how.strict else []), *definitions, f"-I{CSRC}"]
    sources = map(str, sorted(HERE.glob("*.c")))
    output_of(*how.compiler, *flags, *sources, "-o", LIBRARY, "-ldl", cwd=folder)
    return folder / LIBRARY, report


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
    say(f"CUDA library: {into / LIBRARY} for {how}")
