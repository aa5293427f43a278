"""The real CUDA library, built with warnings as errors: what its kernels cost on each chip, how
large it is, what it exports, that an old driver can read it, what it says without one."""

from __future__ import annotations

import re
import runpy
import struct
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from tests.cuda.stand_in import build_emulated
from tests.native.building import ROOT, clean_environment, need, succeed

from .library import ABI_VERSION, Library, LibraryError

HERE = Path(__file__).parent
BUILD = runpy.run_path(str(ROOT / "cuda" / "build.py"))
LARGEST_BYTES = 4_000_000
FUNCTION = re.compile(
    r"Compiling entry function '(\S+)' for 'sm_(\d+)'.*?(\d+) bytes stack frame, "
    r"(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
    re.DOTALL,
)
# What a dynamic library may need of the system.
SYSTEM = (
    *("libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so"),
    *("libstdc++.so", "libgcc_s.so", "ld-linux"),
)


class Built(NamedTuple):
    library: Path
    chips: tuple[int, ...]
    report: str


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    if BUILD["find_nvcc"]() is None:
        pytest.skip("nvcc is not installed")
    how = BUILD["plan"](strict=True)
    library, report = BUILD["build"](how, tmp_path_factory.mktemp("cuda"))
    return Built(library, how.chips, report)


def budget() -> dict[str, int]:
    lines = (ROOT / "cuda" / "budget.txt").read_text().splitlines()
    rows = (line.split() for line in lines if not line.startswith("#"))
    return {kernel: int(registers) for kernel, registers in rows}


def over_budget(report: str, chips: tuple[int, ...]) -> list[str]:
    """Kernels of sm_80 and newer that spill, use local memory or take too many registers."""
    allowed = budget()
    found = FUNCTION.findall(report)
    seen = {(kernel, int(chip)) for name, chip, *_ in found for kernel in allowed if kernel in name}
    problems = [f"no {k} for sm_{c}" for k in allowed for c in chips if (k, c) not in seen]
    for name, chip, stack, stores, loads, registers in found:
        limit = next((limit for kernel, limit in allowed.items() if kernel in name), 0)
        if int(chip) >= 80 and (int(stack) + int(stores) + int(loads) or int(registers) > limit):
            problems.append(f"sm_{chip} {name}: {stack} {stores} {loads} {registers}")
    return problems


@pytest.mark.long
def test_kernels_stay_within_their_budget(built: Built) -> None:
    assert over_budget(built.report, built.chips) == []


@pytest.mark.long
def test_a_kernel_over_budget_is_noticed(built: Built) -> None:
    chips = [chip for chip in built.chips if chip >= 80]
    assert over_budget(built.report.replace("0 bytes spill loads", "4 bytes spill loads"), ())
    assert over_budget(re.sub(r"Used \d+ registers", "Used 81 registers", built.report), ())
    assert over_budget("", tuple(chips))


@pytest.mark.long
def test_the_library_is_small(built: Built) -> None:
    assert built.library.stat().st_size < LARGEST_BYTES


@pytest.mark.long
def test_it_exports_one_symbol(built: Built) -> None:
    exported = succeed(need("nm"), "-D", "--defined-only", built.library).split()
    assert exported[2::3] == ["y5_cuda_api_get"]


@pytest.mark.long
def test_it_needs_nothing_but_the_system(built: Built) -> None:
    listed = succeed(need("readelf"), "-d", built.library)
    needed = re.findall(r"NEEDED.*\[(.+)\]", listed)
    assert needed
    assert [name for name in needed if not name.startswith(SYSTEM)] == []


@pytest.mark.long
def test_the_image_holds_the_kernels_that_the_launchers_ask_for(built: Built) -> None:
    listed = re.findall(r"X\((\w+_\w+)\)", (ROOT / "cuda" / "kernels.h").read_text())
    compiled = {name for name, *_ in FUNCTION.findall(built.report)}
    assert compiled == {f"y5_{name}" for name in listed}
    assert len(compiled) > 20


class Image(NamedTuple):
    """One of a fat binary's, by its header: compressed the old way are those with flag 13."""

    is_ptx: bool
    chip: int
    flags: int


