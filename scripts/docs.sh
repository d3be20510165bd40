#!/usr/bin/env bash
# Clones the last commit of this tree and types there every command of the README, the
# tutorial and all other pages, in order and slow ones included, comparing what they
# print with what the page shows.
#
#   scripts/docs.sh [-skip COMMAND]... [PAGE...]
#
# For example: scripts/docs.sh -skip 'make test' README.md docs/first-plugin.md
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dir=$(mktemp -d "${TMPDIR:-/tmp}/rollout-docs-XXXXXX")
trap 'rm -rf "$dir"' EXIT
go build -o "$dir/pages" ./internal/pages
git clone -q . "$dir/clone"
cd "$dir/clone"
"$dir/pages" -all "$@"
