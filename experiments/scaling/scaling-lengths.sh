#!/usr/bin/env bash
# Time of a training step against the length for every mechanism, on 1 and 2 ranks of one thread, and the exponents that
# `longhaul scale` fits, with their 95 % confidence. Two minutes on two cores.
. "$(dirname "${BASH_SOURCE[0]}")/../papers/figures/figure.sh"
export OMP_NUM_THREADS=1
figure_begin scaling-lengths
lengths=2k,4k,8k,16k repeats=5
if [ -n "$quick" ]; then lengths=512,1024 repeats=2; fi
figure_run 2 scale experiments/scaling/scaling.yaml --ranks 1,2 --mode strong --lengths $lengths --repeats $repeats --warmup 1 \
    --attention full --attention '{mechanism: sliding_window, window: 256}' \
    --attention '{mechanism: sliding_window, window: 256, dilation: 2}' \
    --attention '{mechanism: sliding_window, window: 256, global: first}' \
    --attention '{mechanism: performer, features: 256}' --attention '{mechanism: linformer, k: 256}'

figure_table '
function slope(what,   l, x, y, mx, my, xx, xy) { # of log work on log length
    for (l = 1; l <= lengths; l++) { mx += log(of[l]) / lengths; my += log(work[what, of[l]]) / lengths }
    for (l = 1; l <= lengths; l++) { x = log(of[l]) - mx; y = log(work[what, of[l]]) - my; xx += x * x; xy += x * y }
    return xy / xx
}
function plain(text) { gsub(/[{}]|mechanism: /, "", text); return text }
get("fit") == "" {
    what = plain(get("attention")); r = get("ranks"); n = get("n")
    if (!(what in known)) { known[what] = ++count; order[count] = what }
    if (!(n in seen)) { seen[n] = ++lengths; of[lengths] = n }
    step[what, r, n] = get("step_s"); work[what, n] = get("model_flops")
    if (as_planned()) exact++
    points++
}
get("fit") != "" {
    what = plain(get("attention")); r = get("ranks")
    exponent[what, r] = sprintf("%.3f (%.3f to %.3f)", get("exponent"), get("low"), get("high"))
    printf "{\"figure\":\"scaling-lengths\",\"attention\":\"%s\",\"ranks\":%d,\"exponent\":%s,\"low\":%s,\"high\":%s,\"samples\":%d,\"work_exponent\":%s,\"seconds\":[", \
        what, r, json(get("exponent")), json(get("low")), json(get("high")), get("samples"), json(slope(what)) >lines
    for (l = 1; l <= lengths; l++) printf "%s%s", (l > 1 ? "," : ""), json(step[what, r, of[l]]) >lines
    printf "]}\n" >lines
}
END {
    printf "| mechanism |" >table
    for (l = 1; l <= lengths; l++) printf " n %s, s |", thousands(of[l]) >table
    printf " exponent of the work | of the time, 1 rank (95 %%) | 2 ranks |\n|---|" >table
    for (l = 1; l <= lengths; l++) printf "---|" >table
    printf "---|---|---|\n" >table
    for (w = 1; w <= count; w++) {
        printf "| %s |", order[w] >table
        for (l = 1; l <= lengths; l++) {
            printf " %.3g |", step[order[w], 1, of[l]] >table
            print w, of[l], step[order[w], 1, of[l]], step[order[w], 2, of[l]], order[w] >data
        }
        printf " %.3f | %s | %s |\n", slope(order[w]), exponent[order[w], 1], exponent[order[w], 2] >table
    }
    printf "\nSeconds on 1 rank. The interval of 95 %% holds where steps are disturbed independently of each other and work grows as a power of n; what disturbs a whole study moves it outside. Bytes sent equal the formula and memory equals the plan in %d of %d points.\n", exact, points >table
}'
figure_end
