#!/usr/bin/env bash
# Performer's figure 3: time of a training step against the length, beside exact attention, and beside "OPT", attention that returns
# its values (here a window of 0, in which each position sees itself alone), what all else of a step takes, and little more. A layer of the regular size
# (performer-speed.yaml). All take turns. Two minutes on two cores.
#
# The paper has the curves alone, no numbers; that on one V100 of 16 GB Performer reaches 2^15 positions is said in words.
. "$(dirname "${BASH_SOURCE[0]}")/figure.sh"
figure_begin performer-speed

exact='512 1024 2048 4096 8192 16384' more=32768 small=()
if [ -n "$quick" ]; then
    exact='512 1024' more=2048 small=(--set model.width=64 --set model.heads=1 --set model.mlp_width=128)
fi
those=(--attention '{mechanism: performer, features: 256, kernel: relu}' --attention '{mechanism: performer, features: 256}'
    --attention '{mechanism: sliding_window, window: 0}')

measure() { # N REPEATS [OPTIONS]
    figure_run 1 scale $figures/performer-speed.yaml --ranks 1 --mode strong --lengths "$1" --repeats "$2" --warmup 1 \
        "${@:3}" ${small[@]+"${small[@]}"}
}
for n in ${LENGTHS:-$exact $more}; do
    rounds=$((n <= 4096 ? 3 : n == 8192 ? 2 : 1))
    if [ -n "$quick" ]; then rounds=1; fi
    for _ in $(seq $rounds); do
        case " $exact " in *" $n "*) measure "$n" $((n <= 4096 ? 2 : 1)) --attention full "${those[@]}" ;; *) measure "$n" 1 "${those[@]}" ;; esac
    done
done

figure_table '
{
    n = get("n"); what = get("attention")
    what = what ~ /relu/ ? "relu" : what ~ /performer/ ? "softmax" : what ~ /window/ ? "opt" : "full"
    if (!(n in known)) { known[n] = 1; order[++count] = n }
    if (what == "full") full = get("step_s")
    else if (("full", n) in bytes) add("ratio" what n, full / get("step_s"))
    if (what == "opt") { add("over" "relu" n, get("step_s") / relu) }
    if (what == "relu") relu = get("step_s")
    add(what n, get("step_s")); bytes[what, n] = get("peak_bytes")
}
END {
    printf "| n | full, s | Performer, relu, s | Performer, softmax, s | OPT, s | times as fast as full: relu | softmax | OPT | time of OPT to relu | step memory, MiB: full, relu |\n|---|---|---|---|---|---|---|---|---|---|\n" >table
    for (i = 1; i <= count; i++) {
        n = order[i]; there = ("full", n) in bytes
        f = median("full" n); r = median("relu" n); s = median("softmax" n); o = median("opt" n)
        printf "| %s | %s | %s | %s | %s | %s | %s | %s | %.2f | %s, %.1f |\n", thousands(n), show(f, "%.3g"), show(r, "%.3g"), show(s, "%.3g"), show(o, "%.3g"), \
            factor(median("ratiorelu" n)), factor(median("ratiosoftmax" n)), factor(median("ratioopt" n)), median("overrelu" n), \
            there ? sprintf("%.1f", bytes["full", n] / 1048576) : "-", bytes["relu", n] / 1048576 >table
        printf "{\"figure\":\"performer-speed\",\"n\":%d,\"full_s\":%s,\"relu_s\":%s,\"softmax_s\":%s,\"opt_s\":%s,\"rounds\":%d,\"time_ratio_relu\":%s,\"time_ratio_softmax\":%s,\"time_ratio_opt\":%s,\"full_peak_bytes\":%s,\"relu_peak_bytes\":%.0f,\"softmax_peak_bytes\":%.0f}\n", \
            n, json(f), json(r), json(s), json(o), samples["relu" n], json(median("ratiorelu" n)), json(median("ratiosoftmax" n)), json(median("ratioopt" n)), \
            there ? sprintf("%.0f", bytes["full", n]) : "null", bytes["relu", n], bytes["softmax", n] >lines
        print n, there ? f : "-", r, s, o >data
    }
}'
figure_end
