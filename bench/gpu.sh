#!/usr/bin/env bash
# Everything there is to measure on a machine with an NVIDIA GPU, in under 8 minutes: correctness at
# FLASH and PRO, segments, tiles, both schedules, replayed graphs, rivals and the swimlane.
#
#     bench/gpu.sh [--dry-run] [FOLDER]
#
# Needs torch, upstream Triton, rich, pytest, pytest-benchmark and matplotlib in .venv, or else in
# python3 (PYTHON=... names another); installs nothing and needs no network. Leaves bench.json,
# swimlane.json, two pictures, table.md and a log per step in FOLDER, by default
# bench/results/<device>-<date>. --dry-run does the same on a CPU, at sizes for a CPU: it tries the
# script, and its numbers say nothing about a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
limit_s=470  # what is not done by then is stopped, and said to be missing

dry_run=false
if [ "${1:-}" = --dry-run ]; then
    dry_run=true
    shift
    limit_s=1200
fi

missing=$("$python" - <<'PY'
from importlib.util import find_spec
needed = ("torch", "triton", "rich", "pytest", "pytest_benchmark", "matplotlib")
print(*(name for name in needed if find_spec(name) is None))
PY
)
if [ -n "$missing" ]; then
    echo "bench/gpu.sh: $python lacks: $missing" >&2
    exit 2
fi

device=$("$python" - <<'PY'
import re
import torch
name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
print(re.sub(r"[^a-z0-9]+", "-", name.lower()))
PY
)
tokens=128
allow_cpu=()
if $dry_run; then
    export CUDA_VISIBLE_DEVICES=  # the same everywhere
    device=dry-run-cpu
    tokens=4
    allow_cpu=(--cpu)
elif [ "$device" = cpu ]; then
    echo "bench/gpu.sh: no GPU here; --dry-run tries the script on the CPU" >&2
    exit 2
fi
out=${1:-bench/results/$device-$(date +%Y-%m-%d)}
mkdir -p "$out"

failed=()
step() {  # NAME COMMAND...: runs within what is left of the time, and goes on if it fails
    local name=$1 left=$((limit_s - SECONDS))
    shift
    echo "== $name (at ${SECONDS} s)"
    # INT, so that pytest still writes the results that it has.
    if [ "$left" -le 0 ] || ! timeout -k 20 -s INT "$left" "$@" >"$out/$name.log" 2>&1; then
        failed+=("$name")
        echo "   failed, see $out/$name.log"
        [ ! -f "$out/$name.log" ] || tail -n 15 "$out/$name.log"
    fi
}

step environment "$python" -m torch.utils.collect_env
step correct-flash "$python" -m dsv4_kernels demo --preset FLASH --tokens "$tokens"
step correct-pro "$python" -m dsv4_kernels demo --preset PRO --tokens "$tokens"
# What the targets need comes first.
step bench "$python" -m pytest bench/bench_rivals.py bench/bench_segments.py bench/bench_chain.py \
    "${allow_cpu[@]}" --benchmark-json "$out/bench.json" --benchmark-quiet -rs --durations=10
step report "$python" -m bench.report "$out/bench.json" --markdown "$out/table.md" \
    --png "$out/bench.png"
step swimlane "$python" -m dsv4_kernels swimlane --tokens "$tokens" --json "$out/swimlane.json" \
    --png "$out/swimlane.png"

grep SKIPPED "$out/bench.log" || true  # what could not run, and why
[ ! -f "$out/report.log" ] || cat "$out/report.log"
if $dry_run; then
    echo "dry run on the CPU: no GPU was measured; graph replay was skipped, a CPU has no graphs"
fi
echo "in $out after ${SECONDS} s"
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
