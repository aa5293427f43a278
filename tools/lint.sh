#!/usr/bin/env bash
# Every check that runs no test, on the C and the Python files: tools/lint.sh PYTHON
# Runs them all, also after one has failed, and says at the end which ones did.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$1
failed=()

check() { # NAME COMMAND...
  printf '%s\n' "--- $1"
  "${@:2}" || failed+=("$1")
}

format() { # the pinned one, installed beside this Python
  "$python" -c 'import sys, clang_format; sys.exit(clang_format.clang_format())' "$@"
}

build() { # COMPILER: with setup.py's flags and warnings, the warnings as errors
  CC=$1 YOLOV5_UTILS_WERROR=1 YOLOV5_UTILS_CUDA=0 "$python" setup.py -q build_ext \
    --build-temp "build/lint-$1" --build-lib "build/lint-$1"
}

tidy() { # one file a process: version 14 carries va_list states from one file into the next
  printf '%s\0' "${sources[@]}" |
    xargs -0 -P "$(nproc)" -I{} clang-tidy --quiet {} -- -std=c11 -Icsrc -Icuda "-I$include" \
      -DPy_LIMITED_API=0x030A0000 -DY5_CUDA_TOOLKIT=0 '-DY5_CUDA_ARCHITECTURES=""' 2> >(grep -v 'warnings\? generated' >&2)
}

builds() { # by both compilers at the same time
  local gcc status=0
  build gcc &
  gcc=$!
  build clang || status=1
  wait "$gcc" || status=1
  return $status
}

mapfile -t formatted < <(git ls-files '*.[ch]' '*.inc' '*.cu' '*.cuh' 'tests/emu/*.cpp')
mapfile -t sources < <(git ls-files 'csrc/*.c' 'cuda/*.c')
include=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')

check clang-format format --dry-run -Werror "${formatted[@]}"
check "ruff format" "$python" -m ruff format --check .
check "ruff check" "$python" -m ruff check .
check mypy "$python" -m mypy
check "a user's program, mypy" "$python" -m mypy --follow-imports silent --warn-unused-ignores tests/annotations/program.py
check "a user's program, pyright" "$python" -m basedpyright --level error --pythonpath "$(type -P "$python")" tests/annotations/program.py
check stubtest "$python" -m mypy.stubtest --mypy-config-file pyproject.toml yolov5_utils._C
check clang-tidy tidy
check "gcc and clang" builds

if [ ${#failed[@]} -gt 0 ]; then
  printf 'lint: failed: %s\n' "$(printf '%s, ' "${failed[@]}" | sed 's/, $//')" >&2
  exit 1
fi
echo "lint: all clean"
