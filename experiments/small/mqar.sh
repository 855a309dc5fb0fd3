#!/usr/bin/env bash
# Associative recall by mechanism (mqar.yaml): full attention with 2, then 4 pairs and nothing else; then every mechanism at length 64
# from these weights, 500 steps each; last, its accuracy at shorter lengths. Seven minutes on one core.
. "$(dirname "${BASH_SOURCE[0]}")/study.sh"
study_train mqar mqar-2
study_row mqar-2 accuracy loss
study_train mqar mqar-4 --set run.init=runs/mqar-2/checkpoints/step-00001500.h5 --set run.seed=2 --set data.length=16 \
    --set data.pairs=4 --set schedule.steps=2000 --set optimizer.lr=3e-3
study_row mqar-4 accuracy loss
arm() {
    study_train mqar "mqar-$1" --set run.init=runs/mqar-4/checkpoints/step-00002000.h5 --set run.seed=3 --set data.length=64 \
        --set data.pairs=4 --set schedule.kind=cosine --set schedule.steps=500 --set optimizer.lr=2e-3 \
        --set "model.attention={mechanism: $2}"
    study_row "mqar-$1" accuracy loss
}
arm full full
arm window 'sliding_window, window: 8'
arm window-global 'sliding_window, window: 8, global: [0, 1, 2, 3]'
arm performer 'performer, features: 64'
arm performer-relu 'performer, kernel: relu, features: 64'
# how far from the pairs: the same weights at shorter lengths, whose questions are nearer
for length in 16 24 32 64; do
    for name in full window window-global performer performer-relu; do
        printf 'length %s %-16s' $length $name
        ${LAUNCH-} "${LONGHAUL:-build/release/longhaul}" eval runs/mqar-$name --set data.length=$length |
            sed -n 's/.*"accuracy": *\([0-9.]*\).*/accuracy \1/p'
    done
done