def images_of(path: Path) -> list[Image]:
    data, images = path.read_bytes(), []
    magic, at, size = struct.unpack_from("<I2xHQ", data)
    assert magic == 0xBA55ED50
    end = at + size
    while at < end:
        kind, header, size = struct.unpack_from("<H2xIQ", data, at)
        chip, flags = struct.unpack_from("<I8xQ", data, at + 28)
        images.append(Image(kind == 1, chip, flags))
        at += header + size
    return images


@pytest.mark.long
def test_a_driver_of_cuda_12_1_can_read_it(built: Built) -> None:
    """The language of the PTX, the ABI of the machine code, the compression of both."""
    folder = built.library.parent
    for ptx in folder.glob("*_*.ptx"):
        assert re.search(r"^\.version 8\.1$", ptx.read_text(), re.MULTILINE), ptx
    abi = {chip: (folder / f"sm_{chip}.cubin").read_bytes()[8] for chip in built.chips}
    if BUILD["plan"]().ptxas_release < (13, 0):  # 8 is what newer drivers than that have
        assert abi == {chip: 7 if chip <= 90 else 8 for chip in built.chips}
        assert set(built.chips) == {chip for chips in BUILD["CHIPS"].values() for chip in chips}
    images = images_of(folder / BUILD["IMAGE"])
    assert [image.chip for image in images] == [*built.chips, BUILD["EMBEDDED"]]
    assert [image.is_ptx for image in images] == [*(False for _ in built.chips), True]
    assert {image.flags & 0xF000 for image in images} == {0x2000}


@pytest.mark.long
def test_it_opens_the_driver_by_its_name(built: Built, tmp_path: Path) -> None:
    """With an emulated one in its place, all of the real library but the machine code runs."""
    emulated = build_emulated(tmp_path)
    if emulated is None:
        pytest.skip("no C++ compiler")
    (tmp_path / "libcuda.so.1").symlink_to(emulated)
    code = (
        "import torch; from tests.emu.library import Library\n"
        f"library = Library({str(built.library)!r})\n"
        "average, source = torch.rand(5000), torch.rand(5000)\n"
        "expected = average * 0.75 + source * 0.25\n"
        "library.call('check_device', 0); library.ema_update([(average, source)], 0.75)\n"
        "assert torch.equal(average, expected)"
    )
    succeed(
        sys.executable, "-c", code, cwd=ROOT,
        environment=clean_environment(LD_LIBRARY_PATH=str(tmp_path)),
    )  # fmt: skip


def test_there_is_one_way_to_launch() -> None:
    sources = [path for path in (ROOT / "cuda").iterdir() if path.suffix in (".c", ".cu", ".cuh")]
    launches = [
        path.name for path in sources for _ in re.findall(r"<<<|driver\.launch\(", path.read_text())
    ]
    assert launches == ["driver.c"]


def test_every_error_of_the_driver_has_a_verdict() -> None:
    """Those of the installed toolkit; and all that end a process' use of CUDA are failures."""
    nvcc = BUILD["find_nvcc"]()
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    rows = re.findall(r"X\((\w+), (\d+), (\w+)\)", (HERE / "errors.inc").read_text())
    verdicts = {int(number): status for _, number, status in rows}
    header = re.search(r"\S+/driver_types\.h", succeed(nvcc, "-M", "-x", "cu", "/dev/null"))
    assert header is not None
    text = Path(header[0]).with_name("cuda.h").read_text()
    listed = re.search(r"enum cudaError_enum\b(.*?)\n\}", text, re.DOTALL)
    assert listed is not None
    errors = re.findall(r"/\*\*(.*?)\*/\s*,?\s*(\w+)\s*=\s*(\d+)", listed[1], re.DOTALL)
    assert len(errors) > 90
    unknown = [name for _, name, number in errors if int(number) not in {0, *verdicts}]
    assert unknown == []
    ended = "process must be\\s+(\\*\\s+)?terminated|process must(\\s+\\*)? be terminated"
    final = {int(number) for text, _, number in errors if re.search(ended, text)}
    assert len(final) > 5
    assert {number: verdicts[number] for number in final} == dict.fromkeys(final, "FAILED")


