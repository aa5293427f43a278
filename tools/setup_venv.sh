#!/usr/bin/env bash
# Makes a virtual environment ready for one task: tools/setup_venv.sh TASK NAME=VALUE...
# TASK is one of the extras in pyproject.toml (demo, test, lint, bench, nvcc), or "base" for none. The names
# are VENV, PYTHON, TORCH and PIP_ARGS, which the Makefile documents and hands over; variables of the environment
# that are called so belong to others. Where all is in place, it does nothing. Knows nothing of what the package
# contains.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/marker.sh

task=$1
shift
venv=.venv base_python=python3 torch='' pip_args=''
for setting in "$@"; do
  case $setting in
    VENV=?*) venv=${setting#*=} ;;
    PYTHON=?*) base_python=${setting#*=} ;;
    TORCH=*) torch=${setting#*=} ;;
    PIP_ARGS=*) pip_args=${setting#*=} ;;
    *)
      echo "error: $setting is no setting of $0" >&2
      exit 2
      ;;
  esac
done
case $venv in
  none) python=python base_python=python ;;
  /*) python=$venv/bin/python ;;
  *) python=$PWD/$venv/bin/python ;;
esac

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

[ -w . ] || fail "$PWD cannot be written to: work in a copy of it"

# What the machine must have

compiles() { # a C program that needs the C library's headers
  # shellcheck disable=SC2086  # CC may hold arguments
  printf '#include <stdio.h>\nint main(void) { return 0; }\n' |
    ${CC:-cc} -x c - -o /dev/null 2>/dev/null
}

missing_packages() { # Debian's names of what is missing, one a line
  local tool tools="git make" package=python3 include
  [ "$task" != lint ] || tools="git make gcc clang clang-tidy"
  for tool in $tools; do
    command -v "$tool" >/dev/null || echo "$tool"
  done
  compiles || printf '%s\n' gcc libc6-dev
  [[ ! ${base_python##*/} =~ ^python3\.[0-9]+$ ]] || package=${base_python##*/}
  if ! command -v "$base_python" >/dev/null; then
    printf '%s\n' "$package" "$package-dev" "$package-venv"
    return
  fi
  "$base_python" -c 'import venv, ensurepip' 2>/dev/null || echo "$package-venv"
  include=$("$base_python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
  [ -e "$include/Python.h" ] || echo "$package-dev"
}

check_machine() {
  local missing
  command -v "$base_python" >/dev/null || [[ $base_python =~ ^python3(\.[0-9]+)?$ ]] ||
    fail "PYTHON=$base_python: there is no such program"
  mapfile -t missing < <(missing_packages | sort -u)
  if [ "${#missing[@]}" -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing what is missing: ${missing[*]}"
    apt-get update || true # an old list may still do
    DEBIAN_FRONTEND=noninteractive \
      apt-get install -y --no-install-recommends "${missing[@]}" </dev/null
    mapfile -t missing < <(missing_packages | sort -u)
  fi
  if [ "${#missing[@]}" -gt 0 ]; then
    fail "missing on this machine: ${missing[*]}. On Debian and Ubuntu this installs it:
  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}"
  fi
  "$base_python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$("$base_python" --version) is too old; PYTHON=python3.x chooses another, 3.10 or later"
}

# The environment and its torch

pip() {
  "$python" -m pip --disable-pip-version-check "$@" </dev/null
}

torch_version() { # without the part after "+"; nothing where there is no torch
  "$python" -c 'from importlib.metadata import version; print(version("torch").partition("+")[0])' \
    2>/dev/null || true
}

python_version() {
  "$1" -c 'import sys; print(sys.version)' 2>/dev/null || true
}

need_setuptools() { # virtual environments of Python 3.12 and later have none
  "$python" -c 'import setuptools, wheel' 2>/dev/null || pip install -q setuptools wheel
}

check_owner() { # a folder of somebody else's is neither cleared nor installed into
  is_free "$venv" || is_ours "$venv" ||
    fail "$venv is there already, and nothing says that make made it: move it away, or choose another folder with
  VENV=..., or activate it and say VENV=none; if make made it (before it marked what it makes): touch $venv/$marker"
}

make_venv() {
  if [ "$(python_version "$python")" != "$(python_version "$base_python")" ]; then
    echo "making $venv with $("$base_python" --version)"
    remove_ours "$venv"
    make_ours "$venv"
    "$base_python" -m venv "$venv"
  fi
  if [ "$(torch_version)" != "$torch" ]; then
    # shellcheck disable=SC2086  # a list of arguments
    pip install $pip_args "torch==$torch"
  fi
}

check_active_venv() {
  local inside='import os, sys; sys.exit(sys.prefix == sys.base_prefix and "CONDA_PREFIX" not in os.environ)'
  { command -v python >/dev/null && python -c "$inside"; } ||
    fail "VENV=none works inside an active virtual environment only, and none is active"
  [ -n "$(torch_version)" ] || fail "VENV=none uses the environment's own torch, and it has none"
}

# The package and what the task needs beside it

fingerprint() { # of everything the extension is made from
  {
    python_version "$python"
    env | grep -E '^(CC|CFLAGS|LDFLAGS|YOLOV5_UTILS_(CUDA|DEBUG|SANITIZE|COVERAGE|WERROR)|CUDA_HOME|CUDA_PATH)=' | sort || true
    "$python" -c 'import runpy; print(runpy.run_path("cuda/build.py")["find_nvcc"]())'
    find csrc cuda setup.py pyproject.toml -type f -print0 | sort -z | xargs -0 cksum
  } | cksum
}

imported_from_here() { # by this environment, from elsewhere
  local where='import importlib.util as u; s = u.find_spec("yolov5_utils"); print(s.origin if s else "")'
  [ "$(cd / && "$python" -c "$where")" = "$PWD/yolov5_utils/__init__.py" ]
}

install_package() {
  local stamp=build/fingerprint now
  now=$(fingerprint)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$now" ] && compgen -G 'yolov5_utils/_C.*so' >/dev/null &&
    imported_from_here; then
    return
  fi
  echo "building the C extension, and the CUDA library where there is nvcc"
  need_setuptools
  make_ours build
  rm -f "$stamp"
  pip install -q --no-build-isolation --no-deps --editable .
  printf '%s\n' "$now" >"$stamp"
}

install_extra() { # never another torch than the one that is there
  [ "$task" != base ] || return 0
  local constraints=build/constraints.txt requirements
  printf 'torch==%s\n' "$(torch_version)" >"$constraints"
  mapfile -t requirements < <("$python" - "$task" <<'PYTHON'
import sys
from importlib.metadata import requires

for line in requires("yolov5-torch-utils"):
    requirement, _, marker = line.partition(";")
    if f'"{sys.argv[1]}"' in marker.replace("'", '"'):
        print(requirement.strip())
PYTHON
  )
  pip install -q --constraint "$constraints" "${requirements[@]}"
}

if [ "$venv" = none ]; then
  check_active_venv
  check_machine
else
  check_owner
  check_machine
  make_venv
fi
install_package
install_extra
