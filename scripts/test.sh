#!/usr/bin/env bash
# Vets and tests every Go module of the tree under the race detector. Packages
# without tests are left out of the report; vet has already compiled them.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if [ "${1:-}" != module ]; then
  exec "$here/modules.sh" "$here/test.sh" module
fi
if [ -z "$(go list ./... 2>/dev/null)" ]; then
  exit 0 # a module that holds a patched dependency only, built by others' tests
fi
# The race build of each dependency serves vet and test, so nothing is compiled twice.
go vet -race ./...
go test -race -vet=off -timeout 20m ./... | sed -u '/\[no test files\]$/d'
