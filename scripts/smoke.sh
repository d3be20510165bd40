#!/usr/bin/env bash
# Builds the programs and the smoke driver, then runs the driver with the arguments given.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

make build
go build -o bin/smoke ./internal/smoke
exec bin/smoke "$@"
