"""Builds the C extension. Knows nothing of torch: the extension meets torch at run time only."""

import os
import sys
import sysconfig
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
LIMITED_API = 0x030A0000  # CPython 3.10: the first stable ABI with METH_FASTCALL
WHEEL_TAG = "cp310"
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))  # no stable ABI there yet


def switch(name: str) -> bool:
    """A build switch of the environment: 0 or 1, anything else is an error."""
    value = os.environ.get(name, "0")
    if value not in ("0", "1"):
        sys.exit(f"{name}={value!r}: allowed values are 0, 1")
    return value == "1"


def version() -> str:
    for line in (ROOT / "yolov5_utils" / "__init__.py").read_text().splitlines():
        if line.startswith("__version__"):
            return line.split('"')[1]
    raise SystemExit("no __version__ in yolov5_utils/__init__.py")


def compile_arguments() -> tuple[list[str], list[str]]:
    """Compiler and linker arguments. -ffp-contract=off carries the promise of equal bits."""
    compile_args = [
        "-std=c11",
        "-O3",
        "-fvisibility=hidden",
        "-fno-math-errno",
        "-ffp-contract=off",
        "-Wall",
        "-Wextra",
        "-Wshadow",
        "-Wconversion",
        "-Wstrict-prototypes",
        "-Wmissing-prototypes",
    ]
    link_args: list[str] = []
    if switch("YOLOV5_UTILS_DEBUG"):
        compile_args += ["-O0", "-g3", "-UNDEBUG"]
    if switch("YOLOV5_UTILS_SANITIZE"):
        instrument = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g"]
        compile_args += instrument
        link_args += instrument
    if switch("YOLOV5_UTILS_COVERAGE"):
        compile_args += ["--coverage", "-O1"]
        link_args += ["--coverage"]
    if switch("YOLOV5_UTILS_WERROR"):
        compile_args += ["-Werror"]
    return compile_args, link_args


class BuildExtension(build_ext):
    """build_ext that rebuilds when any source or header changed: kernel files are included ones."""

    def build_extension(self, ext: Extension) -> None:
        ext.depends = [str(p) for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".inc")]
        super().build_extension(ext)


def licence() -> dict[str, str]:
    """PEP 639 where setuptools knows it (77 and later), the older field before that."""
    if int(setuptools.__version__.split(".")[0]) >= 77:
        return {"license_expression": "MIT"}
    return {"license": "MIT"}


compile_args, link_args = compile_arguments()
setup(
    version=version(),
    packages=setuptools.find_packages(include=["yolov5_utils", "yolov5_utils.*"]),
    package_data={"yolov5_utils": ["py.typed", "*.pyi"]},
    ext_modules=[
        Extension(
            "yolov5_utils._C",
            sources=sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.c")),
            include_dirs=["csrc"],
            define_macros=[] if FREE_THREADED else [("Py_LIMITED_API", hex(LIMITED_API))],
            extra_compile_args=compile_args,
            extra_link_args=link_args,
            libraries=["dl", "m"],
            py_limited_api=not FREE_THREADED,
        )
    ],
    options={} if FREE_THREADED else {"bdist_wheel": {"py_limited_api": WHEEL_TAG}},
    cmdclass={"build_ext": BuildExtension},
    **licence(),
)
