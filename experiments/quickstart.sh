#!/usr/bin/env bash
# From a fresh clone to a trained model: installs what is needed, builds, writes the King James Bible to runs/kjv.txt and
# trains experiments/quickstart.yaml on it, every sequence spread over two MPI ranks. Each call makes a new run folder.
# Arguments are passed on to `longhaul train`, for example --set schedule.steps=50.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash setup.sh

echo '== build (build/release/longhaul)'
mkdir -p build runs
if ! { cmake --preset release && cmake --build --preset release --target longhaul --parallel "$(nproc)"; } >build/quickstart.log 2>&1; then
    tail -n 40 build/quickstart.log >&2
    echo 'quickstart: the build failed, see build/quickstart.log' >&2
    exit 1
fi

text=runs/kjv.txt
if [ ! -s "$text" ]; then
    if ! command -v bible >/dev/null; then
        echo "quickstart: the program 'bible' is missing (Debian: bible-kjv); or put any large text at $text" >&2
        exit 1
    fi
    echo "== text ($text)"
    # -f: one verse a line; without it the lines depend on the width of the terminal
    bible -f gen1:1-rev22:21 >"$text.part"
    mv "$text.part" "$text"
fi

n=1
while [ -e "runs/quickstart-$n" ]; do n=$((n + 1)); done
run=runs/quickstart-$n

# Open MPI wants to be told about root, about fewer cores than ranks, and, in containers that forbid one process to read
# another's memory, to copy through shared memory. Ranks are not bound, so that each uses its share of all processors.
launch=(mpirun -n 2)
if mpirun --version 2>/dev/null | grep -q 'Open MPI\|OpenRTE'; then
    launch+=(--bind-to none)
    cores=$(lscpu -p=CORE,SOCKET 2>/dev/null | grep -v '^#' | sort -u | wc -l)
    [ "$cores" -gt 0 ] || cores=$(nproc)
    if [ "$cores" -lt 2 ] || [ "$(nproc)" -lt 2 ]; then launch+=(--oversubscribe); fi
    if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
    if [ -e /.dockerenv ] || [ -e /run/.containerenv ] || grep -qE 'Seccomp:[[:space:]]+2' /proc/self/status 2>/dev/null; then
        export OMPI_MCA_btl_vader_single_copy_mechanism=none
    fi
fi

# the launcher puts a pipe between the program and the terminal: tell it that there is one
if [ -t 2 ] && [ -z "${LONGHAUL_PROGRESS-}" ]; then export LONGHAUL_PROGRESS=live; fi

echo "== train ($run)"
"${launch[@]}" build/release/longhaul train experiments/quickstart.yaml --set "run.name=quickstart-$n" "$@"

bits=$(grep '"event": *"eval"' "$run/metrics.jsonl" | tail -n 1 | sed -n 's/.*"bits_per_byte": *\([-+.0-9eE]*\).*/\1/p')
bytes=$(wc -c <"$text")
packed=$(gzip -9 -c "$text" | wc -c)
awk -v bits="$bits" -v bytes="$bytes" -v packed="$packed" -v run="$run" 'BEGIN {
    printf "validation  %.3f bits per byte (the last 5 %% of the text, never trained on)\n", bits
    printf "gzip -9     %.3f bits per byte (the whole text)\n", 8 * packed / bytes
    printf "run folder  %s\n", run
}'
