#!/usr/bin/env bash
# Fewer key/value heads by conversion (uptrain.yaml): right after it (a step of rate 0) and after 5 % of the steps; beside it all
# heads with the same further steps, and as few heads from the start, with all steps and with those 5 %. Five minutes; SEEDS='1 2 3' for more than one.
. "$(dirname "${BASH_SOURCE[0]}")/study.sh"
study_text
still=(--set schedule.steps=1 --set schedule.kind=constant --set schedule.warmup=0 --set optimizer.lr=0 --set train.eval_every=1)
more=(--set schedule.steps=100 --set schedule.warmup=10 --set train.eval_every=100)
for seed in ${SEEDS:-1}; do
    study_train uptrain uptrain-$seed-all --set run.seed=$seed
    study_row uptrain-$seed-all loss bits_per_byte
    from=runs/uptrain-$seed-all/checkpoints/step-00002000.h5
    for heads in 8 4 2 1; do
        rm -f runs/uptrain-$seed-$heads.h5
        "${LONGHAUL:-build/release/longhaul}" convert "$from" --kv-heads $heads --out runs/uptrain-$seed-$heads.h5 >/dev/null
        converted=(--set run.init=runs/uptrain-$seed-$heads.h5 --set model.kv_heads=$heads --set run.seed=$((seed + 100)))
        study_train uptrain uptrain-$seed-$heads-0 "${converted[@]}" "${still[@]}"
        study_train uptrain uptrain-$seed-$heads-100 "${converted[@]}" "${more[@]}"
        for run in uptrain-$seed-$heads-0 uptrain-$seed-$heads-100; do study_row $run loss bits_per_byte; done
    done
    for heads in 2 1; do
        study_train uptrain uptrain-$seed-$heads-new --set run.seed=$seed --set model.kv_heads=$heads
        study_train uptrain uptrain-$seed-$heads-new-100 --set run.seed=$((seed + 100)) --set model.kv_heads=$heads "${more[@]}"
        for run in uptrain-$seed-$heads-new uptrain-$seed-$heads-new-100; do study_row $run loss bits_per_byte; done
    done
done
