#!/usr/bin/env bash
# Longformer's figure 1: time and memory of self-attention against n, all keys or a sliding window of 512 (256 on each side). One
# layer's attention, 2 heads of 64, forward and backward; both take turns. A minute or two on two cores.
#
# The paper has the curves alone, no numbers: what it says in words stands beside ours. Its full attention keeps the scores, n x n
# for each head, ours never has them: what they would take is computed.
. "$(dirname "${BASH_SOURCE[0]}")/figure.sh"
figure_begin longformer-growth

full='512 1024 2048 4096 8192 16384 32768' more='65536 131072'
if [ -n "$quick" ]; then full='512 1024' more=2048; fi

measure() { # N REPEATS MECHANISM [OPTIONS]
    figure_run 1 bench attention --threads "$OMP_NUM_THREADS" --n "$1" --repeats "$2" --mechanism "${@:3}"
}
for n in ${LENGTHS:-$full $more}; do
    rounds=$((n <= 8192 ? 3 : n == 16384 ? 2 : 1))
    if [ -n "$quick" ]; then rounds=1; fi
    for _ in $(seq $rounds); do
        case " $full " in *" $n "*) measure "$n" $((n <= 4096 ? 3 : 1)) full ;; esac
        measure "$n" 3 sliding_window --window 256
    done
done

figure_table '
{
    n = get("n"); what = get("mechanism"); heads = get("heads")
    if (!(n in known)) { known[n] = 1; order[++count] = n }
    time = get("forward_s") + get("backward_s")
    add(what "forward" n, get("forward_s")); add(what "backward" n, get("backward_s")); bytes[what, n] = get("peak_bytes")
    if (what == "full") latest = time
    else if (("full", n) in bytes) add("ratio" n, latest / time)
}
END {
    printf "| n | full: forward, backward, s | window: forward, backward, s | times as fast | full, MiB | its scores, if kept, MiB | window, MiB |\n|---|---|---|---|---|---|---|\n" >table
    for (i = 1; i <= count; i++) {
        n = order[i]; there = ("full", n) in bytes; scores = 4 * heads * n * n
        f = median("fullforward" n); b = median("fullbackward" n); wf = median("sliding_windowforward" n); wb = median("sliding_windowbackward" n)
        printf "| %s | %s, %s | %s, %s | %s | %s | %s | %s |\n", thousands(n), show(f, "%.3g"), show(b, "%.3g"), show(wf, "%.3g"), show(wb, "%.3g"), \
            factor(median("ratio" n)), there ? sprintf("%.2f", bytes["full", n] / 1048576) : "-", thousands(scores / 1048576), \
            sprintf("%.2f", bytes["sliding_window", n] / 1048576) >table
        printf "{\"figure\":\"longformer-growth\",\"n\":%d,\"heads\":%d,\"full_forward_s\":%s,\"full_backward_s\":%s,\"window_forward_s\":%s,\"window_backward_s\":%s,\"rounds\":%d,\"time_ratio\":%s,\"full_peak_bytes\":%s,\"full_scores_bytes\":%.0f,\"window_peak_bytes\":%.0f}\n", \
            n, heads, json(f), json(b), json(wf), json(wb), samples["sliding_windowforward" n], json(median("ratio" n)), \
            there ? sprintf("%.0f", bytes["full", n]) : "null", scores, bytes["sliding_window", n] >lines
        print n, there ? f + b : "-", wf + wb, there ? bytes["full", n] / 1048576 : "-", scores / 1048576, bytes["sliding_window", n] / 1048576 >data
    }
}'
figure_end
