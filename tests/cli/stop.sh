# Stopping on request, and being killed: the ranks finish the step, write a checkpoint and exit 75; whatever ends a
# run, the next one goes on, and at the end all is as if nobody had disturbed it (README, invariant 3).
. "$LH_SOURCE/tests/cli/lib.sh"
unset OMPI_MCA_odls_base_sigkill_timeout # how a launcher that is stopped treats its ranks is what is looked at

write_text text.txt 6000
write_experiment tiny.yaml text.txt
head -c 3000000 /dev/zero | tr '\0' a >long.txt # an evaluation of it takes seconds
long=(--set data.valid_path=long.txt)

# start LINES ARGUMENTS...: the run without end goes on in the background, until it has `started`, with so many lines more;
# numbers of processes in $launcher and ${ranks[@]}
start() {
    local lines=$1
    shift
    if [ "$lines" -gt 0 ]; then lines=$((lines + $(cat runs/run/metrics.jsonl 2>/dev/null | wc -l))); fi
    rm -f pid.* launcher
    # shellcheck disable=SC2086,SC2016
    timeout --kill-after=5 60 bash -c 'echo $$ >launcher; exec "$@"' - \
        $LH_MPIEXEC 2 bash -c 'echo $$ >pid.$$; exec "$0" "$@"' "$LONGHAUL" train tiny.yaml \
        --set run.name=run --set schedule.steps=1000000 "${long[@]}" --resume "$@" >out 2>err &
    job=$!
    for _ in $(seq 3000); do
        ranks=($(cat pid.* 2>/dev/null)) # a file may be there and not yet say who
        if [ "${#ranks[@]}" = 2 ] && started "$lines"; then break; fi
        sleep 0.01
    done
    launcher=$(cat launcher)
}