def launchers(folder: Path, driver: str) -> Library:
    """The library without kernels, and with another name for the driver."""
    (folder / BUILD["IMAGE"]).write_bytes(b"nothing")
    flags = [
        *BUILD["HOST"], f"-I{ROOT / 'csrc'}", f'-DY5_CUDA_DRIVER="{driver}"', "-DY5_CUDA_TOOLKIT=0",
        '-DY5_CUDA_ARCHITECTURES="none"',
    ]  # fmt: skip
    sources = sorted((ROOT / "cuda").glob("*.c"))
    succeed(need("gcc"), *flags, *sources, "-o", folder / "library.so", "-ldl", cwd=folder)
    return Library(folder / "library.so")


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        ("libnowhere.so.1", r"^NO_DRIVER: no NVIDIA driver is installed: libnowhere\.so\.1: "),
        ("libm.so.6", r"lacks cuInit, which those for CUDA 12\.1 and newer have: update"),
    ],
)
def test_no_driver_and_one_that_is_none(tmp_path: Path, driver: str, words: str) -> None:
    library = launchers(tmp_path, driver)
    for _ in range(2):
        with pytest.raises(LibraryError, match=words):
            library.call("check_device", 0)


@pytest.mark.long
def test_the_table_says_what_it_was_built_for(built: Built) -> None:
    api = Library(built.library).api
    assert api.abi_version == ABI_VERSION
    named = [*(f"sm_{chip}" for chip in built.chips), f"compute_{BUILD['EMBEDDED']}"]
    assert api.architectures.decode().split() == named


@pytest.mark.long
def test_a_missing_driver_is_named(built: Built) -> None:
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("there is a driver")
    with pytest.raises(LibraryError, match="no NVIDIA driver is installed") as raised:
        Library(built.library).call("check_device", 0)
    assert raised.value.status == "NO_DRIVER"


@pytest.mark.parametrize(
    ("switch", "words"), [("0", "YOLOV5_UTILS_CUDA=0"), ("auto", "no nvcc was found")]
)
def test_what_is_not_built_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, switch: str, words: str
) -> None:
    (tmp_path / BUILD["LIBRARY"]).write_text("of an earlier build")
    build_if: Any = BUILD["build_if"]
    monkeypatch.setitem(build_if.__globals__, "find_nvcc", lambda: None)
    lines: list[str] = []
    build_if(switch, tmp_path, tmp_path / "temporary", strict=False, say=lines.append)
    assert len(lines) == 1
    assert words in lines[0]
    assert list(tmp_path.iterdir()) == []


def failing_compiler(folder: Path) -> str:
    """A toolkit that says much before it fails."""
    for name in ("nvcc", "ptxas"):
        script = folder / name
        script.write_text(
            '#!/bin/sh\ncase "$1" in\n'
            "--version) echo release 12.9 ;;\n--help) echo sm_90 ;;\n"
            '*) echo much to read; echo "a.cu(7): error: no such thing"; exit 2 ;;\nesac\n'
        )
        script.chmod(0o755)
    return str(folder / "nvcc")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """build_if with a compiler that fails."""
    build_if: Any = BUILD["build_if"]
    nvcc = failing_compiler(tmp_path)
    monkeypatch.setitem(build_if.__globals__, "find_nvcc", lambda: nvcc)
    return build_if


def test_a_compiler_that_fails_is_one_line(broken: Any, tmp_path: Path) -> None:
    lines: list[str] = []
    broken("auto", tmp_path, tmp_path / "builds", strict=False, say=lines.append)
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert "a.cu(7): error: no such thing; all of it in" in lines[0]
    log = tmp_path / "builds" / BUILD["LOG"]
    assert str(log) in lines[0]
    assert "much to read" in log.read_text()
    assert list((tmp_path / "builds").iterdir()) == [log]  # nothing half built is left


def test_a_compiler_that_fails_ends_a_build_that_must_be(broken: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"(?s)no such thing.*much to read"):
        broken("1", tmp_path, tmp_path / "builds", strict=False, say=print)


