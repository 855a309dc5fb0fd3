# The scripts of experiments/papers/figures/ and experiments/scaling/ in their tiny form: every point is there, its memory is the
# planned one, and published numbers stand beside it as they were printed. With run.sh --all all of them.
. "$LH_SOURCE/tests/cli/lib.sh"

export THREADS=1 LONGHAUL
papers=$LH_SOURCE/experiments/papers
out=$PWD/figures

# figure WHAT...: figures.sh with these options must end well; what it prints is left in `printed`.
figure() {
    timeout 300 bash "$papers/figures.sh" --out "$out" "$@" >printed 2>err
    same "figures.sh $*" $? 0
    [ -s printed ] || cat err
}

# object NAME TEXT...: the one object of a figure that has all these texts, in `object`.
object() {
    local name=$1 text
    shift
    cp "$out/$name.jsonl" object
    for text in "$@"; do
        grep -F -e "$text" object >object.part
        mv object.part object
    done
    same "objects of $name with $*" "$(wc -l <object)" 1
}

# peak ARGUMENTS...: bytes of a forward pass's memory, as planned
peak() {
    expect 0 0 plan "$@" --json
    sed -n 's/.*"sent_bytes_step":0,"peak_bytes":\([0-9]*\),"parameter_bytes".*/\1/p' out
}

# --- Linformer's table: the published one, all of it ---
numbers=$papers/figures/linformer-speed.tsv
same "cells, sums of both ratios" "$(awk '!/^#/ { c++; t += $3; m += $4 } END { printf "%d %.1f %.1f", c, t, m }' "$numbers")" \
    '34 207.2 678.1'
export OMP_NUM_THREADS=1 # of plan
figure --quick --only linformer-speed
small="--set model.width=64 --set model.heads=1 --set model.mlp_width=128"
while read -r n k time memory; do
    object linformer-speed "\"n\":$n,\"k\":$k,"
    same "published time" "$(value published_time_ratio object)" "$time"
    same "published memory" "$(value published_memory_ratio object)" "$memory"
    holds "time is measured" "$(value time_ratio object) > 0"
    # shellcheck disable=SC2086 # several words
    same "memory of full attention" "$(value full_peak_bytes object)" \
        "$(peak "$papers/figures/linformer-speed.yaml" $small --set data.length="$n" --set 'model.attention={mechanism: full}')"
    # shellcheck disable=SC2086
    same "memory of Linformer" "$(value linformer_peak_bytes object)" \
        "$(peak "$papers/figures/linformer-speed.yaml" $small --set data.length="$n" --set model.attention.k="$k")"
done <<'ROWS'
512 128 1.5 1.7
512 256 1.3 1.5
1024 128 1.7 3
1024 256 1.6 2.9
1024 512 1.3 1.8
ROWS
same "points" "$(wc -l <"$out/linformer-speed.jsonl")" 5
same "rows of the table" "$(grep -cE '^\| (512|1,024) \|' printed)" 2

# --- an interrupted measurement goes on ---
raw=$out/linformer-speed.raw.jsonl
cp "$raw" whole
cp "$out/linformer-speed.jsonl" objects
figure --quick --resume --only linformer-speed
same_file "$raw" whole
same_file "$out/linformer-speed.jsonl" objects
runs=$(grep -c '^{"run":' whole)
sed '/^{"run":1,/q' whole >kept
{ cat kept && sed -n "$(($(wc -l <kept) + 1))p" whole && printf '{"run":2,"ra'; } >"$raw"
figure --quick --resume --only linformer-speed
says err 'linformer-speed: 1 runs stand in'
same "no run was torn" "$(grep -c '^{"run":.*[^}]$' "$raw")" 0
same "what stood there" "$(head -n "$(wc -l <kept)" "$raw" | cksum)" "$(cksum <kept)"
same "runs" "$(sed -n 's/^{"run":\([0-9]*\),.*/\1/p' "$raw" | tr '\n' ' ')" "$(seq -s ' ' "$runs") "
same "points" "$(wc -l <"$out/linformer-speed.jsonl")" 5
# What was measured in another way is not gone on with, nor lost.
printf '{"run":2,"ra' >>"$raw"
cp "$raw" torn
for other in THREADS=2 LONGHAUL=/bin/true; do
    env "$other" timeout 60 bash "$papers/figures.sh" --out "$out" --quick --resume --only linformer-speed >printed 2>err
    same "other runs: $other" $? 2
    says err 'holds no run such as'
    same_file "$raw" torn
done
timeout 60 bash "$papers/figures.sh" --out "$out" --resume --only linformer-speed >printed 2>err
same "--resume without --quick" $? 2
same_file "$raw" torn
cp whole "$raw"

