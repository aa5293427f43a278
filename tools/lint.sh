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

tidy() { # one file at a time: version 14 carries va_list states from one file into the next
  local source status=0
  for source in "${sources[@]}"; do
    clang-tidy --quiet "$source" -- -std=c11 -Icsrc -Icuda "-I$include" -DPy_LIMITED_API=0x030A0000 \
      2> >(grep -v 'warnings\? generated' >&2) || status=1
  done
  return $status
}

mapfile -t formatted < <(git ls-files '*.[ch]' '*.inc' '*.cu' '*.cuh' 'tests/emu/*.cpp')
mapfile -t sources < <(git ls-files 'csrc/*.c')
include=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')

check clang-format format --dry-run -Werror "${formatted[@]}"
check "ruff format" "$python" -m ruff format --check .
check "ruff check" "$python" -m ruff check .
check mypy "$python" -m mypy
check clang-tidy tidy
check gcc build gcc
check clang build clang

if [ ${#failed[@]} -gt 0 ]; then
  printf 'lint: failed: %s\n' "$(printf '%s, ' "${failed[@]}" | sed 's/, $//')" >&2
  exit 1
fi
echo "lint: all clean"
