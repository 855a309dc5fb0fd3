#!/usr/bin/env bash
# Strong and weak scaling over ranks of one thread, for every mechanism and exchange. Times are of 1 and 2 ranks, in turns: the middle
# of three. Bytes and memory of 1, 2, 4 and 8 ranks, which depend on no clock; on fewer than 8 processors their times
# would mean nothing and are left out. Two minutes on two cores.
. "$(dirname "${BASH_SOURCE[0]}")/../papers/figures/figure.sh"
export OMP_NUM_THREADS=1
figure_begin scaling-ranks
n=4096 least=1024 rounds=3 repeats=2 chunk=512
if [ -n "$quick" ]; then n=512 least=128 rounds=1 repeats=1 chunk=64; fi
causal=(--set model.kind=decoder --set data.task=text)

study() { # NAME OPTIONS...: each time and count of one row of the tables
    local what=$1
    shift
    for mode in strong weak; do
        figure_mark "$what" counts
        figure_run 8 scale experiments/scaling/scaling.yaml --ranks 1,2,4,8 --mode $mode --repeats 1 --warmup 0 --set mesh.chunk=$chunk \
            --set data.length=$([ $mode = strong ] && echo $n || echo $least) "$@"
    done
    for _ in $(seq $rounds); do
        figure_mark "$what" times
        figure_run 2 scale experiments/scaling/scaling.yaml --ranks 1,2 --repeats $repeats --warmup 1 --set mesh.chunk=$chunk \
            --set data.length=$n "$@"
    done
}
study 'full' --attention full
study 'full, by heads' --attention full --set mesh.exchange=ulysses --set model.heads=8 --set model.head_width=16
study 'full, causal' --attention full "${causal[@]}"
study 'full, causal, zigzag' --attention full "${causal[@]}" --set mesh.layout=zigzag
study 'window 256' --attention '{mechanism: sliding_window, window: 256}'
study 'window 256, first global' --attention '{mechanism: sliding_window, window: 256, global: first}'
study 'performer 256' --attention '{mechanism: performer, features: 256}'
study 'performer 256, causal' --attention '{mechanism: performer, features: 256}' "${causal[@]}"
study 'linformer 256' --attention '{mechanism: linformer, k: 256}'

figure_table '
get("study") != "" { what = get("study"); part = get("part"); if (!(what in known)) { known[what] = ++count; order[count] = what } next }
{
    r = get("ranks"); mode = get("mode"); n[mode, part] = r == 1 ? get("n") : n[mode, part]
    points++
    if (as_planned()) exact++
    if (part == "times") {
        add("step" what mode r, get("step_s")); add("wait" what mode r, get("comm_wait_s") / get("step_s_mean"))
        if (r == 2) add("efficiency" what mode, get("efficiency"))
        next
    }
    sent[what, mode, r] = get("sent_bytes"); peak[what, mode, r] = get("peak_bytes")
}
END {
    printf "| mechanism | 1 rank, s | strong: 2 ranks, s | efficiency | waiting | weak: 2 ranks, s | efficiency | waiting |\n|---|---|---|---|---|---|---|---|\n" >table
    for (w = 1; w <= count; w++) {
        what = order[w]
        printf "| %s | %.3g |", what, median("step" what "strong" 1) >table
        for (m = 0; m < 2; m++) {
            mode = m ? "weak" : "strong"
            printf " %.3g | %.2f | %.1f %% |", median("step" what mode 2), median("efficiency" what mode), 100 * median("wait" what mode 2) >table
            printf "{\"figure\":\"scaling-ranks\",\"study\":\"%s\",\"mode\":\"%s\",\"n\":%d,\"step_s\":[%s,%s],\"efficiency\":%s,\"waiting\":%s,\"rounds\":%d}\n", what, mode, n[mode, "times"], \
                json(median("step" what mode 1)), json(median("step" what mode 2)), json(median("efficiency" what mode)), json(median("wait" what mode 2)), samples["efficiency" what mode] >lines
        }
        printf "\n" >table
    }
    printf "\nn %s (weak: times ranks). Each column is the median of the rounds by itself, and an efficiency is that of one round: quotients of the medians beside it may differ.\n", thousands(n["strong", "times"]) >table
    for (m = 0; m < 2; m++) {
        mode = m ? "weak" : "strong"
        printf "\n| %s, n %s%s | KiB sent by a rank: 2 | 4 | 8 | memory of a rank, MiB: 1 | 2 | 4 | 8 |\n|---|---|---|---|---|---|---|---|\n", mode, thousands(n[mode, "counts"]), m ? " x ranks" : "" >table
        for (w = 1; w <= count; w++) {
            what = order[w]
            printf "| %s |", what >table
            for (r = 2; r <= 8; r *= 2) printf " %s |", thousands(sent[what, mode, r] / 1024) >table
            for (r = 1; r <= 8; r *= 2) printf " %.2f |", peak[what, mode, r] / 1048576 >table
            printf "\n" >table
            printf "{\"figure\":\"scaling-ranks\",\"study\":\"%s\",\"mode\":\"%s\",\"n\":%d,\"ranks\":[1,2,4,8],\"sent_bytes\":[", what, mode, n[mode, "counts"] >lines
            for (r = 1; r <= 8; r *= 2) printf "%s%.15g", (r > 1 ? "," : ""), sent[what, mode, r] >lines
            printf "],\"peak_bytes\":[" >lines
            for (r = 1; r <= 8; r *= 2) { printf "%s%.0f", (r > 1 ? "," : ""), peak[what, mode, r] >lines; print w, m, r, sent[what, mode, r] / 1048576, peak[what, mode, r] / 1048576 >data }
            printf "]}\n" >lines
        }
    }
    printf "\nBytes sent equal the formula and memory equals the plan in %d of %d points.\n", exact, points >table
}'
figure_end
