#!/usr/bin/env bash
# Runs a command once in each Go module of the tree, the root module first:
#
#   scripts/modules.sh COMMAND [ARG]...
#
# A command that fails stops the run with its exit status.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find . \( -name .git -o -name bin -o -name data -o -name testdata \) -prune -o -name go.mod -print |
  LC_ALL=C sort | while read -r mod; do
  (cd "$(dirname "$mod")" && "$@" </dev/null)
done
