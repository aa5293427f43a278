"""Builds the C extension, and the CUDA library beside it where that is wanted. Knows nothing of
torch: both meet torch at run time only."""

import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

STARTUP = "yolov5_utils_overlay.pth"  # read by every start of Python, next to the package
LIMITED_API = 0x030A0000  # CPython 3.10: the first stable ABI with METH_FASTCALL
WHEEL_TAG = "cp310"

TO_BE_READ = ("YOLOV5_UTILS_SANITIZE", "YOLOV5_UTILS_COVERAGE")  # builds that reports name lines of

WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wconversion",
    "-Wstrict-prototypes",
    "-Wmissing-prototypes",
]


def switch(name: str) -> bool:
    """A build switch of the environment: 0 or 1, anything else is an error."""
    value = os.environ.get(name, "0")
    if value not in ("0", "1"):
        sys.exit(f"{name}={value!r}: allowed values are 0, 1")
    return value == "1"


def cuda_switch() -> str:
    """YOLOV5_UTILS_CUDA: whether the CUDA library is built; anything unknown is an error."""
    value = os.environ.get("YOLOV5_UTILS_CUDA", "auto")
    if value not in ("auto", "0", "1"):
        sys.exit(f"YOLOV5_UTILS_CUDA={value!r}: allowed values are auto, 0, 1")
    return value


def compiler_arguments() -> tuple[list[str], list[str]]:
    """What the compiler and the linker get. -ffp-contract=off carries the promise of equal bits."""
    compiling = ["-std=c11", "-O3", "-fvisibility=hidden", "-fno-math-errno", "-ffp-contract=off"]
    compiling += WARNINGS
    linking: list[str] = []
    if switch("YOLOV5_UTILS_DEBUG"):
        compiling += ["-O0", "-g3", "-UNDEBUG"]
    elif not any(map(switch, TO_BE_READ)):
        linking += ["-s"]  # no symbols but the exported one: a quarter of the size
    if switch("YOLOV5_UTILS_SANITIZE"):
        instrument = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g"]
        compiling += instrument
        linking += instrument
    if switch("YOLOV5_UTILS_COVERAGE"):
        compiling += ["--coverage", "-O1"]
        linking += ["--coverage"]
    if switch("YOLOV5_UTILS_WERROR"):
        compiling += ["-Werror"]
    return compiling, linking


def check_folder() -> None:
    """A build writes into the folder it builds from, as setuptools does before anything else."""
    if not os.access(".", os.W_OK):
        sys.exit(f"yolov5_utils: {Path.cwd()} cannot be written to: build from a copy of it")


def check_python() -> None:
    """Others have no stable ABI, and nobody has tried the extension there."""
    if sys.implementation.name != "cpython":
        sys.exit(f"yolov5_utils: {sys.implementation.name} is not supported: use CPython")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        sys.exit("yolov5_utils: free-threaded Python is not supported: use one that has the GIL")


def check_platform(platform: str) -> None:
    """One sentence where nobody has tried what would be built."""
    if platform != "linux":
        system = {"darwin": "macOS", "win32": "Windows"}.get(platform, platform)
        sys.exit(f"yolov5_utils: {system} is not supported: it builds and runs on Linux only")


