#!/usr/bin/env bash
# Install missing system packages that halo-forge's tests need (Debian, Ubuntu).
#
# They are installed only as root; anyone else gets the command to run. Tests of a missing compiler are skipped, each
# with its reason. SYSTEM_PACKAGES=keep installs nothing, even as root.
set -euo pipefail
missing=()
command -v gcc >/dev/null || missing+=(gcc libc6-dev)
command -v g++ >/dev/null || missing+=(g++)
command -v clang++ >/dev/null || missing+=(clang)
command -v go >/dev/null || missing+=(golang-go)
# Programs that run as another user cannot reach rustup in root's home: then the system's rustc is needed as well.
case "$(command -v rustc || true)" in "" | ~root/*) [ -x /usr/bin/rustc ] || missing+=(rustc) ;; esac
# One of the two thread models is enough; the package without a thread model in its name installs both.
command -v x86_64-w64-mingw32-g++ >/dev/null || missing+=(g++-mingw-w64-x86-64-win32)
command -v chromium >/dev/null || missing+=(chromium)
command -v git >/dev/null || missing+=(git)
command -v python3 >/dev/null || missing+=(python3)
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
[ ${#missing[@]} -eq 0 ] && exit 0

install="apt-get install -y --no-install-recommends"
if [ "${SYSTEM_PACKAGES:-install}" = install ] && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "installing system packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    if apt-get update -qq; then
        $install -qq "${missing[@]}" && exit 0
        # One by one: a release that lacks one of them has the others.
        left=()
        for package in "${missing[@]}"; do $install -qq "$package" || left+=("$package"); done
        [ ${#left[@]} -eq 0 ] && exit 0
        missing=("${left[@]}")
    fi
    echo "note: apt-get failed, the tests run without what is missing"
fi
echo "note: not installed here: ${missing[*]}"
echo "  tests that need them are skipped; to run them too: sudo $install ${missing[*]}"
