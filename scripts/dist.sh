#!/usr/bin/env bash
# Makes release archives that are the same to the bit wherever they are made from the
# same commit with the same Go and C compiler.
#
#   scripts/dist.sh [PLATFORM...]       dist/rollout-VERSION-PLATFORM.tar.gz and dist/SHA256SUMS
#   scripts/dist.sh pack STAGE TARBALL  the archive of one directory
#   scripts/dist.sh check               makes those of the last commit twice, in two
#                                       directories, and compares
#
# PLATFORM is os/arch, by default this machine's. Another one is built without cgo: its
# worker runs sidecars, and refuses plugins that would be loaded into it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PATH:/usr/local/go/bin" LC_ALL=C TZ=UTC

# The moment that every file of an archive carries: that of the commit.
epoch() { printf '%s' "${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}"; }

# pack STAGE TARBALL: names in order, one owner, one time, plain modes.
pack() {
  tar --create --sort=name --format=gnu --owner=0 --group=0 --numeric-owner \
    --mode='u=rwX,go=rX' --mtime="@$(epoch)" \
    --directory "$(dirname "$1")" "$(basename "$1")" | gzip -n -9 >"$2.partial"
  mv "$2.partial" "$2"
}

# programs PLATFORM DIR: the three programs, stamped, without paths of this machine.
programs() {
  local goos=${1%/*} goarch=${1#*/} cgo=0
  [ "$1" != "$host" ] || cgo=1
  make build GOOS="$goos" GOARCH="$goarch" CGO_ENABLED="$cgo" BIN="$2" STRIP='-s -w'
}

# stage PLATFORM DIR: everything that one archive holds.
stage() {
  local dir=$2 shell
  mkdir -p "$dir/bin" "$dir/include" "$dir/python/rollout_plugin" "$dir/completions" "$dir/systemd"
  programs "$1" "$dir/bin"
  cp LICENSE NOTICE README.md CHANGELOG.md "$dir/"
  cp include/rollout_plugin.h "$dir/include/"
  cp python/rollout_plugin/*.py "$dir/python/rollout_plugin/"
  cp deploy/systemd/* "$dir/systemd/"
  # What each program is made of: modules with versions and sums, and build settings.
  (cd "$dir/bin" && go version -m coordinator worker rollout) >"$dir/MODULES"
  for shell in bash zsh fish; do
    "$native/rollout" completion "$shell" >"$dir/completions/rollout.$shell"
  done
}

dist() {
  local platform name
  rm -rf dist
  mkdir -p dist
  native=$work/native
  mkdir -p "$native"
  programs "$host" "$native"
  for platform in "${@:-$host}"; do
    name=rollout-$version-${platform/\//-}
    [ "$platform" = "$host" ] || name+=-nocgo
    stage "$platform" "$work/$name"
    pack "$work/$name" "dist/$name.tar.gz"
  done
  (cd dist && sha256sum -- *.tar.gz >SHA256SUMS)
  cat dist/SHA256SUMS
}

# check makes the archives of the last commit in two directories, in the second with an
# empty build cache.
check() {
  git clone --quiet --no-hardlinks . "$work/one"
  git clone --quiet --no-hardlinks . "$work/another/two"
  "$work/one/scripts/dist.sh"
  GOCACHE=$work/cache "$work/another/two/scripts/dist.sh"
  if ! diff "$work/one/dist/SHA256SUMS" "$work/another/two/dist/SHA256SUMS"; then
    printf 'dist: two builds of one commit differ\n' >&2
    exit 1
  fi
  printf 'dist: two builds of one commit are the same to the bit\n'
}

work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
umask 022

case ${1:-} in
  pack) pack "$2" "$3" ;;
  check) check ;;
  *)
    host=$(go env GOHOSTOS)/$(go env GOHOSTARCH)
    version=$(git describe --tags --always --abbrev=12 --dirty 2>/dev/null || echo unknown)
    dist "$@"
    ;;
esac