def test_builds_side_by_side(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The second starts while the first compiles, and neither takes the other's files away."""
    build_once: Any = BUILD["build_once"]
    how, name, calls = (
        BUILD["Plan"]("nvcc", (13, 0), "ptxas", (12, 9), (90,), (), False),
        BUILD["LIBRARY"],
        list[Path](),
    )
    monkeypatch.setattr(BUILD["Plan"], "digest", lambda self: "digest")

    def build(how: Any, folder: Path) -> None:
        folder.mkdir(parents=True)
        calls.append(folder)
        if len(calls) == 1:
            assert build_once(how, tmp_path).read_text() == "2"
        (folder / name).write_text(str(1 if folder == calls[0] else 2))

    monkeypatch.setitem(build_once.__globals__, "build", build)
    for _ in range(2):
        assert build_once(how, tmp_path).read_text() == "2"
    assert len(calls) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["digest"]


def commands_of_setup(monkeypatch: pytest.MonkeyPatch) -> Any:
    """setup.py's command that builds extensions."""
    setuptools = pytest.importorskip("setuptools")
    monkeypatch.setattr(setuptools, "setup", lambda **options: None)
    return runpy.run_path(str(ROOT / "setup.py"))["BuildExtension"]


def test_an_unknown_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLOV5_UTILS_CUDA", "yes")
    with pytest.raises(SystemExit, match="allowed values are auto, 0, 1"):
        commands_of_setup(monkeypatch).build_cuda_library(None)


@pytest.mark.parametrize(("platform", "name"), [("darwin", "macOS"), ("win32", "Windows")])
def test_elsewhere_nothing_is_built(
    monkeypatch: pytest.MonkeyPatch, platform: str, name: str
) -> None:
    """Whichever build switches are set: one sentence."""
    command = commands_of_setup(monkeypatch)
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(
        SystemExit, match=f"^yolov5_utils: {name} is not supported: [^.]*Linux only"
    ):
        command.build_extension(None, None)


def test_flags_that_change_results_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With -Ofast a linker adds code by which all of the process flushes subnormal numbers."""
    command = commands_of_setup(monkeypatch)
    compiling = ["cc", "-O2", "-Ofast", "-march=x86-64", "-ffast-math"]
    compiler = SimpleNamespace(compiler_so=compiling, linker_so=["cc", "-shared", "-mdaz-ftz"])
    command.drop_inexact(SimpleNamespace(compiler=compiler))
    assert compiler.compiler_so == ["cc", "-O2", "-march=x86-64"]
    assert compiler.linker_so == ["cc", "-shared"]
    said = "without -Ofast -ffast-math -mdaz-ftz: results would differ\n"
    assert capsys.readouterr().out == said
    command.drop_inexact(SimpleNamespace(compiler=compiler))
    assert capsys.readouterr().out == ""


def test_nvcc_gets_none_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads variables of its own."""
    monkeypatch.setenv("NVCC_PREPEND_FLAGS", "-ccbin g++ --use_fast_math")
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "-ftz=true")
    told = BUILD["output_of"]("sh", "-c", 'echo "$NVCC_PREPEND_FLAGS, $NVCC_APPEND_FLAGS"')
    assert told == "-ccbin g++, \n"


def test_free_threaded_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = sysconfig.get_config_var
    monkeypatch.setattr(sysconfig, "get_config_var", lambda n: n == "Py_GIL_DISABLED" or usual(n))
    with pytest.raises(SystemExit, match="free-threaded Python is not supported"):
        commands_of_setup(monkeypatch)


def test_another_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.implementation, "name", "pypy")
    with pytest.raises(SystemExit, match="pypy is not supported: use CPython"):
        commands_of_setup(monkeypatch)


def test_one_fails_loudly_without_nvcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    build_if: Any = BUILD["build_if"]
    monkeypatch.setitem(build_if.__globals__, "find_nvcc", lambda: None)
    with pytest.raises(SystemExit, match="YOLOV5_UTILS_CUDA=1: no nvcc was found"):
        build_if("1", tmp_path, tmp_path, strict=False, say=print)
