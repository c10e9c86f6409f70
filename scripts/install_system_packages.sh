#!/usr/bin/env bash
# Install the system packages that halo-forge's tests need, where they are missing (Debian, Ubuntu).
#
# As root they are installed. Anyone else is told the command: tests of a compiler that is missing are skipped, each
# with its reason. SYSTEM_PACKAGES=keep leaves the machine as it is, as root too.
set -euo pipefail
missing=()
command -v gcc >/dev/null || missing+=(gcc libc6-dev)
command -v g++ >/dev/null || missing+=(g++)
command -v clang++ >/dev/null || missing+=(clang)
command -v go >/dev/null || missing+=(golang-go)
# rustup in root's home is out of reach for programs that run as another user: then the system's is needed as well.
case "$(command -v rustc || true)" in "" | ~root/*) [ -x /usr/bin/rustc ] || missing+=(rustc) ;; esac
# One of the two thread models is enough; the package without its name installs both.
command -v x86_64-w64-mingw32-g++ >/dev/null || missing+=(g++-mingw-w64-x86-64-win32)
command -v git >/dev/null || missing+=(git)
command -v python3 >/dev/null || missing+=(python3)
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
[ ${#missing[@]} -eq 0 ] && exit 0

command="apt-get install -y --no-install-recommends ${missing[*]}"
if [ "${SYSTEM_PACKAGES:-install}" = install ] && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "installing system packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    if apt-get update -qq && $command -qq; then exit 0; fi
    echo "note: apt-get failed, the tests go on without them"  # no network, or a release without one of them
fi
echo "note: not installed here: ${missing[*]}"
echo "  tests that need them are skipped; to run them too: sudo $command"
