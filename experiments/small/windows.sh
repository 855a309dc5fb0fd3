#!/usr/bin/env bash
# Windows that grow, stay and shrink from layer to layer (windows.yaml), three seeds each. A quarter of an hour.
. "$(dirname "${BASH_SOURCE[0]}")/study.sh"
study_text
for seed in ${SEEDS:-1 2 3}; do
    study_train windows windows-grow-$seed --set run.seed=$seed
    study_train windows windows-same-$seed --set run.seed=$seed --set model.attention.window=30
    study_train windows windows-shrink-$seed --set run.seed=$seed --set 'model.attention.window=[64, 32, 16, 8]'
    for arm in grow same shrink; do study_row windows-$arm-$seed loss bits_per_byte; done
done
