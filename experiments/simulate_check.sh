#!/usr/bin/env bash
# Simulator against reality on this machine: rates and messages are measured, a step is predicted for a sequence of another
# length and another number of layers on 1 and 2 ranks, and run. One line for each mechanism and number of ranks: the
# median of predicted / measured over ROUNDS rounds (default 5), in each of which both are measured one after the other and
# the fastest of five steps counts, as other work on the machine only adds; bytes must be equal. Fails where a median is off
# by more than 15 %.
#   bash experiments/simulate_check.sh [BUILD_FOLDER]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
build=${1:-$here/../build/release}
rounds=${ROUNDS:-5}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1
cat >"$work/model.yaml" <<EOF
run: {name: check}
data: {task: text, length: 2048, batch: 1}
model: {kind: decoder, layers: 3, width: 256, heads: 4, attention: {mechanism: full}}
device: {threads: 1}
EOF
number() { sed -n "s/.*\"$1\":\([0-9.e+-]*\).*/\1/p" "$2"; }

# The machine's messages: the largest one's bytes per second, the smallest one's latency.
mpirun -n 2 --oversubscribe --bind-to none "$build/longhaul" bench exchange --n 1024 --repeats 5 2>/dev/null |
    grep '"case":"message"' >"$work/messages"
bw=$(tail -n 1 "$work/messages" | sed 's/.*"mb_per_s":\([0-9.e+]*\).*/\1e6/')
lat=$(head -n 1 "$work/messages" | sed 's/.*"seconds":\([0-9.e-]*\).*/\1/')
sed -e "s/loopback-bw\" value=\"[^\"]*/loopback-bw\" value=\"$bw/" \
    -e "s/loopback-lat\" value=\"[^\"]*/loopback-lat\" value=\"$lat/" "$here/platforms/local.xml" >"$work/local.xml"

bad=0
for attention in '{mechanism: full}' '{mechanism: sliding_window, window: 128}' '{mechanism: performer, features: 128}'; do
    : >"$work/ratios"
    for round in $(seq "$rounds"); do
        mpirun -n 1 --bind-to none "$build/longhaul" bench step "$work/model.yaml" --set data.length=1024 \
            --set model.layers=2 --set "model.attention=$attention" --products 1 --repeats 5 2>/dev/null >"$work/rates"
        mpirun -n 2 --oversubscribe --bind-to none "$build/longhaul" scale "$work/model.yaml" --ranks 1,2 --mode strong \
            --set "model.attention=$attention" --repeats 5 --warmup 1 2>/dev/null >"$work/real"
        "$build/longhaul-sim" "$work/model.yaml" --ranks 1,2 --mode strong --set "model.attention=$attention" \
            --platform "$work/local.xml" --rates "$work/rates" 2>/dev/null >"$work/simulated"
        cmp <(number sent_bytes "$work/real") <(number sent_bytes "$work/simulated")
        luck=$(paste <(number step_s_least "$work/rates") <(number step_s_mean "$work/rates") | awk '{ print $1 / $2 }')
        paste <(number ranks "$work/real") <(number step_s "$work/simulated") <(number step_s_least "$work/real") |
            awk -v luck="$luck" '{ print $1, luck * $2 / $3 }' >>"$work/ratios"
    done
    for ranks in 1 2; do
        awk -v r=$ranks '$1 == r { print $2 }' "$work/ratios" | sort -n |
            awk -v r=$ranks -v a="$attention" '{ x[NR] = $1 } END {
                m = NR % 2 ? x[(NR + 1) / 2] : (x[NR / 2] + x[NR / 2 + 1]) / 2
                ok = m > 0.85 && m < 1.15
                printf "%-48s ranks %d: predicted / measured %.3f (%.3f to %.3f), bytes equal%s\n", a, r, m, x[1], x[NR], \
                    ok ? "" : ": MORE THAN 15 % OFF"
                exit !ok }' || bad=1
    done
done
exit $bad