class BuildExtension(build_ext):
    """build_ext that always compiles: kernels are included files, and switches change the flags."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.force = True

    def build_extension(self, ext: Extension) -> None:
        check_platform(sys.platform)
        check_machine(self.compiler.compiler_so)
        self.drop_inexact()
        ext.extra_compile_args, ext.extra_link_args = compiler_arguments()
        super().build_extension(ext)
        self.build_cuda_library()

    def drop_inexact(self) -> None:
        """What CC, CFLAGS and LDFLAGS hold that would change results, which one line says."""
        exact = runpy.run_path("cuda/build.py")["exact"]
        dropped = []
        for name in ("compiler_so", "linker_so"):
            words = getattr(self.compiler, name)
            kept = exact(words)
            dropped += [word for word in words if word not in kept]
            setattr(self.compiler, name, kept)
        if dropped:
            print(f"without {' '.join(dict.fromkeys(dropped))}: results would differ", flush=True)

    def build_cuda_library(self) -> None:
        """Puts the library beside the extension, or nothing; one line says which."""
        wanted = cuda_switch()
        runpy.run_path("cuda/build.py")["build_if"](
            wanted,
            self.cuda_library().parent,
            Path("build/cuda"),  # not build_temp, which pip throws away: this takes minutes
            strict=switch("YOLOV5_UTILS_WERROR"),
            say=lambda line: print(line, flush=True),
        )

    def copy_extensions_to_source(self) -> None:
        """For an editable installation: the CUDA library too, or none where none was built."""
        super().copy_extensions_to_source()
        built = self.cuda_library()
        beside = Path(self.get_finalized_command("build_py").get_package_dir("yolov5_utils"))
        target = beside / built.name
        if built.exists() and built.resolve() != target.resolve():
            shutil.copyfile(built, target)
        elif not built.exists():
            target.unlink(missing_ok=True)

    def cuda_library(self) -> Path:
        """Where the CUDA library is built, if it is."""
        name = os.path.join(*self.extensions[0].name.split(".")[:-1], "libyolov5_utils_cuda.so")
        return Path(self.build_lib) / name

    def get_outputs(self) -> list[str]:
        """Also the CUDA library, so that wheels and installations have it."""
        library = self.cuda_library()
        return [*super().get_outputs(), *([str(library)] if library.exists() else [])]


class BuildPython(build_py):
    """build_py that puts the start-up file beside the package, where Python looks for it."""

    def run(self) -> None:
        super().run()
        if not getattr(self, "editable_mode", False):
            self.copy_file(STARTUP, os.path.join(self.build_lib, STARTUP))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        outputs: list[str] = super().get_outputs(include_bytecode)
        if not getattr(self, "editable_mode", False):
            outputs.append(os.path.join(self.build_lib, STARTUP))
        return outputs


def check_machine(compiler: list[str]) -> None:
    """Ends in one line that names the packages where there is no compiler, or are no headers."""
    debian, fedora = [], []
    program = "#include <stdio.h>\nint main(void) { return 0; }\n"
    try:
        command = [*compiler, "-fsyntax-only", "-x", "c", "-"]
        works = subprocess.run(command, input=program, capture_output=True, text=True, check=False)
    except OSError:
        works = None
    if works is None or works.returncode:
        debian += ["gcc", "libc6-dev"]
        fedora += ["gcc", "glibc-devel"]
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        debian += ["python{}.{}-dev".format(*sys.version_info)]
        fedora += ["python3-devel"]
    if debian:
        sys.exit(
            "yolov5_utils: a C compiler and Python's headers are needed. What is missing: "
            f"apt-get install {' '.join(debian)} (Debian, Ubuntu), "
            f"dnf install {' '.join(fedora)} (Fedora)"
        )


def licence() -> dict[str, str]:
    """PEP 639's field where setuptools knows it (77 and later), the older one before that."""
    if int(setuptools.__version__.split(".")[0]) >= 77:
        return {"license_expression": "MIT"}
    return {"license": "MIT"}


check_folder()
check_python()
setup(
    ext_modules=[
        Extension(
            "yolov5_utils._C",
            sources=sorted(path.as_posix() for path in Path("csrc").rglob("*.c")),
            include_dirs=["csrc", "cuda"],
            define_macros=[("Py_LIMITED_API", hex(LIMITED_API))],
            libraries=["dl", "m"],  # libdl: where dlopen lives in glibc before 2.34
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": WHEEL_TAG}},
    cmdclass={"build_ext": BuildExtension, "build_py": BuildPython},
    **licence(),
)
