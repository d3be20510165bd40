#!/usr/bin/env bash
# Runs the long fault tests. A row is a set of Go tests named after it: row R1 is
# every function TestR1 followed by a capital letter, in any module of the tree.
# POWER is TestPowerCut and what follows it, HOSTS is TestHosts and what follows it:
# they need root, and are part of all.
#
#   scripts/chaos.sh ROW [COUNT]   one row, for example R1 200
#   scripts/chaos.sh all           every row that has a test, with its full count
#
# COUNT reaches the tests as ROLLOUT_CHAOS_COUNT; left out, it is the row's full
# count below. The tests are the ones that `make test` runs with small counts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Rounds of a full run, where the scorecard asks for more than 100.
full_count() {
  case $1 in
    R1 | R7 | R13 | R23) echo 1000 ;;
    R10 | R11 | R16 | R18) echo 200 ;;
    R17) echo 500 ;;
    R14) echo 2 ;;
    R15) echo 10 ;; # minutes
    HOSTS) echo 20 ;;
    *) echo 100 ;;
  esac
}

# What follows Test in the names of row $1's functions.
name_of() {
  case $1 in
    POWER) echo PowerCut ;;
    HOSTS) echo 'Hosts[A-Z]' ;;
    *) echo "$1[A-Z]" ;;
  esac
}

test_files() {
  find . \( -name .git -o -name bin -o -name data -o -name testdata \) -prune -o -name '*_test.go' -print
}

# The directories that hold a test of row $1.
directories() {
  test_files | xargs -r grep -lE "^func Test$(name_of "$1")" | xargs -r -n1 dirname | LC_ALL=C sort -u
}

rows() {
  test_files | xargs -r grep -hoE '^func Test([RS][0-9]+[A-Z]|PowerCut|Hosts[A-Z])' |
    sed -E 's/^func Test([RS][0-9]+).*/\1/; s/^func TestPowerCut/POWER/; s/^func TestHosts.*/HOSTS/' | sort -u -V
}

# The directory of the module that directory $1 belongs to.
module_of() {
  local dir=$1
  while [ ! -e "$dir/go.mod" ]; do dir=$(dirname "$dir"); done
  printf '%s' "$dir"
}

run_row() {
  local row=$1 count=$2 dir failed=0 module
  printf '== %s, %s rounds\n' "$row" "$count"
  for dir in $(directories "$row"); do
    module=$(module_of "$dir")
    [ "$dir" != "$module" ] || dir=$module/.
    (cd "$module" && ROLLOUT_CHAOS_COUNT=$count go test -vet=off -v -count=1 -timeout 3h \
      -run "^Test$(name_of "$row")" "./${dir#"$module"/}" </dev/null) || failed=1
  done
  return $failed
}

known=$(rows)
row=${1:?usage: scripts/chaos.sh ROW|all [COUNT]}
row=${row^^}
if [ "$row" != ALL ]; then
  if ! grep -qx "$row" <<<"$known"; then
    printf 'chaos: no test is named Test%s...; rows with tests: %s\n' "$row" "$(tr '\n' ' ' <<<"$known")" >&2
    exit 1
  fi
  run_row "$row" "${2:-$(full_count "$row")}"
  exit
fi

failed=()
for row in $known; do
  run_row "$row" "$(full_count "$row")" || failed+=("$row")
done
if [ ${#failed[@]} -gt 0 ]; then
  printf 'chaos: failed: %s\n' "${failed[*]}" >&2
  exit 1
fi
printf 'chaos: every row passed: %s\n' "$(tr '\n' ' ' <<<"$known")"
