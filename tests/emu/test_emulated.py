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
    "order",
)  # fmt: skip
SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
INCLUDES = [f"-I{HERE}", f"-I{ROOT / 'tests'}", f"-I{NATIVE}", f"-I{ROOT / 'csrc'}"]
CPP = [
    "-std=c++17", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unknown-pragmas",
    "-x", "c++",
]  # fmt: skip
# The driver is what the program itself exports under its names.
LAUNCHERS = [
    "-DY5_CUDA_DRIVER=NULL",
    '-DY5_CUDA_ARCHITECTURES="emulated"',
    "-DY5_CUDA_TOOLKIT=13000",
]


def compile_all(into: Path, cuda: Path, sources: list[Path], *flags: str) -> None:
    """Object files of C sources, with setup.py's flags, and of C++ and CUDA ones."""
    folders = [f"-I{HERE / 'include'}", f"-I{cuda}", *INCLUDES]
    gcc, gpp = [need("gcc"), *compile_flags()], need("g++")

    def compile_one(source: Path) -> None:
        made = ["-c", str(source), "-o", str(into / f"{source.parent.name}-{source.stem}.o")]
        if source.suffix == ".c":
            succeed(*gcc, *LAUNCHERS, *flags, "-Werror", *folders, *made)
        else:
            succeed(gpp, *CPP, *flags, "-Werror", *folders, *made)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(compile_one, sources))


def link(objects: Path, *flags: str) -> Path:
    program = objects / "test_emu"
    made = map(str, sorted(objects.glob("*.o")))
    succeed(need("g++"), *flags, *made, "-rdynamic", "-o", str(program), "-lm", "-ldl")
    return program


@pytest.fixture(scope="module")
def sources() -> list[Path]:
    """All C files, and the emulator, whose emulator.cpp is what compiles the kernels."""
    launchers = [source for source in sorted(CUDA.glob("*.c")) if source.name != "image.c"]
    tests = [*sorted(HERE.glob("*.cpp")), *sorted(HERE.glob("*.c")), NATIVE / "support.c"]
    return [*launchers, *tests, *sorted(CORE.glob("*.c"))]


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


SIDE_BY_SIDE = "-DY5_EMU_SIDE_BY_SIDE"  # of blocks, whose stores the others see late


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, sources: list[Path]) -> Path:
    """Object files for the slips: no sanitizer, so that each is quickly run."""
    folder = tmp_path_factory.mktemp("plain")
    compile_all(folder, CUDA, sources, SIDE_BY_SIDE, "-O1")
    return folder


def test_same_bits_with_blocks_side_by_side(plain: Path) -> None:
    done = run(link(plain))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split("\n")[:-1] == [f"ok {group}" for group in GROUPS]


# One slip each that the tests must not let pass: file, its text, what it becomes, which group runs
# and what is reported.
SLIPS = (
    ("device.cuh", "while (chunk >= table.first_chunk[item + 1])", "while (false)", "ema", ""),
    ("device.cuh", "__syncthreads();\n    uint32_t sum = 0;", "uint32_t sum = 0;", "sparsity", ""),
    ("ema.cuh", "rounded<From>(multiply(widen(source)", "(multiply(widen(source)", "ema", "ema,"),
    ("ema.cuh", "int i = packs * width +", "int i = packs * width + 1 +", "ema", "ema,"),
    ("ema.c", "(uint64_t)pair->source_dtype", "(uint64_t)pair->average_dtype", "ema", "ema,"),
    ("sparsity.cuh", "if (entry.slot != slot) {", "if (false) {", "sparsity", "item"),
    ("sparsity.cuh", "add(total, numbers[i])", "add(numbers[255 - i], total)", "sparsity", "sum"),
    ("fuse.cuh", "add(product, (wide<T>)0)", "product", "fuse", "fused weight"),
    ("fuse.cuh", "(product == 0 && value != 0 && scale != 0)", "false", "fuse", "pair"),
    ("prune_select.cuh", "chunks_done == chunks;", "chunks_done >= 1;", "prune", "pruned"),
    ("prune_select.cuh", "__threadfence();\n    __syncthreads();", "__syncthreads();", "order", ""),
    ("prune_select.cuh", "chunks;\n        __threadfence();", "chunks;", "order", ""),
    ("prune.cuh", "before < wanted);", "before <= wanted);", "prune", "pruned"),
    ("prune.cuh", "(int64_t)chunk < state.tie_chunk;", "true;", "prune", "pruned"),
    ("scale_img.cuh", "work.below_blend", "work.above_blend", "scale_img", "variant"),
    ("scale_img.cuh", "axis.input - 1;", "axis.input;", "scale_img", "element"),
    ("driver.c", "(void)driver.pop(&own); /* it", "/*", "failures", "left on device"),
    ("driver.c", "(void)driver.pop(&own);\n    return status;", "return status;", "failures", ""),
    ("driver.c", "(void)driver.unload_module(made->module);", "", "failures", "modules"),
    ("driver.c", "atomic_store(&call->device->stale, true);", "", "failures", "status 0"),
    ("driver.c", "code == INVALID_HANDLE ||", "", "failures", "nothing was loaded"),
    ("driver.c", "code = driver.occupancy(", "blocks = 4, (void)(", "ema", "not loaded before"),
    ("driver.c", "int mode = CAPTURE_MODE_RELAXED;", "int mode = 0;", "failures", "in a capture"),
    ("driver.c", "version < OLDEST_DRIVER", "version == 0", "failures", "ask_anew"),
    ("driver.c", "case 221:", "", "failures", "status 3"),
    ("driver.c", "case 810:", "", "failures", "status 3"),
    ("driver.c", "return Y5_CUDA_NOT_NOW;", "return Y5_CUDA_FAILED;", "failures", "status 5"),
    ("launch.c", "table->count < (uint32_t)room", "true", "ema", ""),
    ("ema.c", "status != Y5_CUDA_OK && work.updated > 0", "false", "halfway", "ema on"),
    ("ema.c", "first + table->count", "table->count", "halfway", "tensors were updated"),
)  # fmt: skip


def affected(sources: list[Path], name: str, cuda: Path) -> list[Path]:
    """Sources, of those in the copy `cuda`, that a file is part of."""
    own = [cuda / source.name for source in sources if source.parent == CUDA]
    if name.endswith((".cuh", ".cu")):
        return [HERE / "emulator.cpp"]
    return [s for s in own if s.name == name] or [*own, HERE / "emulator.cpp"]


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
    changed = affected(sources, name, cuda)
    compile_all(objects, cuda, changed, SIDE_BY_SIDE, "-O0", "-w")
    done = run(link(objects), group)
    assert done.returncode != 0
    assert words in done.stdout + done.stderr