# started LINES: so many lines are there; 0: both ranks have caught SIGTERM and SIGUSR1, which is before MPI starts
started() {
    local mask pid
    if [ "$1" -gt 0 ]; then
        [ "$(cat runs/run/metrics.jsonl 2>/dev/null | wc -l)" -ge "$1" ]
        return
    fi
    for pid in "${ranks[@]}"; do
        mask=$(sed -nE 's/^SigCgt:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null)
        [ -n "$mask" ] && [ $((16#$mask & 0x4200)) = $((0x4200)) ] || return
    done
}

# ended WHAT: the run has ended; $code
ended() {
    wait "$job"
    code=$?
    if [ "$code" = 124 ]; then fail "$1: the run hangs"; fi
}

# stopped_well WHAT: exit code 75, a message, nothing on standard output, and the checkpoint of that step
stopped_well() {
    ended "$1"
    same "$1: exit code" "$code" 75
    stopped=$(sed -nE 's/^stopped on request after step ([0-9]+).*/\1/p' err)
    if [ -z "$stopped" ]; then
        fail "$1: nobody says after which step:"
        cat err
        return
    fi
    same "$1: standard output" "$(cat out)" ''
    exists "$(checkpoint runs/run "$stopped")"
}

# newest: step of the newest checkpoint
newest() {
    local file
    for file in runs/run/checkpoints/step-*.h5; do :; done
    file=$(basename "$file" .h5)
    echo $((10#${file#step-}))
}

if thorough; then
    # before the first step, while MPI starts and data are opened: one step is done
    start 0
    kill -TERM "${ranks[@]}"
    stopped_well "SIGTERM at the start"
    same "SIGTERM at the start: step" "$stopped" 1
fi

start 4
kill -USR1 "$launcher" # which passes it on
stopped_well "SIGUSR1 to the launcher"

if thorough; then
    # in the middle of an evaluation that would take long
    step=$stopped
    start 1 --set train.eval_every=$((step + 1)) --set train.eval_tokens=0 # that of the step to come
    kill -TERM "${ranks[0]}" # one rank alone is asked
    stopped_well "SIGTERM to a rank that evaluates"
    same "SIGTERM to a rank that evaluates: step" "$stopped" $((step + 1))

    # most of the time a checkpoint is being written
    start 3 --set checkpoint.every=1
    kill -INT "${ranks[@]}"
    stopped_well "SIGINT to all ranks"

    # a rank that waits for another one cannot finish its step: asked a second time, it ends at once
    start 3 --set checkpoint.every=2
    kill -STOP "${ranks[0]}"
    kill -TERM "${ranks[1]}"
    for _ in $(seq 100); do
        if ! kill -TERM "${ranks[1]}" 2>/dev/null; then break; fi
        sleep 0.05
    done
    ended "two SIGTERM"
    holds "two SIGTERM: exit code $code" "$code != 0 && $code != 75"
    expect 0 0 inspect "$(checkpoint runs/run "$(newest)")"

    # the launcher ends its ranks itself, and soon
    start 3 --set checkpoint.every=2
    kill -TERM "$launcher"
    ended "SIGTERM to the launcher"
    holds "SIGTERM to the launcher: exit code $code" "$code != 0"
    expect 0 0 inspect "$(checkpoint runs/run "$(newest)")"
fi

# without a launcher: a reader that goes (SIGPIPE) changes nothing, a terminal that goes (SIGHUP) and the limit on
# processor time (SIGXCPU) stop the run in good order, unless it was started by nohup
alone=(train tiny.yaml --set schedule.steps=1000000 --set checkpoint.every=1000000 --set train.eval_every=0)
{
    "$LONGHAUL" "${alone[@]}" --set run.name=piped 2>&1 &
    echo $! >pid.piped
    wait $!
    echo $? >code.piped
} | head -n 2 >/dev/null &
for _ in $(seq 600); do [ -s pid.piped ] && [ "$(cat runs/piped/metrics.jsonl 2>/dev/null | wc -l)" -gt 20 ] && break || sleep 0.05; done
kill -TERM "$(cat pid.piped)"
for _ in $(seq 600); do [ -s code.piped ] && break || sleep 0.05; done
same "a reader that goes: exit code" "$(cat code.piped)" 75
for how in HUP XCPU $(thorough && echo nohup); do
    $([ "$how" = nohup ] && echo nohup) "$LONGHAUL" "${alone[@]}" --set run.name="$how" >out 2>err &
    job=$!
    for _ in $(seq 600); do [ "$(cat "runs/$how/metrics.jsonl" 2>/dev/null | wc -l)" -gt 3 ] && break || sleep 0.05; done
    kill -"${how/nohup/HUP}" "$job"
    if [ "$how" = nohup ]; then
        sleep 0.3
        kill -TERM "$job"
        says err 'step' # it went on
    fi
    wait "$job"
    same "SIG$how: exit code" $? 75
    same "SIG$how: checkpoints" "$(ls "runs/$how/checkpoints" | wc -l)" 1
done

start 5 --set checkpoint.every=2
kill -KILL "${ranks[1]}"
ended "SIGKILL"
holds "a killed run fails ($code)" "$code != 0"

# --- to the end: the same bits as a run that nobody disturbed ---
stopped=$(newest)
end=(--set schedule.steps=$((stopped + 3)) --set checkpoint.every=1000000 --set train.eval_tokens=1000 "${long[@]}")
train 2 run --resume "${end[@]}"
says err "after step $stopped"
says err "schedule.steps was 1000000, is $((stopped + 3))"
if thorough; then
    # a run that has ended says again how: asked to stop, it leaves its long evaluation, and has ended all the same
    results runs/run >before
    start 0 "${end[@]}" --set train.eval_tokens=0
    kill -USR1 "$launcher"
    ended "SIGUSR1 to a run that has ended"
    same "SIGUSR1 to a run that has ended: exit code" "$code" 75
    says err "finished at step $((stopped + 3)) before"
    same "its metrics" "$(results runs/run)" "$(cat before)"
    expect 0 0 status runs/run --json
    same "its state" "$(value state)" '"finished"'
fi
mv runs/run runs/disturbed
train 2 run "${end[@]}"
same_file "$(checkpoint runs/disturbed $((stopped + 3)))" "$(checkpoint runs/run $((stopped + 3)))"
same "losses of the disturbed run" "$(losses runs/disturbed | cksum)" "$(losses runs/run | cksum)"
same "samples of the disturbed run" \
    "$(value samples runs/disturbed/metrics.jsonl | cksum)" "$(value samples runs/run/metrics.jsonl | cksum)"
finish
