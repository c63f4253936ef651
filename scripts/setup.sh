#!/usr/bin/env bash
# Make the virtual environment and install napkin into it, editable, with its development tools.
# Usage: scripts/setup.sh [VENV]. Set PYTHON to choose the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

say() { echo "==> $*"; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.14; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.11 or later found; install one, or name it: make PYTHON=/path/to/python3" >&2
    return 1
}

# Install a system package where that is possible without asking anybody.
install_system_package() {
    local as_root=()
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null || return 1
        as_root=(sudo -n)
    fi
    say "installing the system package $1"
    "${as_root[@]}" apt-get update -qq >"$log" 2>&1 || true # an old list may do
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$1" >"$log" 2>&1 </dev/null
}

make_venv() {
    [ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1 && return
    local python
    python=$(find_python)
    say "making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv" >"$log" 2>&1 && return
    # Debian ships Python without ensurepip; a package of its own holds it.
    install_system_package "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" ||
        install_system_package python3-venv || true
    "$python" -m venv --clear "$venv" || {
        echo "error: $python cannot make a virtual environment; on Debian or Ubuntu: apt install python3-venv" >&2
        return 1
    }
}

pip_install() { "$venv/bin/python" -m pip install --disable-pip-version-check -qq -c constraints.txt "$@"; }

# Where the default index has only the CUDA build of torch, whose triton is another than the
# pinned one, the resolution fails and the CPU build comes from torch's own index.
install_napkin() {
    say "installing napkin and its tools (torch, when not there yet, takes minutes)"
    pip_install -e '.[dev]' >"$log" 2>&1 && return
    say "trying again with torch's index of CPU builds"
    pip_install -e '.[dev]' --extra-index-url https://download.pytorch.org/whl/cpu && return
    echo "error: the first try had failed with:" >&2
    tail -n 20 "$log" >&2
    return 1
}

check_dot() {
    command -v dot >/dev/null && return
    install_system_package graphviz && return
    echo "note: the program \`dot\`, which draws the pictures, is missing and could not be installed;" >&2
    echo "      install graphviz: apt install graphviz, dnf install graphviz, or apk add graphviz" >&2
}

make_venv
install_napkin
check_dot
say "ready: $venv/bin/napkin"
