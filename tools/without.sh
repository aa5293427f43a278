#!/usr/bin/env bash
# Runs a command as on a machine that lacks some programs: tools/without.sh "PROGRAM..." COMMAND...
# Its PATH is one folder of links to all others. Versions go with their program: clang hides clang-14 too.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
IFS=: read -r -a places <<<"$PATH"
for place in "${places[@]}"; do
  find -L "$place" -maxdepth 1 -type f -executable -exec ln -st "$folder" {} + 2>/dev/null || true # the first one counts
done
for program in $1; do
  rm -f "$folder/$program" "$folder/$program"-*
done
PATH=$folder "${@:2}"
