#!/usr/bin/env bash
# What the mechanisms' operations take on one core of this machine, for longhaul-sim --rates: one line a mechanism.
#   bash experiments/simulated_rates.sh build/release/longhaul > rates.jsonl
set -eu
here=$(cd "$(dirname "$0")" && pwd)
longhaul=${1:-$here/../build/release/longhaul}
export OMP_NUM_THREADS=1
for attention in '{mechanism: full}' '{mechanism: sliding_window, window: 512}' '{mechanism: performer, features: 256}'; do
    mpirun -n 1 "$longhaul" bench step "$here/simulated.yaml" --set data.length=4096 --set "model.attention=$attention" \
        --repeats "${REPEATS:-3}" --products 1
done
mpirun -n 1 "$longhaul" bench step "$here/simulated.yaml" --set data.length=4096 --set model.kind=encoder \
    --set data.task=masked_text --set 'model.attention={mechanism: linformer, k: 256}' --repeats "${REPEATS:-3}" --products 1
