"""The core without Python: its C test program built with setup.py's flags by gcc and clang, and run
plainly, under sanitizers and under valgrind, and for ARM on an emulated CPU; and what shows that
these checks can fail."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

from .building import (
    CORE,
    HERE,
    SOURCES,
    build_program,
    compile_objects,
    link_program,
    need,
    need_sanitizer,
    run,
    succeed,
)

LEVELS = ("portable", "neon", "avx2", "avx512")
QUICKLY = ("-O0", "-w")  # where neither speed nor warnings matter
OPERATIONS = ("ema", "sparsity", "prune", "prune_ties", "scale_img", "fuse", "mt19937", "races")
GROUPS = ("address_set", "half", "y5", "overlap", "parallel", "levels")


class Way(NamedTuple):
    """One way to build and run the test program, and what it must report when it is provoked."""

    compiler: str
    flags: tuple[str, ...] = ()
    library: str = ""  # gcc's, which must be there
    prefix: tuple[str, ...] = ()  # of the command
    arguments: tuple[str, ...] = ()
    reports: Mapping[str, str] = MappingProxyType({})  # mistake on purpose -> words of the report


WAYS = {
    "gcc": Way("gcc"),
    "clang": Way("clang"),
    "address": Way(
        "gcc",
        ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
        "libasan.so",
        reports={
            "overrun": "heap-buffer-overflow",
            "overflow": "signed integer overflow",
            "leak": "detected memory leaks",
        },
    ),
    "thread": Way(
        "gcc",
        ("-O1", "-g", "-fsanitize=thread"),
        "libtsan.so",
        arguments=("--brief",),
        reports={"race": "data race"},
    ),
    "valgrind": Way(
        "gcc",
        prefix=("valgrind", "-q", "--error-exitcode=99", "--leak-check=full"),
        arguments=("--brief", "--simulated", "avx2"),  # valgrind's CPU has no AVX-512
        reports={"overrun": "Invalid read", "leak": "definitely lost"},
    ),
    "arm": Way(
        "aarch64-linux-gnu-gcc",
        ("-static",),  # so that no ARM system is needed beside it
        prefix=("qemu-aarch64",),
        arguments=("--brief",),
    ),
}


def marks(way: str) -> list[pytest.MarkDecorator]:
    """The slowest checkers are for once a week; gcc's address sanitizer looks at every change."""
    return (
        [pytest.mark.long] if way in ("thread", "valgrind") else [pytest.mark.slow] * (way != "gcc")
    )


EVERY_WAY = [pytest.param(way, marks=marks(way)) for way in WAYS]
REPORTS = [
    pytest.param(name, mistake, marks=marks(name))
    for name, way in WAYS.items()
    for mistake in way.reports
]


