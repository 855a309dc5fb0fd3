# Stop anywhere, resume: on the same ranks the same bits as if never stopped; on others the same training
# (README, invariant 3).
. "$LH_SOURCE/tests/cli/lib.sh"

write_text text.txt 6000
write_experiment tiny.yaml text.txt
ten=(--set schedule.steps=10 --set data.batch=2 --set train.eval_every=5 --set checkpoint.every=4
    --set checkpoint.keep=9 --set model.dropout=0.1 --set schedule.kind=cosine --set schedule.warmup=3)

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

# --- other numbers of ranks, splits, layouts, exchanges ---
# elsewhere RANKS KEY=VALUE...: the first step is the same to invariant 1, the samples are the same
elsewhere() {
    local ranks=$1 sets=() what="on $*"
    shift
    for set in "$@"; do sets+=(--set "$set"); done
    as_if_stopped_after 8
    train "$ranks" run --resume "${ten[@]}" "${sets[@]}"
    says err 'after step 8'
    says_not err 'other settings'
    near "first loss after resuming $what" \
        "$(metric runs/run train 9 loss)" "$(metric runs/straight train 9 loss)" "$real_digits"
    near "evaluation after resuming $what" "$(value loss)" "$(value loss straight.out)" 1e-4
    same "samples after resuming $what" \
        "$(value samples runs/run/metrics.jsonl)" "$(value samples runs/straight/metrics.jsonl)"
}
elsewhere 1 train.accumulate=2
elsewhere 3 mesh.layout=zigzag
if thorough; then
    elsewhere 2 mesh.data=2 train.recompute=block
    elsewhere 4 mesh.data=2 mesh.exchange=ulysses
    elsewhere 5 mesh.chunk=7
fi

# --- a run that has ended ---
as_if_stopped_after 10
train 2 run --resume "${ten[@]}"
same_file out straight.out
same_file "$(checkpoint runs/run 10)" "$(checkpoint runs/straight 10)"
missing runs/run/metrics-1.jsonl
same_file runs/run/metrics.jsonl runs/straight/metrics.jsonl

# with fewer steps than it has done: nothing is trained, and its configuration stays
train 2 run --resume "${ten[@]}" --set schedule.steps=3
same_file out straight.out
same_file runs/run/config.yaml runs/straight/config.yaml
same_file runs/run/metrics.jsonl runs/straight/metrics.jsonl
expect 0 0 status runs/run
says out 'step        10 of 10 (100.0 %)'

# one without checkpoints that was stopped ends with one: it is not trained again; a run.init that is gone is in it
cp "$(checkpoint runs/straight 10)" init.h5
rm -rf runs/run
init=(--set run.name=run --resume --set run.init=init.h5 --set model.dropout=0.1 --set data.batch=2)
expect 75 2 train tiny.yaml "${init[@]}" --set train.time_limit=0.01
rm init.h5
expect 0 2 train tiny.yaml "${init[@]}"
exists "$(checkpoint runs/run 5)"
cp out end.out
expect 0 2 train tiny.yaml "${init[@]}"
says err 'after step 5'
same_file out end.out
rm -rf runs/run
expect 2 2 train tiny.yaml "${init[@]}"
says err "key 'run.init': there is no checkpoint"

# --- stopped in every step, and so in every evaluation: the next launch makes it up ---
rm -rf runs/run
steps=(--set schedule.steps=3 --set train.eval_every=1)
train 2 run "${steps[@]}" --set checkpoint.every=1
cp out every.out
mv runs/run runs/every
launches=0
code=75
while [ "$code" = 75 ] && [ "$launches" -lt 6 ]; do
    longhaul 2 train tiny.yaml --set run.name=run --resume "${steps[@]}" --set checkpoint.every=1 --set train.time_limit=0.01
    launches=$((launches + 1))
done
same "exit code of the last launch" "$code" 0
same "launches: one for each step, one for the last evaluation" "$launches" 4
same_file out every.out
same "metrics of a run that was stopped in every evaluation" "$(results runs/run)" "$(results runs/every)"
for key in step eval_step eval_loss; do
    expect 0 0 status runs/every --json
    was=$(value $key)
    expect 0 0 status runs/run --json
    same "its status: $key" "$(value $key)" "$was"
done

# --- nothing to resume ---
rm -rf runs/run
train 2 run --resume "${ten[@]}"
says err 'starting anew'
same_file "$(checkpoint runs/run 10)" "$(checkpoint runs/straight 10)"

# --- checkpoints that are damaged, foreign or cannot be read are named and passed over ---
as_if_stopped_after 8
truncate -s -100 "$(checkpoint runs/run 8)"
: >"$(checkpoint runs/run 11)"
cp text.txt "$(checkpoint runs/run 12)"
{ printf 'lonGhaul'; tail -c +9 "$(checkpoint runs/straight 8)"; } >"$(checkpoint runs/run 13)"
mkdir "$(checkpoint runs/run 14)"
cp "$(checkpoint runs/straight 4)" "$(checkpoint runs/run 16)" # a copy and a link under the name of a later step
ln -s step-00000004.h5 "$(checkpoint runs/run 17)"
bad=(8 11 12 13 14 16 17)
if [ "$(id -u)" != 0 ]; then # whom permissions bind
    cp "$(checkpoint runs/straight 8)" "$(checkpoint runs/run 15)"
    chmod 000 "$(checkpoint runs/run 15)"
    bad+=(15)