# --- a table and a plot into a document; without gnuplot the table alone ---
mkdir -p document
printf 'before\n<!-- linformer-speed -->\nold\n<!-- end -->\nafter\n' >document/RESULTS.md
GNUPLOT=there-is-none figure --quick --redo --only linformer-speed --write --into document
says err 'no plot, since there is no there-is-none'
missing "$out/linformer-speed.svg" document/plots
same_file "$out/linformer-speed.md" <(sed -n '4,9p' document/RESULTS.md)
same "around it" "$(sed -n '1,3p;10,$p' document/RESULTS.md | tr '\n' '|')" 'before|<!-- linformer-speed -->|||<!-- end -->|after|'
cp document/RESULTS.md first
(cd document && GNUPLOT=there-is-none figure --quick --redo --only linformer-speed --write --into . && cat err) >said
same "names from another folder" "$(grep -v 'no plot\|processors' said)" ''
same_file document/RESULTS.md first
echo nothing >document/RESULTS.md
timeout 60 bash "$papers/figures.sh" --out "$out" --quick --redo --only linformer-speed --write --into document >printed 2>err
same "no marks" $? 1
says err "has no marks '<!-- linformer-speed -->'"

# --- tiny figures take the place of no others ---
refused() { # TEXT OPTIONS...
    timeout 60 bash "$papers/figures.sh" --only linformer-speed "${@:2}" >printed 2>err
    same "figures.sh ${*:2}" $? 2
    says err "$1"
}
cksum document/RESULTS.md >before
refused 'leave out --write, or try it with --into' --quick --write
refused 'was measured with --quick' --out "$out" --redo --write --into document
same "the document" "$(cksum document/RESULTS.md)" "$(cat before)"

# --- what is not counted equals nothing ---
same "lines without bytes" "$(
    . <(sed -n "/^figure_awk=/,/^'/p" "$papers/figures/figure.sh")
    printf '%s\n' '{"sent_bytes":1,"predicted_sent_bytes":1}' '{"sent_bytes":1,"predicted_sent_bytes":1,"peak_bytes":2,"predicted_peak_bytes":2}' |
        awk "$figure_awk"'{ print as_planned() }' | tr '\n' ' '
)" '0 1 '
timeout 60 bash "$papers/figures.sh" --only nothing >printed 2>err
same "no such figure" $? 2
says err "there is no figure 'nothing'"

[ -n "${LH_ALL:-}" ] || finish

# --- Longformer: scores are computed, and memory grows with n ---
figure --quick --only longformer-growth
for n in 512 1024 2048; do
    object longformer-growth "\"n\":$n,"
    same "scores" "$(value full_scores_bytes object)" $((4 * 2 * n * n))
    holds "the window is measured" "$(value window_forward_s object) > 0 && $(value window_backward_s object) > 0"
    echo "$(value window_peak_bytes object)" >>peaks
done
holds "memory of the window is linear" "$(awk '{ p[NR] = $1 } END { print (p[3] - p[2]) / (p[2] - p[1]) }' peaks) < 2.1"

# --- Performer ---
figure --quick --only performer-speed,performer-features
same "points of its speed" "$(wc -l <"$out/performer-speed.jsonl")" 3
object performer-speed '"n":2048,'
same "no exact attention there" "$(value full_s object)" null
holds "all else" "$(value relu_s object) > 0 && $(value softmax_s object) > 0 && $(value opt_s object) > 0"
same "points of its error" "$(wc -l <"$out/performer-features.jsonl")" 24
for m in 16 32; do
    object performer-features '"scale":0.6,' "\"features\":$m," '"trig iid"'
    trig=$(value mse_median object)
    object performer-features '"scale":0.6,' "\"features\":$m," '"positive iid"'
    holds "positive below trigonometric" "$(value mse_median object) < $trig"
done

# --- scaling: counted is predicted, and the same study twice has the same losses and bytes ---
figure --quick --only scaling-lengths,scaling-ranks
says printed 'memory equals the plan in 24 of 24 points'
says printed 'memory equals the plan in 108 of 108 points'
same "fits" "$(grep -c '"exponent":[-0-9]' "$out/scaling-lengths.jsonl")" 12
same "studies" "$(wc -l <"$out/scaling-ranks.jsonl")" 36
# counts WHICH: of each point what no clock says
counts() { sed -E 's/"(seconds|attention)":\[[^]]*\]//; s/,"(step_s[a-z_]*|tokens_per_s|efficiency|comm_wait_s|exponent|low|high)":[^,}]*//g' "$out/$1.raw.jsonl"; }
counts scaling-lengths >first
same "losses" "$(grep -c '"loss":[0-9]' first)" 24
figure --quick --only scaling-lengths
counts scaling-lengths >second
same_file first second
if command -v gnuplot >/dev/null; then
    figure --quick --redo --only linformer-speed
    for name in linformer-speed longformer-growth performer-speed performer-features scaling-lengths scaling-ranks; do
        exists "$out/$name.svg"
        says "$out/$name.svg" '</svg>'
        holds "size of $name.svg" "$(wc -c <"$out/$name.svg") < 100000"
        holds "it has lines" "$(grep -c '<path' "$out/$name.svg") > 3"
    done
fi
finish