class Programs:
    """The test program of each way, built and run when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs: dict[tuple[str, ...], Path] = {}
        self.outputs: dict[str, str] = {}

    def command(self, name: str) -> list[str | Path]:
        """How to call the program."""
        way = WAYS[name]
        for tool in (way.compiler, *way.prefix[:1]):
            need(tool)
        if way.library:
            need_sanitizer(way.library)
        recipe = (way.compiler, *way.flags)
        if recipe not in self.programs:
            into = self.folder / str(len(self.programs))
            into.mkdir()
            self.programs[recipe] = build_program(into, *recipe)
        return [*way.prefix, self.programs[recipe]]

    def output(self, name: str) -> str:
        """What it prints when every check passes."""
        command = self.command(name)
        if name not in self.outputs:
            done = run(*command, *WAYS[name].arguments)
            if "unexpected memory mapping" in done.stderr:
                pytest.skip("this kernel's address layout is unknown to ThreadSanitizer")
            assert done.returncode == 0, done.stdout + done.stderr
            self.outputs[name] = done.stdout
        return self.outputs[name]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return Programs(tmp_path_factory.mktemp("core"))


@pytest.mark.parametrize("way", EVERY_WAY)
def test_every_group_passes(programs: Programs, way: str) -> None:
    lines = programs.output(way).splitlines()
    assert [group for group in GROUPS if f"ok {group}" not in lines] == []


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("way", EVERY_WAY)
def test_operations_pass_at(programs: Programs, way: str, level: str) -> None:
    output = programs.output(way)
    skipped = re.search(rf"^SKIP ({level}: .*)", output, re.MULTILINE)
    if skipped:
        pytest.skip(skipped[1])
    passed = {f"ok {operation} {level}" for operation in OPERATIONS}
    assert passed <= set(output.splitlines())


@pytest.mark.parametrize(("way", "mistake"), REPORTS)
def test_the_checker_is_awake(programs: Programs, way: str, mistake: str) -> None:
    """The same build, run the same way, makes a mistake on purpose: it must be reported."""
    done = run(*programs.command(way), "--plant", mistake)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this kernel's address layout is unknown to ThreadSanitizer")
    assert done.returncode != 0
    assert WAYS[way].reports[mistake] in done.stderr


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Object files of the core and of its tests, compiled without Python's headers in reach."""
    folder = tmp_path_factory.mktemp("objects")
    compile_objects(SOURCES, folder, "gcc", *QUICKLY)
    return folder


def python_symbols(object_file: Path) -> list[str]:
    """Symbols an object wants from the Python library."""
    wanted = succeed(need("nm"), "-u", object_file).split()
    return [symbol for symbol in wanted if re.match(r"_?Py[A-Z_]", symbol)]


@pytest.mark.slow
def test_no_object_of_the_core_needs_python(objects: Path) -> None:
    stems = [source.stem for source in CORE.glob("*.c")]
    assert len(stems) > 4
    assert {stem: python_symbols(objects / f"{stem}.o") for stem in stems} == {
        stem: [] for stem in stems
    }


def test_a_need_of_python_is_noticed(tmp_path: Path) -> None:
    source = tmp_path / "needy.c"
    source.write_text("void PyErr_Clear(void);\nvoid f(void);\nvoid f(void) { PyErr_Clear(); }\n")
    compile_objects([source], tmp_path, "gcc", *QUICKLY)
    assert python_symbols(tmp_path / "needy.o") == ["PyErr_Clear"]


TAKE_A_TASK = "int64_t task = atomic_fetch_add_explicit(&work->next, 1, memory_order_relaxed);"
REMEMBER_THE_LAST_END = "range->end > written_until ? range->end : written_until"

DRAW_A_LAYER = "int64_t at = atomic_fetch_add_explicit(&work->next, 1, memory_order_relaxed);"

