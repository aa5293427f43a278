#!/usr/bin/env bash
# The unit tests on Debian's own torch (1.13 in Debian 12), tensors through capsules and no thread pool:
# tools/test_debian.sh ARGUMENT... for pytest. Uses Debian's python3, NumPy and pytest; installs what is missing
# as root. Works on a copy of the tree, since the extension is built in place.
set -euo pipefail
unset CDPATH PIP_PREFIX PIP_ROOT PIP_TARGET PIP_USER # as in the Makefile
cd "$(dirname "${BASH_SOURCE[0]}")/.."

packages=(python3-torch python3-numpy python3-pytest python3-pytest-xdist python3-hypothesis python3-matplotlib
  python3-setuptools python3-wheel python3-venv python3-dev)
mapfile -t missing < <(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' "${packages[@]}" 2>&1 |
  sed -n 's/^dpkg-query: no packages found matching //p; t; s/^[^i]. *//p')
if [ "${#missing[@]}" -gt 0 ]; then
  apt-get update || echo "apt-get update failed; going on with the lists there are"
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" </dev/null
fi

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf - | tar -xf - -C "$copy"
cd "$copy"
/usr/bin/python3 -m venv --system-site-packages .venv
export YOLOV5_UTILS_CUDA=0 # this torch knows no GPU
export PATH=$copy/.venv/bin:$PATH VIRTUAL_ENV=$copy/.venv
tools/setup_venv.sh base VENV=none
python -m pytest tests/unit -n auto "$@"
