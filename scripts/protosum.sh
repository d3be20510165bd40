#!/usr/bin/env bash
# Records the checksums of the wire contracts, the code generated from them and
# the generator's configuration in proto/SOURCES.sum. `make proto` calls it after
# generating; internal/lint compares without needing the generators.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

{
  echo buf.gen.yaml
  find proto -name '*.proto' -o -name '*.pb.go'
} | LC_ALL=C sort | xargs sha256sum >proto/SOURCES.sum.new
mv -f proto/SOURCES.sum.new proto/SOURCES.sum
