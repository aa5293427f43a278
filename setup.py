"""Builds the C extension. Knows nothing of torch: the extension meets torch at run time only."""

import os
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
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))  # no stable ABI there yet

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


def compiler_arguments() -> tuple[list[str], list[str]]:
    """What the compiler and the linker get. -ffp-contract=off carries the promise of equal bits."""
    compiling = ["-std=c11", "-O3", "-fvisibility=hidden", "-fno-math-errno", "-ffp-contract=off"]
    compiling += WARNINGS
    linking: list[str] = []
    if switch("YOLOV5_UTILS_DEBUG"):
        compiling += ["-O0", "-g3", "-UNDEBUG"]
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


class BuildExtension(build_ext):
    """build_ext that always compiles: kernels are included files, and switches change the flags."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.force = True

    def build_extension(self, ext: Extension) -> None:
        if self.compiler.compiler_type == "msvc":
            ext.extra_compile_args = ["/std:c11", "/O2", "/fp:precise"]
        else:
            ext.extra_compile_args, ext.extra_link_args = compiler_arguments()
        super().build_extension(ext)


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


def libraries() -> list[str]:
    """libm on Unix; on Linux also libdl, where dlopen lives when glibc is older than 2.34."""
    if sys.platform == "win32":
        return []
    return ["dl", "m"] if sys.platform == "linux" else ["m"]


def licence() -> dict[str, str]:
    """PEP 639's field where setuptools knows it (77 and later), the older one before that."""
    if int(setuptools.__version__.split(".")[0]) >= 77:
        return {"license_expression": "MIT"}
    return {"license": "MIT"}


setup(
    ext_modules=[
        Extension(
            "yolov5_utils._C",
            sources=sorted(path.as_posix() for path in Path("csrc").rglob("*.c")),
            include_dirs=["csrc"],
            define_macros=[] if FREE_THREADED else [("Py_LIMITED_API", hex(LIMITED_API))],
            libraries=libraries(),
            py_limited_api=not FREE_THREADED,
        )
    ],
    options={} if FREE_THREADED else {"bdist_wheel": {"py_limited_api": WHEEL_TAG}},
    cmdclass={"build_ext": BuildExtension, "build_py": BuildPython},
    **licence(),
)
