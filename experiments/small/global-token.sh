#!/usr/bin/env bash
# Longformer's global token (global-token.yaml) against none, each first at length 64, then at 512. About two minutes.
. "$(dirname "${BASH_SOURCE[0]}")/study.sh"
for arm in global-token global-token-none; do
    study_train $arm $arm-64 --set data.length=64 --set data.gap=33 --set data.batch=64
    study_train $arm $arm-512 --set "run.init=runs/$arm-64/checkpoints/step-00000400.h5"
    study_row $arm-64 loss accuracy
    study_row $arm-512 loss accuracy
done
