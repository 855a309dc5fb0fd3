#!/usr/bin/env bash
# Linformer's table 3: time and memory of inference against n and k, as a ratio to full attention. A layer of RoBERTa-base
# (linformer-speed.yaml), forward, one sequence. Beside the times the ratio of the work, in flops. Full attention and all k of a length take turns; the ratio is that of each turn,
# the middle one of all. Five minutes on two cores, of which full attention at 65,536 takes a third.
#
# Memory is the step's: what is counted, and planned. The paper's is the ratio of the largest batches, and its full attention keeps
# the scores, n x n for each head; ours never has them. So there is a second ratio, computed: as if both kept the scores
# of all heads (n x n and n x k) at the moment when they need most.
. "$(dirname "${BASH_SOURCE[0]}")/figure.sh"
figure_begin linformer-speed

lengths='512 1024 2048 4096 8192 16384 32768 65536' ks='128 256 512 1024 2048' heads=12 small=()
if [ -n "$quick" ]; then
    lengths='512 1024' heads=1 small=(--set model.width=64 --set model.heads=1 --set model.mlp_width=128)
fi

# measure N REPEATS WARMUP ATTENTION...
measure() {
    local n=$1 repeats=$2 warmup=$3 words=()
    shift 3
    for attention in "$@"; do words+=(--attention "$attention"); done
    figure_run 1 scale $figures/linformer-speed.yaml --ranks 1 --mode strong --lengths "$n" --repeats "$repeats" \
        --warmup "$warmup" "${words[@]}" ${small[@]+"${small[@]}"}
}

for n in ${LENGTHS:-$lengths}; do
    those=()
    for k in $ks; do
        if [ $((2 * k)) -le "$n" ]; then those+=("{mechanism: linformer, k: $k, sharing: layerwise}"); fi
    done
    rounds=$((n <= 4096 ? 3 : 1))
    if [ -n "$quick" ]; then rounds=1; fi
    for _ in $(seq $rounds); do
        if [ "$n" -lt 16384 ]; then
            measure "$n" $((n <= 2048 ? 3 : 2)) 1 full "${those[@]}"
        else # seconds that no warm-up changes
            measure "$n" 1 0 full
            measure "$n" 1 1 "${those[@]}"
        fi
    done
done

figure_table '
FNR == NR {
    if ($0 ~ /^#/) next
    published_time[$1, $2] = $3; published_memory[$1, $2] = $4
    next
}
get("pass") == "forward" {
    n = get("n")
    if (get("mechanism") == "full") {
        full = get("step_s"); full_bytes[n] = get("peak_bytes"); full_work[n] = get("model_flops"); add("full" n, full)
        if (!(n in known)) { known[n] = 1; order[++count] = n }
        next
    }
    k = get("attention"); sub(/.*k: /, "", k); sub(/,.*/, "", k)
    add("time" n "," k, full / get("step_s")); add("ours" n "," k, get("step_s")); bytes[n, k] = get("peak_bytes"); work[n, k] = get("model_flops")
}
END {
    split("128 256 512 1024 2048", ks, " ")
    printf "| n | full, s | time: k 128 | 256 | 512 | 1024 | 2048 | memory: k 128 | 256 | 512 | 1024 | 2048 |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n" >table
    for (i = 1; i <= count; i++) {
        n = order[i]; times = memories = ""
        for (j = 1; j <= 5; j++) {
            k = ks[j]
            if (!((n, k) in bytes)) { times = times " - |"; memories = memories " - |"; continue }
            ratio = median("time" n "," k)
            kept = (full_bytes[n] + 4 * heads * n * n) / (bytes[n, k] + 4 * heads * n * k)
            times = times sprintf(" %s, %s (%s) |", factor(ratio), factor(full_work[n] / work[n, k]), factor(published_time[n, k]))
            memories = memories sprintf(" %.2fx, %s (%s) |", full_bytes[n] / bytes[n, k], factor(kept), factor(published_memory[n, k]))
            printf "{\"figure\":\"linformer-speed\",\"n\":%d,\"k\":%d,\"full_s\":%s,\"linformer_s\":%s,\"rounds\":%d,\"time_ratio\":%s,\"work_ratio\":%s,\"published_time_ratio\":%s,\"full_peak_bytes\":%.0f,\"linformer_peak_bytes\":%.0f,\"memory_ratio\":%s,\"memory_ratio_scores_kept\":%s,\"published_memory_ratio\":%s}\n", \
                n, k, json(median("full" n)), json(median("ours" n "," k)), samples["time" n "," k], json(ratio), json(full_work[n] / work[n, k]), json(published_time[n, k]), \
                full_bytes[n], bytes[n, k], json(full_bytes[n] / bytes[n, k]), json(kept), json(published_memory[n, k]) >lines
        }
        printf "| %s | %s |%s%s\n", thousands(n), show(median("full" n), "%.3g"), times, memories >table
    }
    printf "\nTime: measured, by work, and (published). Memory: counted, if scores were kept, and (published).\n" >table
    for (j = 1; j <= 5; j++)
        for (i = 1; i <= count; i++) {
            n = order[i]; k = ks[j]
            if ((n, k) in bytes) print k, n, median("time" n "," k), published_time[n, k], full_bytes[n] / bytes[n, k], \
                (full_bytes[n] + 4 * heads * n * n) / (bytes[n, k] + 4 * heads * n * k), published_memory[n, k] >data
        }
}' heads=$heads $figures/linformer-speed.tsv
figure_end
