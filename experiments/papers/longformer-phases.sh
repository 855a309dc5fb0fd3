#!/usr/bin/env bash
# The five phases of Longformer's character models (Beltagy et al. 2020, section 4.2, appendix B, table 12): each doubles the
# sequence (the last one stops at 23,040) and the windows, halves the rate, and starts from the weights of the one before.
#
#   experiments/papers/longformer-phases.sh MODEL [train|plan] [OPTIONS]    MODEL: longformer-text8-small, ...
#
# Runs go to runs/MODEL-1 .. runs/MODEL-5; started again, it goes on where it was. PHASES="3 4" runs these alone. OPTIONS are
# given to every phase (--set mesh.data=8; plan: --ranks 64 --json). LONGHAUL names the program, LAUNCH how it is started: on
# 64 ranks LAUNCH='mpirun -n 64', with mesh.data and train.accumulate such that their product divides 16.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
model=${1:?"a model is missing: longformer-text8-small, longformer-enwik8-large, ..."}
command=${2:-train}
shift $(($# < 2 ? $# : 2))
file=experiments/papers/$model.yaml
[ -f "$file" ] || {
    echo "there is no $file" >&2
    exit 2
}

lengths=(2048 4096 8192 16384 23040)
batches=(32 32 16 16 16)
rates=(2.5e-4 1.25e-4 6.25e-5 3.125e-5 1.5625e-5)
case $model in # steps are printed; windows: see the files
*-large)
    steps=(350000 25000 10000 5000 5000)
    windows=($(seq 32 16 480) 512)
    ;;
*)
    steps=(430000 50000 50000 35000 5000)
    windows=(32 64 96 128 160 192 224 256 288 352 448 512)
    ;;
esac

for phase in ${PHASES:-1 2 3 4 5}; do
    k=$((phase - 1))
    window=
    for w in "${windows[@]}"; do window+=${window:+, }$((w << k)); done
    warmup=$((steps[k] / 10 < 10000 ? steps[k] / 10 : 10000)) # a tenth of the phase, at most 10,000
    options=(--set "run.name=$model-$phase" --set "run.seed=$phase" --set "data.length=${lengths[k]}"
        --set "data.batch=${batches[k]}" --set "optimizer.lr=${rates[k]}" --set "schedule.steps=${steps[k]}"
        --set "schedule.warmup=$warmup" --set "model.attention.window=[$window]")
    if [ "$phase" -gt 1 ]; then
        options+=(--set "run.init=runs/$model-$k/checkpoints/step-$(printf %08d "${steps[k - 1]}").h5")
    fi
    if [ "$command" = train ]; then options+=(--resume); fi
    # shellcheck disable=SC2086 # the launcher is several words
    ${LAUNCH-} "${LONGHAUL:-build/release/longhaul}" "$command" "$file" "${options[@]}" "$@"
done
