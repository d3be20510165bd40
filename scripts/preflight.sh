#!/usr/bin/env bash
# Checks what building and testing need, installs what is missing, then runs
# the command given as arguments, if any:
#
#   scripts/preflight.sh [COMMAND [ARG]...]
#
# Needed: go (the version of go.mod), a C compiler with libc headers, make, and
# a Python >= 3.11 whose shared library is installed. What is missing comes from
# apt when this runs as root or with a password-less sudo; otherwise the exact
# packages are named on stderr and the exit status is 1. It never reads stdin.
#
# When the first python3 on PATH is not the usable one, COMMAND sees a PATH in
# front of which bin/preflight/python3 starts the usable one.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=$PATH:/usr/local/go/bin # the place of the upstream archive, often left off PATH
export PATH

say() { printf 'preflight: %s\n' "$*" >&2; }

# The minor version of Go that go.mod asks for: "go 1.26.0" gives 26.
go_minor_needed() {
  local word version rest
  while read -r word version rest; do
    if [ "$word" = go ]; then
      version=${version#1.}
      printf '%s' "${version%%.*}"
      return
    fi
  done <"$root/go.mod"
}

# go_minor VERSION: the minor version in the text "go1.26.8", nothing for other text.
go_minor() {
  [[ $1 =~ ^go1\.([0-9]+) ]] && printf '%s' "${BASH_REMATCH[1]}"
}

# Sets go_found to the usable Go's version, or go_why to what is wrong. An older Go
# that may fetch toolchains is asked for the one go.mod names.
check_go() {
  local needed have minor
  go_found='' go_why='go is not on PATH'
  needed=$(go_minor_needed)
  command -v go >/dev/null || return 1
  have=$(cd / && GOTOOLCHAIN=local GOFLAGS='' go env GOVERSION 2>/dev/null) || have=unknown
  minor=$(go_minor "$have") || minor=0
  if [ "$minor" -lt "$needed" ]; then
    go_why="$(command -v go) is $have, and go.mod asks for 1.$needed or newer"
    have=$(cd "$root" && GOFLAGS='' go env GOVERSION </dev/null 2>/dev/null) || return 1
    minor=$(go_minor "$have") || return 1
    [ "$minor" -ge "$needed" ] || return 1
  fi
  go_found=$have
}

# Sets cc_found to a compiler that compiles and links a program with libc headers.
check_cc() {
  local name dir
  cc_found='' cc_why='no C compiler (cc, gcc or clang) is on PATH'
  dir=$(mktemp -d)
  printf '#include <stdlib.h>\n#include <pthread.h>\nint main(void) { return EXIT_SUCCESS; }\n' >"$dir/a.c"
  for name in ${CC:-} cc gcc clang; do
    command -v "$name" >/dev/null || continue
    cc_why="$name cannot compile and link a C program: the libc headers are missing"
    if "$name" -o "$dir/a" "$dir/a.c" -lpthread -ldl >/dev/null 2>&1 </dev/null; then
      cc_found=$name
      break
    fi
  done
  rm -rf "$dir"
  [ -n "$cc_found" ]
}

# Prints "yes|no VERSION LIBRARY grpc|-" for an interpreter: whether it is new
# enough and its shared library is there. The interpreter itself is asked, so
# version-manager shims are seen through.
ask_python() {
  "$1" -c '
import importlib.util, os, sys, sysconfig
var = sysconfig.get_config_var
lib = os.path.join(var("LIBDIR") or "", var("INSTSONAME") or "")
ok = sys.version_info >= (3, 11) and ".so" in lib and os.path.exists(lib)
print("yes" if ok else "no", "%d.%d.%d" % sys.version_info[:3], lib or "-",
      "grpc" if importlib.util.find_spec("grpc") else "-")
' 2>/dev/null </dev/null
}

# Sets py_found, py_version, py_lib and py_grpc to the first usable interpreter on PATH: python3 of
# each directory in turn, then versioned names. py_first tells whether it is what "python3" means.
check_python() {
  local dir name candidate answer dirs seen='' first=''
  py_found='' py_why='no python3 is on PATH'
  first=$(command -v python3) || first=''
  IFS=: read -r -a dirs <<<"$PATH"
  for name in python3 python3.11 python3.12 python3.13 python3.14 python3.15; do
    for dir in "${dirs[@]}"; do
      candidate=$dir/$name
      [ -x "$candidate" ] || continue
      case ":$seen:" in *":$candidate:"*) continue ;; esac
      seen=$seen:$candidate
      answer=$(ask_python "$candidate") || continue
      read -r py_ok py_version py_lib py_grpc <<<"$answer"
      if [ "$py_ok" = yes ]; then
        py_found=$candidate
        py_first=no
        [ "$candidate" != "$first" ] || py_first=yes
        return 0
      fi
      py_why="$candidate is $py_version with shared library $py_lib, which is too old (3.11 is needed) or not installed"
    done
  done
  return 1
}