# One slip each that the tests must not let pass: file, its text, what it becomes, the test file.
SLIPS = (
    ("address_set.c", "put(&larger, set->slots[i]);", ";", "test_address_set.c"),
    ("address_set.c", " && set->slots[slot] != address", "", "test_address_set.c"),
    ("half.h", "magnitude + 0xfffU +", "magnitude + 0x1000U +", "test_half.c"),
    ("half.h", "magnitude < 0x38800000U", "magnitude < 0x38000000U", "test_half.c"),
    ("half.h", "+ 0x7fffU +", "+ 0x8000U +", "test_half.c"),
    ("y5.c", "expected == tensor->numel", "true", "test_y5.c"),
    ("y5.c", "a->strides[i] != b->strides[i]", "false", "test_y5.c"),
    ("y5.c", "lowest += reach < 0 ? reach : 0", "lowest += 0", "test_y5.c"),
    ("overlap.c", "8 * sizeof(uintptr_t)", "32", "test_overlap.c"),
    ("overlap.c", REMEMBER_THE_LAST_END, "range->end", "test_overlap.c"),
    ("overlap.c", "range->begin == range->end", "false", "test_overlap.c"),
    ("parallel.c", "drain(0, 1, &work);", "", "test_parallel.c"),
    ("parallel.c", TAKE_A_TASK, "int64_t task = 0;", "test_parallel.c"),
    ("parallel.c", "begin > starts[i] ? begin - starts[i] : 0", "0", "test_parallel.c"),
    ("parallel.c", "y5_float_state_swap(work->state)", "work->state", "test_parallel.c"),
    ("parallel.c", "return !work.differs;", "return true;", "test_parallel.c"),
    ("levels.c", "0x6000U", "0", "test_parallel.c"),
    ("levels.c", "0x8040U", "0x8000U", "test_parallel.c"),
    ("ema.c", "update_part(0, first,", "update_part(0, 0,", "test_ema.c"),
    ("ema.c", "1.0 - decay", "1.0F - (float)decay", "test_ema.c"),
    ("ema.c", "step <= reach", "step < reach", "test_ema.c"),
    ("ema.inc", "type kept = average[i] *", "double kept = (double)average[i] *", "test_ema.c"),
    ("ema.inc", "source += PLACES * apart", "source += apart", "test_ema.c"),
    ("ema.inc", "Y5_LEVEL(round_block)(out, count, dtype);", "", "test_ema.c"),
    ("ema.inc", "index * layout->source_strides[i]", "index", "test_ema.c"),
    ("sparsity.inc", "COUNT_WORDS(8, 255)", "COUNT_WORDS(8, 256)", "test_sparsity.c"),
    ("sparsity.inc", "COUNT_WORDS(16, 65535)", "COUNT_WORDS(16, 65536)", "test_sparsity.c"),
    ("sparsity.inc", "data += PLACES * apart", "data += apart", "test_sparsity.c"),
    ("items.h", "0x7f7f7f7f7f7f7f7fU", "UINT64_MAX", "test_sparsity.c"),
    ("prune_apply.inc", "wanted < last.equal", "wanted <= last.equal", "test_prune.c"),
    ("prune_apply.inc", "&& limit != 0 &&", "&&", "test_prune.c"),
    ("prune_apply.inc", "wanted > 0 && length < count", "wanted > 0", "test_races.c"),
    ("prune.c", DRAW_A_LAYER, DRAW_A_LAYER.replace("= ", "= 1 + "), "test_prune.c"),
    ("prune_ties.c", "last[-1 - i] < beyond", "last[-1 - i] < lowest", "test_prune_ties.c"),
    ("prune_ties.c", "cut <= nth", "cut < nth", "test_prune_ties.c"),
    ("prune_ties.c", "right[right_done] : 0", "right[0] : 0", "test_prune_ties.c"),
    ("prune_ties.c", "key > 0x7f800000U ? 0x7f800001U : key", "key", "test_prune_ties.c"),
    ("prune_ties.c", "depth-- == 0", "depth-- == 1", "test_prune_ties.c"),
    ("prune_ties.c", "layer->numel / HEAP_SHARE", "layer->numel / 32", "test_prune_ties.c"),
    ("scale_img.inc", "place < 0.0F ? 0.0F : place", "place", "resize_oracle.c"),
    ("scale_img.inc", "(size_t)(room - at)", "(size_t)(room - at - 1)", "resize_oracle.c"),
    ("scale_img.inc", "*made_from != inputs[i]", "*made_from == NULL", "resize_oracle.c"),
    ("scale_img.inc", "(u, MULTIPLY(down, left))", "(MULTIPLY(u, down), left)", "resize_oracle.c"),
    ("scale_img.c", "is_last ? used : end", "end", "resize_oracle.c"),
    ("scale_img.c", "resized[0] < 1 ||", "", "test_scale_img.c"),
    ("scale_img.inc", "plane % job->channels <", "plane <", "resize_oracle.c"),
    ("scale_img.inc", "? weight : 1.0F - weight", "? 1.0F - weight : weight", "resize_oracle.c"),
    ("mt19937.c", "draws < left", "draws <= left", "test_mt19937.c"),
    ("mt19937.c", "left == 1 &&", "", "test_mt19937.c"),
    ("mt19937.c", "1 + behind / Y5_MT19937_WORDS", "draws / Y5_MT19937_WORDS", "test_mt19937.c"),
    ("mt19937.inc", "i < LAST;", "i < LAST - 1;", "test_mt19937.c"),
    ("mt19937.inc", "(words[LAST], words[0])", "(words[LAST], words[LAST])", "test_mt19937.c"),
)


