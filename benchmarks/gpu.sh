#!/usr/bin/env bash
# On a machine with one NVIDIA GPU: tests of the kernels, their speed, and fits up to the paper's 1000³ cell.
#
#   bash benchmarks/gpu.sh OUT [stages]
#
# OUT gets gpu.json and a log for each stage (benchmarks/gpu.py says what the stages are); a stage is stopped after
# SECONDS_EACH, a fit that was stopped is gone on with by the next call, and a stage that fails leaves the others alone.
# In pieces of less than ten minutes:
#
#   bash benchmarks/gpu.sh OUT tests kernels steps
#   bash benchmarks/gpu.sh OUT simulate:256 fit:256 simulate:512 fit:512
#   bash benchmarks/gpu.sh OUT simulate:1000
#   bash benchmarks/gpu.sh OUT fit:1000          # again, until gpu.json says that it was not interrupted
#
# PYTHON        a Python whose torch sees the GPU; .venv/bin/python, python3, or a new one in WORK if not given.
#               Packages that it lacks are installed into it, torch stays as it is.
# WHEELS        folder of wheels, on a machine without a network
# WORK          folder for cells and runs (20 GB), kept between calls; in the system's temporary folder if not given
# SECONDS_EACH  480 if not given
set -euo pipefail

if [ $# -lt 1 ]; then
    sed -n '2,19p' "$0" >&2
    exit 1
fi
out="$1"
shift
root="$(cd "$(dirname "$0")/.." && pwd)"
work="${WORK:-${TMPDIR:-/tmp}/tiltfield-gpu}"
if [ $# -eq 0 ]; then
    set -- tests kernels steps simulate:256 fit:256 simulate:512 fit:512 simulate:1000 fit:1000
fi

sees_gpu() { "$1" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; }

python=""
for candidate in ${PYTHON:-"$root/.venv/bin/python" python3}; do
    if sees_gpu "$candidate"; then
        python="$candidate"
        break
    fi
done
if [ -z "$python" ] && [ -z "${PYTHON:-}" ] && nvidia-smi -L 2>/dev/null | grep -q GPU; then
    python="$work/venv/bin/python" # there is a GPU, but no torch for it
    [ -x "$python" ] || python3 -m venv "$work/venv"
    "$python" -m pip install -q -c "$root/constraints.txt" torch
    sees_gpu "$python" || python=""
fi
if [ -z "$python" ]; then
    echo "no NVIDIA GPU that torch sees (asked: ${PYTHON:-.venv/bin/python, python3}): name a Python with a CUDA torch" \
        "as PYTHON" >&2
    exit 2
fi

# What the project needs besides torch, of what this Python lacks.
mapfile -t missing < <("$python" - "$root/pyproject.toml" <<'PY'
import importlib.metadata
import importlib.util
import re
import sys
import tomllib

project = tomllib.load(open(sys.argv[1], "rb"))["project"]
wanted = [*project["dependencies"], *project["optional-dependencies"].get("gpu", ["triton>=3"]), "pytest>=8"]
for requirement in wanted:
    name = re.match(r"[A-Za-z0-9_.-]+", requirement)[0]
    if name == "triton" and importlib.util.find_spec(name):  # comes with torch, under other names, too
        continue
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        print(requirement)
PY
)
if [ ${#missing[@]} -gt 0 ]; then
    pins="$(mktemp)"
    trap 'rm -f "$pins"' EXIT
    "$python" -c 'import torch; print("torch==" + torch.__version__)' >"$pins"
    from=()
    if [ -n "${WHEELS:-}" ]; then
        from=(--no-index --find-links "$WHEELS")
    fi
    "$python" -m pip install -q "${from[@]}" -c "$pins" "${missing[@]}"
fi

export PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" "$root/benchmarks/gpu.py" "$@" --out "$out" --work "$work" --seconds "${SECONDS_EACH:-480}"
