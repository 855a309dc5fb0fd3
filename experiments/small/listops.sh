#!/usr/bin/env bash
# ListOps in small (listops.yaml) by mechanism, at the same number of steps, beside what needs no hierarchy. Ten minutes on
# one core; STEPS makes it shorter or longer.
. "$(dirname "${BASH_SOURCE[0]}")/study.sh"
steps=(--set "schedule.steps=${STEPS:-1000}" --set "train.eval_every=${STEPS:-1000}")
arm() {
    study_train listops "listops-$1" "${steps[@]}" --set "model.attention={mechanism: $2}"
    study_row "listops-$1" accuracy loss
}
arm full full
study_row listops-full baseline_majority baseline_first_token baseline_one_level baseline_two_levels
arm window 'sliding_window, window: 8'
arm window-global 'sliding_window, window: 8, global: task'
arm performer 'performer, features: 64'
arm linformer 'linformer, k: 16'
