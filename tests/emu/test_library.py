"""The real CUDA library, built for every architecture with warnings as errors: what its kernels
cost on the chip, how large it is, what it exports, and what it says where there is no driver."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.native.building import ROOT, need, succeed

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
    return Built(library, how.built_for.chips, report)


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
    if not chips:
        pytest.skip("TORCH_CUDA_ARCH_LIST asks for no chip that has a budget")
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
def test_all_kernels_are_loaded_at_first_use(built: Built) -> None:
    """Each has its link in the chain that check_device goes along."""
    links = re.findall(r" [bB] (_ZN2y58launchedI\S+)", succeed(need("nm"), built.library))
    compiled = {name for name, *_ in FUNCTION.findall(built.report)}
    assert len(links) == len(compiled) > 20
    for kernel in compiled:  # the link's name holds the kernel's, but for substitutions in it
        stem = re.match(r"_ZN2y5\d+(\w+?_kernel)", kernel)
        assert stem is not None
        assert any(stem[1] in link for link in links), kernel


def test_there_is_one_way_to_launch() -> None:
    sources = [*(ROOT / "cuda").glob("*.cu"), *(ROOT / "cuda").glob("*.cuh")]
    launches = [path.name for path in sources for _ in re.findall(r"<<<", path.read_text())]
    assert launches == ["launch.cuh"]


def test_every_error_of_the_runtime_has_a_verdict() -> None:
    """Those of the installed toolkit; and all that end a process' use of CUDA are failures."""
    nvcc = BUILD["find_nvcc"]()
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    rows = re.findall(r"X\((\w+), (\d+), (\w+)\)", (HERE / "errors.inc").read_text())
    verdicts = {int(number): status for _, number, status in rows}
    header = re.search(r"\S+/driver_types\.h", succeed(nvcc, "-M", "-x", "cu", "/dev/null"))
    assert header is not None
    text = Path(header[0]).read_text()
    listed = re.search(r"enum \w+ cudaError\b(.*?)\n};", text, re.DOTALL)
    assert listed is not None
    errors = re.findall(r"/\*\*(.*?)\*/\s*,?\s*(\w+)\s*=\s*(\d+)", listed[1], re.DOTALL)
    assert len(errors) > 100
    unknown = [name for _, name, number in errors if int(number) not in {0, *verdicts}]
    assert unknown == []
    ended = "process must be\\s+(\\*\\s+)?terminated|process must(\\s+\\*)? be terminated"
    final = {int(number) for text, _, number in errors if re.search(ended, text)}
    assert len(final) > 5
    assert {number: verdicts[number] for number in final} == dict.fromkeys(final, "FAILED")


@pytest.mark.long
def test_the_table_says_what_it_was_built_for(built: Built) -> None:
    api = Library(built.library).api
    assert api.abi_version == ABI_VERSION
    assert [f"sm_{chip}" for chip in built.chips] == [
        word for word in api.architectures.decode().split() if word.startswith("sm_")
    ]


@pytest.mark.long
def test_a_missing_driver_is_named(built: Built) -> None:
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("there is a driver")
    with pytest.raises(LibraryError, match="no NVIDIA driver is installed") as raised:
        Library(built.library).call("check_device", 0)
    assert raised.value.status == "NO_DRIVER"
    assert raised.value.code == 35


# TORCH_CUDA_ARCH_LIST, by an nvcc that knows these.
KNOWN = [75, 80, 86, 90, 100, 120]


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Any:
    choose: Any = BUILD["architectures"]
    monkeypatch.setitem(choose.__globals__, "known_to", lambda nvcc: KNOWN)
    return choose


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("8.0", "sm_80 compute_80"),
        ("8.0;9.0+PTX", "sm_80 sm_90 compute_90"),
        ("8.0 9.0a", "sm_80 sm_90 compute_90"),
        ("Ampere, hopper", "sm_80 sm_86 sm_90 compute_90"),
        ("Pascal;Volta;Ampere+Tegra;Turing", "sm_75 compute_75"),
        ("Maxwell+Tegra Hopper+PTX", "sm_90 compute_90"),
        ("Ampere+PTX;12.0", "sm_80 sm_86 sm_120 compute_80 compute_86"),
        ("5.2;8.6;8.7", "sm_86 compute_86"),
        ("", "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120 compute_120"),
    ],
)
def test_architectures(choose: Any, wanted: str, expected: str) -> None:
    assert str(choose("nvcc", wanted)) == expected


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("sm_90", "'sm_90' is neither"),
        ("Ampere+Nothing", "'Ampere\\+Nothing' is neither"),
        ("5.2", "none of the architectures"),
        ("Pascal", "none of the architectures wanted \\(60, 61\\)"),
    ],
)
def test_architectures_that_cannot_be_built(choose: Any, wanted: str, words: str) -> None:
    with pytest.raises(BUILD["CannotBuild"], match=words):
        choose("nvcc", wanted)


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
    """One that knows chips, and says much before it fails."""
    script = folder / "nvcc"
    script.write_text(
        '#!/bin/sh\ncase "$1" in\n'
        "--version) echo release 13.0 ;;\n--list-gpu-arch) echo compute_90 ;;\n"
        '*) echo much to read; echo "a.cu(7): error: no such thing"; exit 2 ;;\nesac\n'
    )
    script.chmod(0o755)
    return str(script)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """build_if with a compiler that fails."""
    build_if: Any = BUILD["build_if"]
    nvcc = failing_compiler(tmp_path)
    monkeypatch.setitem(build_if.__globals__, "find_nvcc", lambda: nvcc)
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
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
    how, name, calls = BUILD["Plan"]("nvcc", None, []), BUILD["LIBRARY"], list[Path]()
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


def test_elsewhere_nothing_is_built_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that must be says so, and an unknown value is refused on every system."""
    setuptools = pytest.importorskip("setuptools")
    monkeypatch.setattr(setuptools, "setup", lambda **options: None)
    setup = runpy.run_path(str(ROOT / "setup.py"))
    command = setup["BuildExtension"]
    step: Any = command.build_cuda_library
    monkeypatch.setattr(step.__globals__["sys"], "platform", "darwin")
    for value, words in (("1", "is for Linux only"), ("yes", "allowed values are auto, 0, 1")):
        monkeypatch.setenv("YOLOV5_UTILS_CUDA", value)
        with pytest.raises(SystemExit, match=words):
            step(None)
    for value in ("0", "auto"):
        monkeypatch.setenv("YOLOV5_UTILS_CUDA", value)
        step(None)


def test_one_fails_loudly_without_nvcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    build_if: Any = BUILD["build_if"]
    monkeypatch.setitem(build_if.__globals__, "find_nvcc", lambda: None)
    with pytest.raises(SystemExit, match="YOLOV5_UTILS_CUDA=1: no nvcc was found"):
        build_if("1", tmp_path, tmp_path, strict=False, say=print)
