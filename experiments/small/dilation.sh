#!/usr/bin/env bash
# A dilated window (dilation.yaml) against one without dilation. Half a minute.
. "$(dirname "${BASH_SOURCE[0]}")/study.sh"
for arm in dilation dilation-none; do
    study_train $arm $arm
    study_row $arm loss accuracy
done
