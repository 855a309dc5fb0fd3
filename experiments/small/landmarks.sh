#!/usr/bin/env bash
# Linformer's number of landmarks on masked text (landmarks.yaml). A quarter of an hour.
. "$(dirname "${BASH_SOURCE[0]}")/study.sh"
study_text
study_train landmarks landmarks-full
study_row landmarks-full loss accuracy
for k in 8 16 32 64; do
    study_train landmarks landmarks-$k --set "model.attention={mechanism: linformer, k: $k}"
    study_row landmarks-$k loss accuracy
done
