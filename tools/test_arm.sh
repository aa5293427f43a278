#!/usr/bin/env bash
# The extension on aarch64, cross-compiled and run on an emulated CPU: tools/test_arm.sh [RELEASE]. Without torch on
# Debian's or Ubuntu's own Python for ARM, then the smoke tests on a release of torch for it, default 2.9.1 (the last
# whose build for ARM has no CUDA in it). Installs what is missing as root; ARM's packages only into a folder that is
# removed again.
set -euo pipefail
unset CDPATH PIP_PREFIX PIP_ROOT PIP_TARGET PIP_USER # as in the Makefile
cd "$(dirname "${BASH_SOURCE[0]}")/.."
torch=${1:-2.9.1}

missing=()
command -v aarch64-linux-gnu-gcc >/dev/null || missing+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
command -v qemu-aarch64 >/dev/null || missing+=(qemu-user)
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update || echo "apt-get update failed; going on with the lists there are"
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" </dev/null
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

get_python() { # and all it needs, by apt with lists of its own
  local options=(-q -y -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$work/state"
    -o Dir::State::status="$work/state/status" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root)
  mkdir -p "$work"/{state/lists/partial,cache/archives/partial,root,bin}
  touch "$work/state/status"
  apt-get "${options[@]}" update
  apt-get "${options[@]}" install --download-only --no-install-recommends python3 libstdc++6 libgomp1 </dev/null
  for each in "$work"/cache/archives/*.deb; do
    dpkg-deb -x "$each" "$work/root"
  done
}

make_program() { # that runs this Python, also from itself
  local found=("$work"/root/usr/bin/python3.*[0-9])
  cat >"$work/bin/python3" <<SCRIPT
#!/bin/sh
PYTHONHOME="$work/root/usr" exec qemu-aarch64 -L "$work/root" -0 "$work/bin/python3" "${found[0]}" "\$@"
SCRIPT
  chmod +x "$work/bin/python3"
  release=${found[0]##*/python}
}

build() { # into a folder with the package
  mkdir -p "$work/site"
  cp -r yolov5_utils tests pyproject.toml "$work/site" # whose options pytest takes
  rm -f "$work"/site/yolov5_utils/*.so
  CC=aarch64-linux-gnu-gcc LDSHARED="aarch64-linux-gnu-gcc -shared" YOLOV5_UTILS_CUDA=0 \
    python3 setup.py -q build_ext --build-temp "$work/temp" --build-lib "$work/site"
}

get_torch() { # pip asks this machine what a package needs, so all are named
  python3 -m pip install -q --no-deps --no-cache-dir --target "$work/packages" --only-binary=:all: \
    --python-version "$release" --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 \
    "torch==$torch" numpy typing_extensions sympy mpmath networkx jinja2 markupsafe filelock fsspec \
    pytest iniconfig pluggy packaging pygments </dev/null
}

get_python
make_program
build
(cd "$work/site" && PYTHONPATH="$work/site" "$work/bin/python3" tests/robustness/torch_free.py)
get_torch
cd "$work/site"
export PYTHONPATH=$work/site:$work/packages
"$work/bin/python3" -m pytest -q -p no:cacheprovider tests/smoke
"$work/bin/python3" -m yolov5_utils info
