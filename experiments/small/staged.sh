#!/usr/bin/env bash
# Staged training against training at the final size (staged.yaml). About four minutes.
. "$(dirname "${BASH_SOURCE[0]}")/study.sh"
study_text

# phase ARM NUMBER RATE [--set K=V]... - the weights are those of the phase before; the seed gives other samples to each.
phase() {
    local arm=$1 k=$2 rate=$3
    shift 3
    if [ "$k" -gt 1 ]; then set -- "$@" --set "run.init=runs/staged-$arm-$((k - 1))/checkpoints/step-00000500.h5"; fi
    study_train staged "staged-$arm-$k" --set "run.seed=$k" --set "optimizer.lr=$rate" "$@"
    study_row "staged-$arm-$k" loss bits_per_byte
}

phase grow 1 4e-3 --set data.length=128 --set data.batch=16 --set model.attention.window=8
phase grow 2 2e-3 --set data.length=256 --set data.batch=8 --set model.attention.window=16
phase grow 3 1e-3
phase full 1 4e-3
phase full 2 2e-3
phase full 3 1e-3
