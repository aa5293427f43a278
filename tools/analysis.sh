#!/usr/bin/env bash
# The static analysers that take minutes, each finding an error: tools/analysis.sh PYTHON
# clang-tidy's checks, clang's analyser among them, are part of tools/lint.sh. Findings that are none
# are suppressed at their line, with the reason.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
include=$("$1" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
mapfile -t sources < <(git ls-files 'csrc/*.c' 'cuda/*.c')
flags=(-std=c11 -Icsrc -Icuda "-I$include" -DPy_LIMITED_API=0x030A0000 -DY5_CUDA_TOOLKIT=0 '-DY5_CUDA_ARCHITECTURES=""')
failed=()
for tool in gcc cppcheck; do
  command -v "$tool" >/dev/null || { echo "analysis: $tool is not installed" >&2 && exit 1; }
done

check() { # NAME COMMAND...
  printf '%s\n' "--- $1"
  "${@:2}" || failed+=("$1")
}

each() { # COMMAND...: with one file after it, on all cores
  printf '%s\0' "${sources[@]}" | xargs -0 -P "$(nproc)" -n 1 "$@"
}

check "gcc -fanalyzer" each gcc "${flags[@]}" -O1 -fanalyzer -Werror -S -o /dev/null
check cppcheck cppcheck -q --std=c11 --error-exitcode=1 --inline-suppr -j "$(nproc)" \
  --enable=warning,portability,performance -Icsrc -Icuda -DPy_LIMITED_API=0x030A0000 \
  -DY5_CUDA_TOOLKIT=0 '-DY5_CUDA_ARCHITECTURES=""' -D__x86_64__ -D__GNUC__=12 "${sources[@]}"

if [ ${#failed[@]} -gt 0 ]; then
  printf 'analysis: failed: %s\n' "$(printf '%s, ' "${failed[@]}" | sed 's/, $//')" >&2
  exit 1
fi
echo "evidence: static analysis: ${#sources[@]} files, 0 findings of gcc -fanalyzer and cppcheck"
