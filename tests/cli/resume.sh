# Stop anywhere, resume: on the same ranks the same bits as if never stopped; on others the same training
# (README, invariant 3).
. "$LH_SOURCE/tests/cli/lib.sh"

write_text text.txt 6000
write_experiment tiny.yaml text.txt
ten=(--set schedule.steps=10 --set train.eval_every=5 --set checkpoint.every=4 --set checkpoint.keep=9
    --set model.dropout=0.1 --set schedule.kind=cosine --set schedule.warmup=3)

# The run that nobody disturbs. A checkpoint holds the run's name, so all runs have the same and move away afterwards.
train 2 run "${ten[@]}"
cp out straight.out
mv runs/run runs/straight
exists "$(checkpoint runs/straight 4)" "$(checkpoint runs/straight 8)" "$(checkpoint runs/straight 10)"

# as_if_stopped_after STEP: the undisturbed run without the checkpoints past this step
as_if_stopped_after() {
    rm -rf runs/run
    cp -r runs/straight runs/run
    for step in 4 8 10; do
        if [ "$step" -gt "$1" ]; then rm "$(checkpoint runs/run "$step")"; fi
    done
}

# --- the same ranks ---
as_if_stopped_after 8
train 2 run --resume "${ten[@]}"
says err 'after step 8'
same_file "$(checkpoint runs/run 10)" "$(checkpoint runs/straight 10)"
same "metrics of the resumed run" "$(results runs/run)" "$(results runs/straight)"
same "lines moved aside" "$(value step runs/run/metrics-1.jsonl | tr '\n' ' ')" '9 10 10 '
same_file out straight.out

# --- a random projection that is drawn again every 3 steps: step 9 draws, whether or not the run was stopped ---
mv runs/straight runs/window
redraw=("${ten[@]}" --set 'model.attention={mechanism: performer, features: 12, redraw: 3}')
rm -rf runs/run
train 2 run "${redraw[@]}"
mv runs/run runs/straight
as_if_stopped_after 8
train 2 run --resume "${redraw[@]}"
says err 'after step 8'
same_file "$(checkpoint runs/run 10)" "$(checkpoint runs/straight 10)"
as_if_stopped_after 4
train 2 run --resume "${redraw[@]}"
same_file "$(checkpoint runs/run 10)" "$(checkpoint runs/straight 10)"
rm -rf runs/straight
mv runs/window runs/straight

# --- other numbers of ranks ---
for ranks in 1 3 5; do
    as_if_stopped_after 8
    train "$ranks" run --resume "${ten[@]}"
    near "first loss after resuming on $ranks ranks" \
        "$(metric runs/run train 9 loss)" "$(metric runs/straight train 9 loss)" "$real_digits"
    near "evaluation after resuming on $ranks ranks" "$(value loss)" "$(value loss straight.out)" 1e-4
    same "samples after resuming on $ranks ranks" \
        "$(value samples runs/run/metrics.jsonl)" "$(value samples runs/straight/metrics.jsonl)"
done
as_if_stopped_after 8
train 2 run --resume "${ten[@]}" --set mesh.data=2 --set data.batch=2
says err 'after step 8'

# --- a run that has ended ---
as_if_stopped_after 10
train 2 run --resume "${ten[@]}"
same_file out straight.out
same_file "$(checkpoint runs/run 10)" "$(checkpoint runs/straight 10)"
missing runs/run/metrics-1.jsonl
same_file runs/run/metrics.jsonl runs/straight/metrics.jsonl

# --- nothing to resume ---
rm -rf runs/run
train 2 run --resume "${ten[@]}"
says err 'starting anew'
same_file "$(checkpoint runs/run 10)" "$(checkpoint runs/straight 10)"

# --- damaged checkpoints are named and passed over ---
as_if_stopped_after 8
truncate -s -100 "$(checkpoint runs/run 8)"
train 2 run --resume "${ten[@]}"
says err 'step-00000008.h5'
says err 'after step 4'
same_file "$(checkpoint runs/run 10)" "$(checkpoint runs/straight 10)"
same_file "$(checkpoint runs/run 8)" "$(checkpoint runs/straight 8)"

