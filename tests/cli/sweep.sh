# A sweep: all points in one launch, each an ordinary run; interrupted, resumed, changed, one point alone; the same study
# gives the same bytes, and what is finished is not done again.
. "$LH_SOURCE/tests/cli/lib.sh"

write_text text.txt 6000
write_experiment tiny.yaml text.txt
cat >sweep.yaml <<'EOF'
base: tiny.yaml
checkpoint: {every: 2, keep: 9}
sweep:
  grid:
    optimizer.lr: [1.0e-2, 2.0e-2]
    model.attention.window: [24, [16, 8]]
  seeds: [3]
EOF

# sums FOLDER: of all that must be the same bytes: sweep.json, configurations, checkpoints, and what metrics say but for times
sums() {
    local run
    (cd "$1" && cksum sweep.json ./*/config.yaml ./*/checkpoints/*)
    for run in "$1"/0*; do results "$run" | cksum; done
}
# stamps FOLDER...: of every file bytes and the time it was written
stamps() {
    find "$@" -type f -printf '%p %T@ ' -exec cksum {} \; | sort
}

# --- the undisturbed sweep, twice ---
expect 0 0 plan sweep.yaml --points
same "points" "$(wc -l <out)" 4
says out '4 optimizer.lr: 0.02, model.attention.window: [16, 8], seed 3'
expect 0 2 train sweep.yaml
cp out straight.out
same "results" "$(value point | tr '\n' ' ')" '1 2 3 4 '
says out '"tokens":300,"point":4,"dir":"0004","values":{"optimizer.lr":0.02,"model.attention.window":[16,8]},"seed":3}'
says err 'point 4 of 4: optimizer.lr: 0.02, model.attention.window: [16, 8], seed 3'
same "the table" "$(grep -c '^000[1-4] *finished *5 ' err)" 4
says runs/sweep.json '{"sweep":1,"points":[{"point":1,"dir":"0001","values":{"optimizer.lr":0.01,"model.attention.window":24},"seed":3},'
mv runs straight
expect 0 2 train sweep.yaml
same_file out straight.out
same "the same study again" "$(sums runs)" "$(sums straight)"

# a point is what a run with these values is
expect 0 2 train tiny.yaml --set run.name=alone --set optimizer.lr=0.02 \
    --set 'model.attention.window=[16, 8]'
same "losses of a point" "$(losses runs/0004)" "$(losses runs/alone)"
rm -r runs/alone

# --- what is there stays: without --resume, with other points, with another model ---
stamps runs >before
for change in '' '--resume --set sweep=null --set sweep.seeds=2' '--resume --set model.width=16' \
    '--resume --set sweep.seeds=[6]' '--resume --set optimizer.clip=2' '--point 2'; do
    # shellcheck disable=SC2086
    expect 2 1 train sweep.yaml $change
    case $change in
    '') says err "runs/0001' has been trained: give --resume" ;;
    *seeds=2) says err 'the sweep has 2 points, and' ;;
    *clip=2) says err 'optimizer.clip was 1.0, is 2.0' ;;
    *16) says err "runs/0001' in 3 keys:" && says err 'model.width was 32, is 16' ;;
    *6\]) says err "sweep.json': point 1 was (optimizer.lr: 0.01, model.attention.window: 24, seed 3), is (optimizer.lr: 0.01, model.attention.window: 24, seed 6)" ;;
    *) says err "runs/0002' has been trained: give --resume" ;;
    esac
done
expect 0 2 train sweep.yaml --resume
same_file out straight.out
says_not err 'parameters'
same "files of a finished sweep" "$(stamps runs)" "$(cat before)"

# more steps, in one point alone: it says so
cp -r runs kept
printf 'torn \0\0\0' >>runs/0001/log.txt # as a machine that crashed leaves it
expect 75 1 train sweep.yaml --point 1 --resume --set schedule.steps=9 --set train.time_limit=0.01
says err 'point 1 was finished and goes on with other settings'
says err 'schedule.steps was 5, is 9'
same "the torn line" "$(tr '\0' ' ' <runs/0001/log.txt | grep -c '^torn *$')" 1
expect 0 1 train sweep.yaml --point 1 --resume --set schedule.steps=9
says_not err 'finished before'
same "its end" "$(value step)" 9
rm -r runs && mv kept runs

# --- interrupted in point 2, after its checkpoint of step 4 ---
rm -r runs/000[34] "$(checkpoint runs/0002 5)"
sed -i '/finished at step/d' runs/0002/log.txt
stamps runs/0001 runs/sweep.json >before
expect 0 0 status runs
same "states" "$(awk 'NR > 1 { print $2 }' out | uniq | tr '\n' ' ')" 'finished running waiting '
expect 0 0 status runs --json
same "states in JSON" "$(grep -o '"state":"[a-z]*"' out | sort | uniq -c | awk '{ printf "%s %s ", $1, $2 }')" \
    '1 "state":"finished" 1 "state":"running" 2 "state":"waiting" '
same "finished" "$(value finished)" 1
expect 0 2 train sweep.yaml --resume
same_file out straight.out
says err "runs/0002' after step 4"
same "points begun" "$(grep -c 'parameters' err)" 3
same "an interrupted sweep" "$(sums runs)" "$(sums straight)"
same "its finished points" "$(stamps runs/0001 runs/sweep.json)" "$(cat before)"

# a log that says finished, of a point whose steps say that it is not: it goes on
rm "$(checkpoint runs/0003 5)"
sed -i '/"step":5,/d' runs/0003/metrics.jsonl
expect 0 2 train sweep.yaml --resume
same_file out straight.out
says err "runs/0003' after step 4"
same "a point that was taken for finished" "$(sums runs)" "$(sums straight)"

# --- more seeds are more points at the end ---
stamps runs/000[1-4] >before
expect 0 1 train sweep.yaml --resume --set 'sweep.seeds=[3,5]'
same "points with another seed" "$(value seed | uniq -c | awk '{ printf "%s x %s, ", $1, $2 }')" '4 x 3, 4 x 5, '
same "points of before" "$(stamps runs/000[1-4])" "$(cat before)"
says runs/sweep.json '"point":8'

# --- one point alone, several at the same time, as in a job array ---
rm -r runs
launched=()
for point in 1 2 3 4; do
    # shellcheck disable=SC2086
    timeout 60 $LH_MPIEXEC 2 "$LONGHAUL" train sweep.yaml --point $point --resume >out.$point 2>err.$point &
    launched+=($!)
done
for pid in "${launched[@]}"; do
    wait "$pid"
    same "exit code of a point alone" $? 0
done
cat out.? >out
same_file out straight.out
same "points alone" "$(sums runs)" "$(sums straight)"
same "files beside" "$(ls -A runs | tr '\n' ' ')" '0001 0002 0003 0004 sweep.json '
expect 2 1 train sweep.yaml --point 9
says err 'there is no point 9, they go from 1 to 4'

# --- asked to stop: the step ends, a checkpoint, no other point, 75 ---
rm -r runs
long=(--set schedule.steps=1000000)
# shellcheck disable=SC2016,SC2086
timeout --kill-after=5 60 bash -c 'echo $$ >launcher; exec "$@"' - \
    $LH_MPIEXEC 2 "$LONGHAUL" train sweep.yaml "${long[@]}" >first.out 2>first.err &
job=$!
for _ in $(seq 3000); do
    if [ "$(cat runs/0001/metrics.jsonl 2>/dev/null | wc -l)" -ge 3 ]; then break; fi
    sleep 0.01
done
expect 2 1 train sweep.yaml --resume --set schedule.steps=1 # a second time, while the first launch goes on
says err "runs' is being trained by another launch"
kill -USR1 "$(cat launcher)"
wait "$job"
same "exit code of a sweep that is stopped" $? 75
mv first.out out
mv first.err err
missing runs/.lock runs/0001/.lock
says err 'the sweep stopped in point 1'
missing runs/0002
same "standard output" "$(cat out)" ''
stopped=$(sed -nE 's/^stopped on request after step ([0-9]+).*/\1/p' err)
expect 0 0 status runs
says out '0001   stopped'
end=(--set schedule.steps=$((stopped + 2)) --set checkpoint.every=1000000 --set 'sweep={grid: {optimizer.lr: [1.0e-2, 2.0e-2]}}')
rm runs/sweep.json # of four points
expect 0 2 train sweep.yaml --resume "${end[@]}"
says err "runs/0001' after step $stopped"
mv runs/0001/checkpoints disturbed
rm -r runs
expect 0 2 train sweep.yaml "${end[@]}"
same_file "disturbed/step-$(printf %08d $((stopped + 2))).h5" "$(checkpoint runs/0001 $((stopped + 2)))"

# --- stopped in the last step of each point: its evaluation is made up, and is the result ---
rm -r runs
short=(--set schedule.steps=1 --set 'sweep={grid: {optimizer.lr: [1.0e-2, 2.0e-2]}}')
expect 0 1 train sweep.yaml "${short[@]}"
cp out short.out
mv runs short
code=75
for _ in 1 2 3 4 5; do
    if [ "$code" = 75 ]; then longhaul 1 train sweep.yaml --resume "${short[@]}" --set train.time_limit=0.01; fi
done
same "exit code of the last launch" "$code" 0
same_file out short.out
for point in 1 2; do same "metrics of point $point" "$(results runs/000$point)" "$(results short/000$point)"; done

# --- a point that fails: the others are done, all are named ---
rm -r runs
fails=(--set 'sweep={grid: {optimizer.lr: [1.0e-2, 1.0e+30, 2.0e-2]}}')
expect 1 2 train sweep.yaml "${fails[@]}"
says err 'longhaul: point 2 failed: '
says err '1 of 3 points failed: 2 ('
same "points that are done" "$(value point | tr '\n' ' ')" '1 3 '
expect 0 0 status runs
same "states" "$(awk 'NR > 1 { print $2 }' out | tr '\n' ' ')" 'finished failed finished '
stamps runs/0001 runs/0003 >before
expect 1 2 train sweep.yaml "${fails[@]}" --resume
same "the others" "$(stamps runs/0001 runs/0003)" "$(cat before)"

rm -r runs
expect 2 2 train sweep.yaml --set 'sweep={grid: {data.path: [gone.txt, text.txt]}}'
says err 'longhaul: point 1 failed: '
says err 'gone.txt'
same "points that are done" "$(value point)" 2

# --- a point that cannot be is an error before anything is done, on all ranks ---
rm -r runs
expect 2 2 train sweep.yaml --set 'sweep={grid: {model.heads: [2, 3]}}'
says err "point 2 of the sweep's 2 (model.heads: 3): --set sweep={grid: {model.heads: [2, 3]}}: key 'model.heads': 3 does not divide"
same "errors" "$(grep -c 'error' err)" 1
expect 2 2 train sweep.yaml --set 'sweep={grid: {mesh.data: [1, 2, 4]}}' --set data.batch=4
says err 'point 3 of the sweep (mesh.data: 4, seed 3): mesh.data 4 does not divide 2 ranks'
for set in model.attention.window=8 'model={attention: {window: 8}}'; do
    expect 2 1 train sweep.yaml --set 'sweep={list: [{model.attention: {mechanism: full}}, {model.attention: {mechanism: sliding_window, window: 4}}]}' \
        --set "$set"
    says err "--set $set: key 'model.attention' varies in the sweep"
done
expect 2 1 train tiny.yaml --point 1
says err 'has no sweep'
missing runs
expect 2 0 plan sweep.yaml
says err 'train and plan take one of them with --point K'
expect 2 1 bench step sweep.yaml
says err "sweep.yaml:4:3: key 'sweep': these are 4 runs, and one is wanted here"
expect 0 0 plan sweep.yaml --point 2

# --- memory does not grow from point to point (the address sanitizer keeps what is released for a while) ---
expect 0 1 train sweep.yaml --set 'sweep={seeds: 24}' --set schedule.steps=1
rss=($(cat runs/0008/metrics.jsonl runs/0024/metrics.jsonl | grep '"train"' | value rss_peak_bytes /dev/stdin))
[ -n "${ASAN_OPTIONS:-}" ] || holds "memory of a process, points 8 and 24: ${rss[*]}" "${rss[1]} <= ${rss[0]} * 1.01"
finish
