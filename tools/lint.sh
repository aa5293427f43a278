#!/usr/bin/env bash
# Every check that needs no test to run, on the C and the Python files: PYTHON=... tools/lint.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
bin=$(dirname "$(command -v "$python")")

mapfile -t c_files < <(git ls-files 'csrc/*.[ch]' 'csrc/*.inc' 'tests/*.[ch]')
mapfile -t c_sources < <(git ls-files 'csrc/*.c')
include=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')

echo "clang-format"
"$bin/clang-format" --dry-run -Werror "${c_files[@]}"
echo "ruff"
"$python" -m ruff format --check .
"$python" -m ruff check .
echo "mypy"
"$python" -m mypy
echo "clang-tidy"
clang-tidy --quiet "${c_sources[@]}" -- \
  -std=c11 -Icsrc "-I$include" -DPy_LIMITED_API=0x030A0000
for compiler in gcc clang; do
  echo "$compiler -Werror"
  CC=$compiler YOLOV5_UTILS_WERROR=1 "$python" setup.py -q build_ext \
    --build-temp "build/lint-$compiler" --build-lib "build/lint-$compiler"
done
echo "lint: all clean"