fi
train 2 run --resume "${ten[@]}"
for step in "${bad[@]}"; do
    if ! grep 'passing over' err | grep -qF "step-$(printf %08d "$step").h5"; then
        fail "checkpoint $step is not named:"
        cat err
    fi
done
says err 'after step 4'
same_file "$(checkpoint runs/run 10)" "$(checkpoint runs/straight 10)"
same_file "$(checkpoint runs/run 8)" "$(checkpoint runs/straight 8)"

as_if_stopped_after 8
size=$(wc -c <"$(checkpoint runs/run 8)")
printf 'Longhaul' | dd of="$(checkpoint runs/run 8)" bs=1 seek=$((size / 2)) conv=notrunc 2>dd.log
: >"$(checkpoint runs/run 4)"
cp -r runs/run damaged
expect 1 3 train tiny.yaml --set run.name=run --resume "${ten[@]}"
says err 'step-00000008.h5'
says err 'is whole'
same "checkpoints after a resume that failed" "$(cd runs/run/checkpoints && cksum ./*)" \
    "$(cd damaged/checkpoints && cksum ./*)"
same_file runs/run/metrics.jsonl damaged/metrics.jsonl

# what a crash leaves behind while it writes
as_if_stopped_after 8
head -c 1000 "$(checkpoint runs/straight 10)" >"$(checkpoint runs/run 10).tmp"
train 2 run --resume "${ten[@]}"
same_file "$(checkpoint runs/run 10)" "$(checkpoint runs/straight 10)"
missing "$(checkpoint runs/run 10).tmp"

# --- a newer checkpoint that was passed over comes back: its history is not the run's any more ---
as_if_stopped_after 10
ten_again=("${ten[@]}" --set optimizer.lr=3.0e-3)
echo stump >"$(checkpoint runs/run 10)"
train 2 run --resume "${ten_again[@]}" --set schedule.steps=9
says err 'goes on after step 8: 1 later checkpoint passed over is called .h5.bad'
same_file "$(checkpoint runs/run 10).bad" <(echo stump)
missing "$(checkpoint runs/run 10)"
cp "$(checkpoint runs/straight 10)" "$(checkpoint runs/run 10)"
expect 0 1 eval runs/run
same "step of the evaluation" "$(value step)" 9
train 2 run --resume "${ten_again[@]}"
says err 'is of a history that the run has left'
says err 'after step 9'
same "each step once" "$(grep '"event":"train"' runs/run/metrics.jsonl | value step /dev/stdin | tr '\n' ' ')" \
    '1 2 3 4 5 6 7 8 9 10 '
missing "$(checkpoint runs/run 10).bad"
expect 0 2 train tiny.yaml --set run.name=run --resume "${ten_again[@]}"
says err 'after step 10'

# --- what is refused changes nothing of a run that has ended ---
as_if_stopped_after 10
find runs/run -type f -exec cksum {} + >before
expect 2 2 train tiny.yaml --set run.name=run --resume "${ten[@]}" --set model.width=64
expect 0 0 status runs/run --json
says out '"state":"finished"'
same "files of a run after a resume that is refused" "$(find runs/run -type f -exec cksum {} +)" "$(cat before)"

# --- what does not fit the checkpoint: one error that names every key, with both values ---
as_if_stopped_after 8
{ cat text.txt; echo more; } >longer.txt
expect 2 2 train tiny.yaml --set run.name=run --resume "${ten[@]}" --set run.seed=4 --set data.length=64 \
    --set model.width=16 --set data.path=longer.txt --set 'model.attention.window=[24, 25]' --set optimizer.lr=1 \
    --set 'optimizer.betas=[0.9, 0.99]' --set train.log_every=2
for text in 'step-00000008.h5' 'in 9 keys' 'run.seed was 3, is 4' 'data.length was 128, is 64' \
    'model.width was 32, is 16' 'model.head_width was 16, is 8' 'model.mlp_width was 128, is 64' \
    'model.max_length was 128, is 64' 'model.attention.1.window was 24, is 25' \
    'optimizer.betas was [0.9, 0.95], is [0.9, 0.99]' \
    'the size of data.path in bytes was 6000, is 6005'; do
    says err "$text"
done
says_not err 'log_every'
says_not err 'optimizer.lr'
same "errors" "$(grep -c 'longhaul: error' err)" 1
expect 2 2 train tiny.yaml --set run.name=run "${ten[@]}"
says err '--resume'
same_file runs/run/metrics.jsonl runs/straight/metrics.jsonl
same_file runs/run/config.yaml runs/straight/config.yaml

# what the other build wrote goes on here, which is said; where that build lies beside this one
other=${LONGHAUL%/*}/../release/longhaul
if [ "$LH_PRECISION" = double ] && [ -x "$other" ]; then
    rm -rf runs/run
    LONGHAUL=$other train 2 run --set schedule.steps=2 --set checkpoint.every=1
    train 2 run --resume --set schedule.steps=3 --set checkpoint.every=1
    says err 'the precision of numbers was float, is double'
fi

finish