# The same in what is compiled for ARM only.
ARM_SLIPS = (
    ("ema.inc", "vld1_u16(in + i)", "vld1_u16(in)", "test_ema.c"),
    ("ema.inc", "vcvt_f16_f32(vld1q_f32(in + i))", "vcvt_f16_f32(vld1q_f32(in))", "test_ema.c"),
    ("scale_img.inc", "vfmaq_f32(c, a, b)", "vaddq_f32(c, vmulq_f32(a, b))", "resize_oracle.c"),
    ("scale_img.inc", "vld1q_u8(window + 16)", "vld1q_u8(window)", "resize_oracle.c"),
    ("scale_img.inc", "row[seconds[3]]", "row[seconds[2]]", "resize_oracle.c"),
    ("prune_select.inc", "{1, 2, 4, 8}", "{1, 2, 8, 4}", "test_prune.c"),
    ("levels.c", "0x01000001U", "0x00000001U", "test_parallel.c"),
    ("levels.c", "0x06c80006U", "0x06080006U", "test_parallel.c"),
)


def name_slips(slips: tuple[tuple[str, ...], ...]) -> list[str]:
    return [f"{slip[0]}-{i}" for i, slip in enumerate(slips)]


@pytest.mark.long  # one build and run for each
@pytest.mark.parametrize(("name", "text", "slip", "noticed_by"), SLIPS, ids=name_slips(SLIPS))
def test_a_slip_in_the_core_is_noticed(
    objects: Path, tmp_path: Path, name: str, text: str, slip: str, noticed_by: str
) -> None:
    notice(WAYS["gcc"], objects, tmp_path, name, text, slip, noticed_by)


@pytest.fixture(scope="module")
def arm_objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arm_objects")
    compile_objects(SOURCES, folder, WAYS["arm"].compiler, *QUICKLY)
    return folder


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "text", "slip", "noticed_by"), ARM_SLIPS, ids=name_slips(ARM_SLIPS)
)
def test_a_slip_on_arm_is_noticed(
    arm_objects: Path, tmp_path: Path, name: str, text: str, slip: str, noticed_by: str
) -> None:
    notice(WAYS["arm"], arm_objects, tmp_path, name, text, slip, noticed_by)


def notice(
    way: Way, objects: Path, tmp_path: Path, name: str, text: str, slip: str, noticed_by: str
) -> None:
    """The program with the slip, built and run that way, fails in the file that tests it."""
    for tool in way.prefix[:1]:
        need(tool)
    core = tmp_path / "csrc" / "core"
    shutil.copytree(CORE, core)
    original = (core / name).read_text()
    assert text in original, "the slip no longer fits; choose another one"
    (core / name).write_text(original.replace(text, slip, 1))
    includers = {"half.h": HERE / "test_half.c", "items.h": core / "sparsity.c"}
    stem = re.sub("_(apply|select)$", "", Path(name).stem)
    source = includers.get(name, core / f"{stem}.c")
    shutil.copytree(objects, tmp_path / "objects")
    into = tmp_path / "objects"
    compile_objects([source], into, way.compiler, *QUICKLY, f"-I{tmp_path / 'csrc'}")
    done = run(*way.prefix, link_program(into, way.compiler, *way.flags), "--brief")
    assert done.returncode == 1
    assert re.search(rf"{noticed_by}:\d+: ", done.stderr), done.stderr