as_if_stopped_after 8
size=$(wc -c <"$(checkpoint runs/run 8)")
printf 'Longhaul' | dd of="$(checkpoint runs/run 8)" bs=1 seek=$((size / 2)) conv=notrunc 2>dd.log
: >"$(checkpoint runs/run 4)"
cp -r runs/run before
expect 1 3 train tiny.yaml --set run.name=run --resume "${ten[@]}"
says err 'step-00000008.h5'
says err 'is whole'
same "checkpoints after a resume that failed" "$(cd runs/run/checkpoints && cksum ./*)" \
    "$(cd before/checkpoints && cksum ./*)"
same_file runs/run/metrics.jsonl before/metrics.jsonl

# what a crash leaves behind while it writes
as_if_stopped_after 8
head -c 1000 "$(checkpoint runs/straight 10)" >"$(checkpoint runs/run 10).tmp"
train 2 run --resume "${ten[@]}"
same_file "$(checkpoint runs/run 10)" "$(checkpoint runs/straight 10)"
missing "$(checkpoint runs/run 10).tmp"

# --- what does not fit the checkpoint ---
as_if_stopped_after 8
expect 2 2 train tiny.yaml --set run.name=run --resume "${ten[@]}" --set run.seed=4
says err 'run.seed'
expect 2 2 train tiny.yaml --set run.name=run --resume "${ten[@]}" --set model.width=16
says err 'layer.0.attention.query.weight'
expect 2 2 train tiny.yaml --set run.name=run --resume "${ten[@]}" --set data.length=64
says err 'data.length was 128'
{ cat text.txt; echo more; } >longer.txt
expect 2 2 train tiny.yaml --set run.name=run --resume "${ten[@]}" --set data.path=longer.txt
says err 'the size of data.path'
expect 2 2 train tiny.yaml --set run.name=run "${ten[@]}"
says err '--resume'
same_file runs/run/metrics.jsonl runs/straight/metrics.jsonl
same_file runs/run/config.yaml runs/straight/config.yaml

# --- stopped on request, and killed ---

# start_long: the run without end, in the background; each rank leaves its process number in pid.*
start_long() {
    rm -rf runs/run pid.*
    # shellcheck disable=SC2086,SC2016
    timeout --kill-after=5 60 $LH_MPIEXEC 2 bash -c 'echo $$ >pid.$$; exec "$0" "$@"' "$LONGHAUL" train tiny.yaml \
        --set run.name=run --set schedule.steps=1000000 "$@" >out 2>err &
    job=$!
    for _ in $(seq 300); do
        if [ "$(cat runs/run/metrics.jsonl 2>/dev/null | wc -l)" -ge 4 ]; then return; fi
        sleep 0.1
    done
    fail "the run did not reach step 4"
}

# resumed_is_straight: resumes to three more steps; the same bits as a run of so many steps
resumed_is_straight() {
    local steps=$((stopped + 3))
    train 2 run --resume --set schedule.steps=$steps --set checkpoint.every=1000
    says err "after step $stopped"
    rm -rf runs/stopped
    mv runs/run runs/stopped
    train 2 run --set schedule.steps=$steps --set checkpoint.every=1000
    same_file "$(checkpoint runs/stopped $steps)" "$(checkpoint runs/run $steps)"
    same "losses of a run that was stopped" "$(losses runs/stopped)" "$(losses runs/run)"
}

start_long
for pid in pid.*; do break; done # one rank alone is asked
kill -USR1 "$(cat "$pid")"
wait "$job"
same "exit code of a run stopped on request" $? 75
says err 'stopped on request after step'
same "standard output of a run stopped on request" "$(cat out)" ''
stopped=$(sed -nE 's/^stopped on request after step ([0-9]+).*/\1/p' err)
exists "$(checkpoint runs/run "$stopped")"
resumed_is_straight

# in the middle of an evaluation that would take long
head -c 3000000 /dev/zero | tr '\0' a >long.txt
start_long --set data.valid_path=long.txt --set train.eval_every=4
for pid in pid.*; do break; done
kill -USR1 "$(cat "$pid")"
wait "$job"
same "exit code of a run stopped while it evaluates" $? 75
says err 'stopped on request after step 4'
exists "$(checkpoint runs/run 4)"

start_long --set checkpoint.every=2
for pid in pid.*; do break; done
kill -KILL "$(cat "$pid")"
wait "$job"
code=$?
holds "a killed run fails, and does not hang ($code)" "$code != 0 && $code != 124"
for file in runs/run/checkpoints/step-*.h5; do newest=$file; done
stopped=$(basename "$newest" .h5)
stopped=$((10#${stopped#step-}))
resumed_is_straight
finish
