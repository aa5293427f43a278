#!/usr/bin/env bash
# The smoke tests, and each hot path's way and speed, on other releases of torch: tools/test_torch.sh RELEASE...
# A release is a number (2.4.1), "oldest", "newest", "today" (one by the date), or "all": of those that pip can install
# here the last one of each 1.x and 2.x. Every release, with each Python, gets an environment of its own, in the user's
# cache and several GB large, which is removed after its run unless KEEP=1 is among the arguments; so are PYTHON=... and
# PIP_ARGS=..., as the Makefile documents them. What was measured stays in the cache; "all" makes a table of it in docs/.
set -euo pipefail
unset CDPATH PIP_PREFIX PIP_ROOT PIP_TARGET PIP_USER # as in the Makefile
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/marker.sh

python=python3 pip_args='' keep=0 wanted=()
for argument in "$@"; do
  case $argument in
    PYTHON=?*) python=${argument#*=} ;;
    PIP_ARGS=*) pip_args=${argument#*=} ;;
    KEEP=[01]) keep=${argument#*=} ;;
    oldest | newest | today | all | [0-9]*.*) wanted+=("$argument") ;;
    *)
      echo "error: $argument is neither a release of torch nor a setting of $0" >&2
      exit 2
      ;;
  esac
done
[ ${#wanted[@]} -gt 0 ] || {
  echo "usage: $0 RELEASE..., as 2.4.1, oldest, newest, today or all" >&2
  exit 2
}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/yolov5_utils
mkdir -p "$cache"
release_of_python=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
export PIP_DISABLE_PIP_VERSION_CHECK=1

at_least() { # RELEASE RELEASE
  printf '%s\n%s\n' "$2" "$1" | sort -C -V
}

newest() { # that pip would install, whatever limits it
  # shellcheck disable=SC2086  # a list of arguments
  "$python" -m pip install -q --dry-run --no-deps --ignore-installed --report - $pip_args torch </dev/null |
    "$python" -c 'import json, sys; print(json.load(sys.stdin)["install"][0]["metadata"]["version"].partition("+")[0])'
}

releases() { # from 1.13 to the newest, the last one of each x.y, in order
  local last
  last=$(newest)
  # shellcheck disable=SC2086  # a list of arguments
  "$python" -m pip index versions $pip_args torch 2>/dev/null </dev/null | sed -n 's/^Available versions: //p' |
    tr -d ' ' | tr , '\n' | sed 's/+.*//' | sort -rV | while read -r release; do
    if at_least "$release" 1.13 && at_least "$last" "$release"; then echo "$release"; fi
  done | awk -F. '!seen[$1 "." $2]++' | sort -V
}

test_with() { # RELEASE
  local name="torch-$1-python-$release_of_python" status=0
  local venv=$cache/$name
  local more=(pytest numpy)
  at_least "$1" 2.3 || more=(pytest 'numpy<2') # those know the first numpy's interface only
  is_free "$venv" || is_ours "$venv" || {
    echo "error: $venv is there already, and nothing says that this made it: move it away" >&2
    return 1
  }
  if [ ! -e "$venv/installed" ]; then
    remove_ours "$venv"
    make_ours "$venv"
    # shellcheck disable=SC2086  # a list of arguments
    "$python" -m venv "$venv" &&
      "$venv/bin/python" -m pip install -q --no-cache-dir $pip_args "torch==$1" "${more[@]}" </dev/null &&
      touch "$venv/installed" || status=1
  fi
  [ $status != 0 ] || "$venv/bin/python" -m pytest -q tests/smoke || status=1
  [ $status != 0 ] || "$venv/bin/python" -m tests.smoke.speed "$cache/$name.json" || status=1
  [ $keep = 1 ] || remove_ours "$venv"
  return $status
}

mapfile -t known < <(releases)
[ ${#known[@]} -gt 0 ] || {
  echo "error: pip finds no torch from 1.13 on for $("$python" --version)" >&2
  exit 1
}
chosen=()
for each in "${wanted[@]}"; do
  case $each in
    oldest) chosen+=("${known[0]}") ;;
    newest) chosen+=("${known[-1]}") ;;
    today) chosen+=("${known[$(($(date +%s) / 86400 / 7 % ${#known[@]}))]}") ;; # another one each week
    all) chosen+=("${known[@]}") ;;
    *) chosen+=("$each") ;;
  esac
done

mapfile -t chosen < <(printf '%s\n' "${chosen[@]}" | sort -u -V)
failed=()
for each in "${chosen[@]}"; do
  printf '\n=== torch %s\n' "$each"
  begin=$SECONDS
  test_with "$each" || failed+=("$each")
  echo "torch $each: $((SECONDS - begin)) s"
done
if [[ " ${wanted[*]} " == *" all "* ]]; then
  "$python" -m tests.smoke.table docs/torch-releases.md "$cache"/torch-*-python-*.json
fi
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed on torch ${failed[*]}" >&2
  exit 1
fi
