"""The CUDA library's launchers and kernels compiled for the CPU, run thread by thread under
AddressSanitizer and UBSan, against the core's kernels; and slips that this must notice."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.native.building import CORE, ROOT, compile_flags, need, need_sanitizer, run, succeed

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
CUDA = ROOT / "cuda"
NATIVE = ROOT / "tests" / "native"
GROUPS = (
    "grid", "ema", "sparsity", "fuse", "prune", "scale_img", "refusals", "failures",
    "changing",
    "halfway",
)  # fmt: skip
SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
INCLUDES = [f"-I{HERE}", f"-I{ROOT / 'tests'}", f"-I{NATIVE}", f"-I{ROOT / 'csrc'}"]
CPP = [
    "-std=c++17", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unknown-pragmas",
    '-DY5_CUDA_ARCHITECTURES="emulated"', "-x", "c++",
]  # fmt: skip


def compile_all(into: Path, cuda: Path, sources: list[Path], *flags: str) -> None:
    """Object files of C sources, with setup.py's flags, and of C++ and CUDA ones."""
    folders = [f"-I{HERE / 'include'}", f"-I{cuda}", *INCLUDES]
    gcc, gpp = need("gcc"), need("g++")

    def compile_one(source: Path) -> None:
        made = ["-c", str(source), "-o", str(into / f"{source.stem}-{source.suffix[1:]}.o")]
        if source.suffix == ".c":
            succeed(gcc, *compile_flags(), *flags, "-Werror", *folders, *made)
        else:
            succeed(gpp, *CPP, *flags, "-Werror", *folders, *made)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(compile_one, sources))


def link(objects: Path, *flags: str) -> Path:
    program = objects / "test_emu"
    made = map(str, sorted(objects.glob("*.o")))
    succeed(need("g++"), *flags, *made, "-o", str(program), "-lm", "-pthread")
    return program


@pytest.fixture(scope="module")
def sources() -> list[Path]:
    kernels = sorted(CUDA.glob("*.cu"))
    tests = [*sorted(HERE.glob("*.c")), *sorted(HERE.glob("*.cpp")), NATIVE / "support.c"]
    return [*kernels, *tests, *sorted(CORE.glob("*.c"))]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, sources: list[Path]) -> Path:
    need_sanitizer("libasan.so")
    folder = tmp_path_factory.mktemp("sanitized")
    compile_all(folder, CUDA, sources, *SANITIZED)
    return link(folder, *SANITIZED)


def test_same_bits_as_the_core(program: Path) -> None:
    done = run(program)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split("\n")[:-1] == [f"ok {group}" for group in GROUPS]


def test_the_checker_is_awake(program: Path) -> None:
    done = run(program, "--plant", "overrun")
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, sources: list[Path]) -> Path:
    """Object files for the slips: no sanitizer, so that each is quickly run."""
    folder = tmp_path_factory.mktemp("plain")
    compile_all(folder, CUDA, sources, "-O1")
    return folder


# One slip each that the tests must not let pass: file, its text, what it becomes, which group runs
# and what is reported.
SLIPS = (
    ("device.cuh", "while (chunk >= table.first_chunk[item + 1])", "while (false)", "ema", ""),
    ("device.cuh", "__syncthreads();\n    uint32_t sum = 0;", "uint32_t sum = 0;", "sparsity", ""),
    ("ema.cuh", "rounded<From>(multiply(widen(source)", "(multiply(widen(source)", "ema", "ema,"),
    ("ema.cuh", "int i = packs * width +", "int i = packs * width + 1 +", "ema", "ema,"),
    ("ema.cu", "(uint64_t)pair->source_dtype", "(uint64_t)pair->average_dtype", "ema", "ema,"),
    ("sparsity.cuh", "if (entry.slot != slot) {", "if (false) {", "sparsity", "item"),
    ("sparsity.cuh", "add(total, numbers[i])", "add(numbers[255 - i], total)", "sparsity", "sum"),
    ("fuse.cuh", "add(product, (wide<T>)0)", "product", "fuse", "fused weight"),
    ("fuse.cuh", "(product == 0 && value != 0 && scale != 0)", "false", "fuse", "pair"),
    ("prune_select.cuh", "chunks_done == chunks;", "chunks_done >= 1;", "prune", "pruned"),
    ("prune.cuh", "before < wanted);", "before <= wanted);", "prune", "pruned"),
    ("prune.cuh", "(int64_t)chunk < state.tie_chunk;", "true;", "prune", "pruned"),
    ("scale_img.cuh", "work.below_blend", "work.above_blend", "scale_img", "variant"),
    ("scale_img.cuh", "axis.input - 1;", "axis.input;", "scale_img", "element"),
    ("runtime.cu", "cudaSetDevice(previous_)", "cudaSuccess", "failures", "left on device"),
    ("runtime.cu", "(void)cudaGetLastError(); /* told", "/*", "failures", "a good call after"),
    ("launch.cuh", "table->count < (uint32_t)Table::capacity", "true", "ema", ""),
    ("launch.cuh", "(void)&launched<Kernel>;", "", "ema", "were not loaded before"),
    ("api.cu", "status = capture.enter(device, error);", "", "failures", "in a capture"),
    ("api.cu", "driver < oldest_driver(CUDART_VERSION)", "driver == 0", "failures", "check_device"),
    ("runtime.cu", "case 221:", "", "failures", "status 3"),
    ("runtime.cu", "case 810:", "", "failures", "status 3"),
    ("runtime.cu", "return Y5_CUDA_NOT_NOW;", "return Y5_CUDA_FAILED;", "failures", "status 5"),
    ("ema.cu", "return status != Y5_CUDA_OK && updated > 0", "return false", "halfway", "status"),
    ("ema.cu", "first + table.count", "table.count", "halfway", "tensors were updated"),
)  # fmt: skip


def affected(sources: list[Path], name: str) -> list[str]:
    """Sources of cuda/ that a file is part of."""
    stem = name.split(".")[0].removesuffix("_select")
    own = CUDA / f"{stem}.cu"
    everywhere = name in ("device.cuh", "launch.cuh", "grid.h")
    return [s.name for s in sources if s.suffix == ".cu" and (everywhere or s == own)]


@pytest.mark.long  # one build and run for each
@pytest.mark.parametrize(
    ("name", "text", "slip", "group", "words"),
    SLIPS,
    ids=[f"{s[0]}-{i}" for i, s in enumerate(SLIPS)],
)
def test_a_slip_is_noticed(
    plain: Path,
    tmp_path: Path,
    sources: list[Path],
    name: str,
    text: str,
    slip: str,
    group: str,
    words: str,
) -> None:
    cuda = tmp_path / "cuda"
    shutil.copytree(CUDA, cuda)
    original = (cuda / name).read_text()
    assert text in original, "the slip no longer fits; choose another one"
    (cuda / name).write_text(original.replace(text, slip))
    objects = tmp_path / "objects"
    shutil.copytree(plain, objects)
    changed = [cuda / source for source in affected(sources, name)]
    assert changed
    compile_all(objects, cuda, changed, "-O0", "-w")
    done = run(link(objects), group)
    assert done.returncode != 0
    assert words in done.stdout + done.stderr
