# 10,000 steps, with evaluations and checkpoints on the way: neither resident memory nor open descriptors nor the time of
# a step grow. Seen from outside, in /proc. Another number of steps: LH_LONG_STEPS. Step 100 makes the first evaluation and
# the first checkpoint, so that libraries have taken what they keep.
. "$LH_SOURCE/tests/cli/lib.sh"

steps=${LH_LONG_STEPS:-10000}
growth=8192 # KiB of resident memory after step 100, at most
slower=1.5  # late against early steps

[ -r /proc/self/statm ] || { echo "skipped: there is no /proc"; exit 77; }
page=$(($(getconf PAGESIZE) / 1024))
write_text text.txt 60000
write_experiment tiny.yaml text.txt

# last_step RUN: the last one in its metrics, 0 at first.
last_step() {
    local step
    step=$(tail -n 1 "runs/$1/metrics.jsonl" 2>/dev/null | value step /dev/stdin)
    echo "${step:-0}"
}

# watch RUN RANKS: lines "step rank KiB descriptors" into RUN.seen, while the processes live.
watch() {
    local step rank pid size files
    while kill -0 "$launcher" 2>/dev/null; do
        step=$(last_step "$1")
        for ((rank = 0; rank < $2; rank++)); do
            pid=$(cat "pid.$rank" 2>/dev/null) || continue
            read -r _ size _ <"/proc/$pid/statm" || continue
            files=$(find "/proc/$pid/fd" -mindepth 1 2>/dev/null | wc -l)
            [ "$files" -gt 0 ] && echo "$step $rank $((size * page)) $files"
        done
        sleep 0.25
    done 2>/dev/null >"$1.seen"
}

# grown COLUMN FILE RANK: most after the first sample past step 100, less that sample; nothing: too few samples.
grown() {
    awk -v c="$1" -v r="$3" '$2 == r && $1 > 100 { n++; if (n == 1) first = $c; if ($c > most) most = $c }
                             END { if (n > 9) print most - first }' "$2"
}

# thirds RUN NAME: of the steps past 100, the first and the last third by NAME of `times`: medians, and the tenth of each
# that was least disturbed by whatever else ran here.
thirds() {
    local n third
    n=$(wc -l <"$1")
    third=$((n / 3))
    head -n $third "$1" | sort -g >early
    tail -n $third "$1" | sort -g >late
    at() { sed -n "$((third * $2 / 100 + 1))p" "$1"; }
    early=$(at early 10) late=$(at late 10)
    ratio=$(awk -v a="$early" -v b="$late" 'BEGIN { printf "%.3f", b / a }')
    echo "$1: medians $(at early 50) and $(at late 50) s, tenths $early and $late s, their ratio $ratio"
}

# times_of RUN: seconds of each logged step past 100, and what of them was not spent waiting.
times_of() {
    local metrics="runs/$1/metrics.jsonl"
    grep '"event":"train"' "$metrics" | tail -n +21 >lines
    value step_s lines >"$1.step_s"
    value comm_wait_s lines | paste "$1.step_s" - | awk '{ print $1 - $2 }' >"$1.busy_s"
}

# long RUN RANKS ARGUMENTS...
long() {
    local run=$1 ranks=$2 rank
    shift 2
    rm -f pid.*
    timeout --kill-after=5 1500 $LH_MPIEXEC "$ranks" bash -c \
        'echo $$ >pid.${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}; exec "$0" "$@"' "$LONGHAUL" train tiny.yaml \
        --set run.name="$run" --set schedule.steps="$steps" --set train.log_every=5 --set train.eval_every=100 \
        --set train.eval_tokens=256 --set checkpoint.every=50 --set optimizer.lr=1.0e-3 "$@" >out 2>err &
    launcher=$!
    watch "$run" "$ranks"
    wait "$launcher"
    code=$?
    same "$run: exit code" "$code" 0
    [ "$code" = 0 ] || cat err
    same "$run: steps" "$(last_step "$run")" "$steps"
    same "$run: evaluations" "$(grep -c '"event":"eval"' "runs/$run/metrics.jsonl")" $((steps / 100))
    exists "$(checkpoint "runs/$run" "$steps")"
    for ((rank = 0; rank < ranks; rank++)); do
        echo "$run, rank $rank: $(grown 3 "$run.seen" $rank) KiB and $(grown 4 "$run.seen" $rank) descriptors more"
        holds "$run, rank $rank: resident memory grows" "\"$(grown 3 "$run.seen" $rank)\" != \"\" && \
            $(grown 3 "$run.seen" $rank)+0 <= $growth"
        # a checkpoint that is being written, its folder, a line of metrics
        holds "$run, rank $rank: descriptors stay open" "\"$(grown 4 "$run.seen" $rank)\" != \"\" && \
            $(grown 4 "$run.seen" $rank)+0 <= 4"
    done
    times_of "$run"
    thirds "$run.step_s"
    least=$ratio
    thirds "$run.busy_s"
    # on a machine that others use, too, one of the two may be disturbed
    least=$(awk -v a="$least" -v b="$ratio" 'BEGIN { print a < b ? a : b }')
    holds "$run: steps become slower" "$least <= $slower"
}
long redraw 2 --set data.length=64 --set train.recompute=block --set model.dropout=0.1 \
    --set 'model.attention=[{mechanism: performer, features: 16, redraw: 7},{mechanism: full}]'
long documents 2 --set data.length=64 --set data.documents=10 --set mesh.layout=zigzag --set data.batch=2 \
    --set train.accumulate=2 --set 'model.attention=[{mechanism: sliding_window, window: 24},{mechanism: full}]'
finish
