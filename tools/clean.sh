#!/usr/bin/env bash
# Removes what the Makefile's other targets made, and nothing else: tools/clean.sh VENV
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/marker.sh

[ -w . ] || {
  echo "error: $PWD cannot be written to" >&2
  exit 1
}
for folder in build dist demo_output .venv-bench .venv-clients "$1"; do
  [ "$folder" = none ] || remove_ours "$folder"
done
rm -f yolov5_utils/_C.*so yolov5_utils/libyolov5_utils_cuda.so
rm -rf yolov5_torch_utils.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
find benchmarks cuda examples tests tools yolov5_utils -name __pycache__ -prune -exec rm -rf {} +
