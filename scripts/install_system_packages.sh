#!/usr/bin/env bash
# Install the system packages that halo-forge and its tests need, where they are missing (Debian, Ubuntu).
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
command -v make >/dev/null || missing+=(make)
command -v git >/dev/null || missing+=(git)
command -v python3 >/dev/null || missing+=(python3)
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
[ ${#missing[@]} -eq 0 ] && exit 0
sudo=""
[ "$(id -u)" -eq 0 ] || sudo=sudo
$sudo apt-get update -qq
$sudo apt-get install -y -qq --no-install-recommends "${missing[@]}"
