# What ends a run early, or leaves out a step: train.time_limit, train.on_nonfinite. Numbers stop being finite since the
# learning rate is far too high.
. "$LH_SOURCE/tests/cli/lib.sh"

write_text text.txt 6000
write_experiment tiny.yaml text.txt
head -c 3000000 /dev/zero | tr '\0' a >long.txt

seconds=5
late=8000 # milliseconds of launcher and end of the program; leak checks
if [ -n "${ASAN_OPTIONS:-}" ]; then seconds=12 late=15000; fi

# limited RANKS NAME ARGUMENTS...: a run without end in the background, of which $seconds seconds are wanted. It leaves its
# exit code and how long it took in NAME.end.
limited() {
    (
        begin=$(date +%s%N)
        # shellcheck disable=SC2086
        timeout --kill-after=5 60 $LH_MPIEXEC "$1" "$LONGHAUL" train tiny.yaml --set run.name="$2" \
            --set schedule.steps=1000000 --set train.log_every=1000000 --set train.time_limit=${seconds}s "${@:3}" \
            >"$2.out" 2>"$2.err"
        echo $? $((($(date +%s%N) - begin) / 1000000)) >"$2.end"
    ) &
}
long=(--set data.valid_path=long.txt --set schedule.steps=1)
train 1 ended "${long[@]}" --set checkpoint.every=1 --set train.eval_every=0
limited 2 time
limited 1 ended --resume "${long[@]}" # has its last evaluation before it
limited 1 evaluates --set data.valid_path=long.txt --set train.eval_every=2 # an evaluation that takes long

# --- numbers that are not finite ---
wild=(--set optimizer.lr=1.0e+37 --set optimizer.clip=0 --set train.log_every=1)
expect 1 3 train tiny.yaml --set run.name=stop --set checkpoint.every=1 "${wild[@]}"
says err 'step 2: the loss is not a number, the gradient norm not a number: first seen in layer 0, forward of '
says err 'nothing was updated'
same "lines of the run that stopped" "$(value step runs/stop/metrics.jsonl | tr '\n' ' ')" '1 '
expect 0 0 inspect "$(checkpoint runs/stop 1)"
missing "$(checkpoint runs/stop 2)"
says runs/stop/log.txt 'failed: rank 0: step 2: the loss is not a number'
expect 0 0 status runs/stop --json
same "state of the run that stopped" "$(value state)" '"failed"'

# Updates are left out, and the run goes on, but not for ever; who resumes does not begin to count anew.
skip=(--set train.on_nonfinite=skip --set checkpoint.every=10 --set train.eval_every=0 "${wild[@]}")
train 3 skip "${skip[@]}" --set schedule.steps=10
says err 'step 10: the loss is not a number, the gradient norm not a number: update left out'
says err '9 in a row'
same "lines that were left out" "$(grep -c '"loss":null,.*"skipped":true' runs/skip/metrics.jsonl)" 9
expect 1 2 train tiny.yaml --resume --set run.name=skip "${skip[@]}" --set schedule.steps=40
says err 'step 21: the loss is not a number, the gradient norm not a number (20 steps in a row)'
same "samples, without one twice" "$(value samples runs/skip/metrics.jsonl | sort | uniq -d)" ''
same "samples, without one left out" "$(wc -l <runs/skip/metrics.jsonl)" 20

# --- the time limit ---
wait
for name in time evaluates ended; do
    read -r code took <"$name.end"
    same "$name: exit code" "$code" 75
    holds "$name ends in time ($took ms)" "$took < 1000 * $seconds + $late"
    says $name.err 'train.time_limit: stopped after step'
    stopped=$(sed -nE 's/^train.time_limit: stopped after step ([0-9]+).*/\1/p' $name.err)
    exists "$(checkpoint "runs/$name" "$stopped")"
    [ $name = time ] && holds "steps before the time is up" "$stopped > 1"
    [ $name = evaluates ] && same "the step whose evaluation was left" "$stopped" 2
    [ $name = ended ] && same "the last step" "$stopped" 1
done
expect 0 2 train tiny.yaml --set run.name=evaluates --resume --set data.valid_path=long.txt --set train.eval_tokens=1000 --set schedule.steps=3 --set train.time_limit=00:45:00
says err "after step 2"
finish
