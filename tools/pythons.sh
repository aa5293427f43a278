#!/usr/bin/env bash
# The Pythons at hand that the package supports, one of each release, also those that pyenv keeps: their paths, oldest
# first. CPython with its GIL, as setup.py asks. tools/pythons.sh [PREFERRED...]
set -euo pipefail

known='import sys, sysconfig, venv, ensurepip
sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED") or sys.exit(1)
print("%d.%02d %s" % (*sys.version_info[:2], sys.executable))'

for each in "$@" python3.{10..19} "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3; do
  "$each" -c "$known" 2>/dev/null || true
done | while read -r release path; do
  [[ $release < 3.10 ]] || printf '%s %s\n' "$release" "$path"
done | sort -s -u -k1,1 | cut -d' ' -f2-
