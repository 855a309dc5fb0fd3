#!/usr/bin/env bash
# Full attention and Linformer with k = 8 and 32 on exact recall (recall-limit.yaml). Linformer with learned positions, as its
# authors have them. Half a minute.
. "$(dirname "${BASH_SOURCE[0]}")/study.sh"
study_train recall-limit recall-full
study_train recall-limit recall-full-learned --set model.position=learned
for run in recall-full recall-full-learned; do study_row $run loss accuracy; done
for k in 8 32; do
    study_train recall-limit recall-$k --set model.position=learned --set "model.attention={mechanism: linformer, k: $k}"
    study_row recall-$k loss accuracy
done
