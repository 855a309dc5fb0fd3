#!/usr/bin/env bash
# Associative recall by mechanism (mqar.yaml): full attention at length 16 from nothing, then every mechanism at length 64 from
# these weights, 600 steps each. Five minutes on one core.
. "$(dirname "${BASH_SOURCE[0]}")/study.sh"
study_train mqar mqar-16
study_row mqar-16 accuracy loss
arm() {
    study_train mqar "mqar-$1" --set run.init=runs/mqar-16/checkpoints/step-00004000.h5 --set run.seed=2 --set data.length=64 \
        --set schedule.kind=cosine --set schedule.steps=600 --set optimizer.lr=2e-3 --set train.eval_every=200 \
        --set checkpoint.every=600 --set "model.attention={mechanism: $2}"
    study_row "mqar-$1" accuracy loss
}
arm full full
arm window 'sliding_window, window: 8'
arm window-global 'sliding_window, window: 8, global: [0, 1, 2, 3]'
arm performer 'performer, features: 64'
# how far from the pairs: the same weights at shorter lengths, and so at nearer questions
for length in 16 24 32 48 64; do
    for name in full window window-global performer; do
        printf 'length %s %s ' $length $name
        ${LAUNCH-} "${LONGHAUL:-build/release/longhaul}" eval runs/mqar-$name --set data.length=$length |
            sed -n 's/.*"accuracy": *\([0-9.]*\).*/accuracy \1/p'
    done
done
