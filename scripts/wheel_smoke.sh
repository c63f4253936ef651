#!/usr/bin/env bash
# Build the wheel through the sdist, install it into an empty environment without torch and triton,
# and compile an example from a directory outside the repository.
# Usage: scripts/wheel_smoke.sh [VENV], the environment that has `build` and `hatchling`.
set -euo pipefail
cd "$(dirname "$0")/.."
repository=$PWD
venv=$repository/${1:-.venv}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH

say() { echo "==> $*"; }
fail() { echo "error: $*" >&2; exit 1; }

say "building the sdist, and the wheel from it"
"$venv/bin/python" -m build --no-isolation --outdir "$work/dist" . >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; fail "the wheel does not build"; }

say "installing the wheel into an empty environment"
"$venv/bin/python" -m venv "$work/venv"
install() { "$work/venv/bin/python" -m pip install --disable-pip-version-check -qq -c constraints.txt "$@"; }
# Compiling needs neither torch nor triton: install the wheel's other dependencies only.
"$work/venv/bin/python" - "$work"/dist/*.whl >"$work/light.txt" <<'PYTHON'
import sys
from email import message_from_bytes
from zipfile import ZipFile

wheel = ZipFile(sys.argv[1])
(metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
for requirement in message_from_bytes(wheel.read(metadata)).get_all("Requires-Dist"):
    if "extra ==" not in requirement and not requirement.startswith(("torch", "triton")):
        print(requirement)
PYTHON
install -r "$work/light.txt"
install --no-deps "$work"/dist/*.whl

say "compiling an example outside the repository"
cp examples/attention.napkin "$work"
cd "$work"
napkin=$work/venv/bin/napkin
"$napkin" compile attention.napkin --machine hopper -o out
for suffix in .py .pseudo.txt .cost.json; do
    [ -s "out/attention$suffix" ] || fail "compile wrote no out/attention$suffix"
done
"$napkin" explain N203 >/dev/null || fail "the wheel lacks docs/errors.md"
say "the wheel works: $(basename "$work"/dist/*.whl)"
