#!/usr/bin/env bash
# Full attention exchanged for Performer (swap.yaml): before, right after (a step of rate 0), and after a tenth of the steps;
# beside it full attention with the same further steps. Two minutes.
. "$(dirname "${BASH_SOURCE[0]}")/study.sh"
study_text
study_train swap swap-full
study_row swap-full loss bits_per_byte
from=(--set run.init=runs/swap-full/checkpoints/step-00001500.h5 --set run.seed=2)
performer=(--set 'model.attention={mechanism: performer, features: 64}')
still=(--set schedule.steps=1 --set schedule.kind=constant --set schedule.warmup=0 --set optimizer.lr=0 --set train.eval_every=1)
more=(--set schedule.steps=150 --set schedule.warmup=15 --set optimizer.lr=1e-3 --set train.eval_every=50)
study_train swap swap-performer-0 "${from[@]}" "${performer[@]}" "${still[@]}"
study_train swap swap-performer-150 "${from[@]}" "${performer[@]}" "${more[@]}"
study_train swap swap-full-150 "${from[@]}" "${more[@]}"
for run in swap-performer-0 swap-performer-150 swap-full-150; do study_row $run loss bits_per_byte; done