# Runs apt-get as root, without questions and without stdin; its output goes to stderr.
apt() {
  local as=()
  [ "$(id -u)" = 0 ] || as=(sudo -n)
  "${as[@]}" env DEBIAN_FRONTEND=noninteractive timeout 900 \
    apt-get -q -y -o DPkg::Lock::Timeout=120 "$@" </dev/null >&2
}

may_install() {
  command -v apt-get >/dev/null || return 1
  [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null </dev/null; }
}

updated=no
install() {
  say "installing $*"
  if [ "$updated" = no ]; then
    updated=yes
    apt update || say "apt-get update failed, trying with the lists that are there"
  fi
  apt install --no-install-recommends "$@" || say "apt-get install $* failed"
}

# The package that holds Debian's shared library, named after the version of its python3.
libpython_package() {
  local version
  version=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || version=3.11
  printf 'libpython%s' "$version"
}

# Go reads the certificates of the machine to fetch modules. Where they are missing
# they are installed if possible; it is no reason to stop, since the modules may
# have been downloaded before.
provide_certificates() {
  local file
  for file in "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt /etc/ssl/cert.pem /etc/ssl/ca-bundle.pem /etc/pki/tls/certs/ca-bundle.crt; do
    [ ! -s "$file" ] || return 0
  done
  if may_install; then
    install ca-certificates
  else
    say "no CA certificates: Go cannot download modules until the package ca-certificates is installed"
  fi
}

install_missing() {
  may_install || return 0
  [ -n "$cc_found" ] || install gcc libc6-dev
  [ -n "$make_found" ] || install make
  [ -n "$go_found" ] || install golang-go
  if [ -z "$py_found" ]; then
    install python3
    check_python || install "$(libpython_package)"
  fi
  check_all || true
}

check_all() {
  make_found=$(command -v make) || make_found=''
  check_go || true
  check_cc || true
  check_python || true
  [ -n "$go_found" ] && [ -n "$cc_found" ] && [ -n "$make_found" ] && [ -n "$py_found" ]
}

explain() {
  local packages=()
  [ -n "$go_found" ] || say "missing: Go 1.$(go_minor_needed) or newer ($go_why). Get it from https://go.dev/dl/ and put its bin directory on PATH"
  if [ -z "$cc_found" ]; then
    say "missing: a C compiler ($cc_why)"
    packages+=(gcc libc6-dev)
  fi
  if [ -z "$make_found" ]; then
    say "missing: make"
    packages+=(make)
  fi
  if [ -z "$py_found" ]; then
    say "missing: Python >= 3.11 with its shared library ($py_why)"
    packages+=(python3 "$(libpython_package)")
  fi
  if [ ${#packages[@]} -gt 0 ]; then
    say "install with: apt-get install -y ${packages[*]}   (as root; on another system, its packages of the same purpose)"
  fi
}

# What is optional and absent, in one line; nothing of it is fetched.
absent_optional() {
  local absent=()
  command -v protoc >/dev/null || absent+=("protoc (buf compiles the contracts)")
  [ "$py_grpc" = grpc ] || absent+=("grpcio (gRPC-mode Python plugins)")
  command -v rustc >/dev/null || absent+=("rustc (Rust plugins)")
  [ -e /dev/nvidiactl ] || absent+=("a GPU")
  [ ${#absent[@]} -eq 0 ] || printf '; optional and not here:'
  local i
  for i in "${!absent[@]}"; do
    [ "$i" -eq 0 ] || printf ','
    printf ' %s' "${absent[i]}"
  done
}

provide_certificates
if ! check_all; then
  install_missing
  if [ -z "$go_found" ] || [ -z "$cc_found" ] || [ -z "$make_found" ] || [ -z "$py_found" ]; then
    explain
    exit 1
  fi
fi
say "$go_found, $cc_found, make, python $py_version ($py_lib)$(absent_optional)"

if [ "$py_first" = no ]; then
  mkdir -p "$root/bin/preflight"
  printf '#!/bin/sh\nexec "%s" "$@"\n' "$py_found" >"$root/bin/preflight/python3.$$"
  chmod 755 "$root/bin/preflight/python3.$$"
  mv -f "$root/bin/preflight/python3.$$" "$root/bin/preflight/python3"
  PATH=$root/bin/preflight:$PATH
fi
if [ $# -gt 0 ]; then
  exec "$@"
fi
