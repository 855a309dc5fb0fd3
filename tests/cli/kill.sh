# A rank is killed (SIGKILL) at a random moment, also while a checkpoint is being written; the run is resumed and killed
# again until its end. No checkpoint that was complete is lost, every job ends within seconds, and the end is that of the
# undisturbed run, bit by bit. LH_KILLS: how many kills that are followed by a resume (default 5; under run.sh --all 200 in
# the release build, 20 in others). LH_SEED repeats the draws of a run that failed, though not the machine's timing.
. "$LH_SOURCE/tests/cli/lib.sh"

wanted=5
if [ -n "${LH_ALL:-}" ]; then
    wanted=20
    if [ "$LH_PRECISION" = float ] && [ -z "${ASAN_OPTIONS:-}" ]; then wanted=200; fi
fi
wanted=${LH_KILLS:-$wanted}
seed=${LH_SEED:-$$}
RANDOM=$seed
steps=30       # of a run
patience=10000 # milliseconds that a job may take to end once a rank is dead

write_text text.txt 3000
write_experiment tiny.yaml text.txt

# look: $newest is the step of the newest complete checkpoint, 0: none
look() {
    local file
    newest=0
    for file in runs/run/checkpoints/step-*.h5; do
        if [ -e "$file" ]; then newest=${file##*step-} newest=$((10#${newest%.h5})); fi
    done
}

now() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); } # milliseconds
pause() { sleep "$(printf '0.%03d' $((RANDOM % $1)))"; } # less than so many milliseconds

# until_it TEST: wait; false when the job has ended before
until_it() {
    until "$1"; do
        kill -0 "$job" 2>/dev/null || return 1
        if [ "$1" != is_writing ]; then sleep 0.003; fi
    done
}
has_started() {
    local file count=0
    for file in pid.*; do if [ -s "$file" ]; then count=$((count + 1)); fi; done
    [ "$count" = "$ranks" ]
}
has_written() {
    look
    [ "$newest" -gt "$had" ]
}
is_writing() { compgen -G 'runs/run/checkpoints/*.tmp' >/dev/null; }

# strike MOMENT VICTIM: this rank of the running job is killed: while the program starts, some time after it has written its
# first checkpoint, or while a checkpoint is being written. $newest: what was complete before.
strike() {
    dead=$(now)
    until_it has_started || return
    case $1 in
    start) pause 400 ;;
    any) until_it has_written && pause 120 ;;
    write) until_it has_written && pause 40 && until_it is_writing && pause 8 ;;
    esac
    look
    kill -KILL "$(cat "pid.$2")" 2>/dev/null
    dead=$(now)
}

# some_rank_lives: a process that has ended, but that the launcher has not asked for, does not
some_rank_lives() {
    local file
    for file in pid.*; do
        if grep -q '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$(cat "$file")/status" 2>/dev/null; then return 0; fi
    done
    return 1
}

# look_after_it: mpirun of Open MPI 4.1 sometimes waits for itself for ever when a rank dies in MPI_Init
# (PMIx_server_finalize). All ranks are gone by then, so that is its own affair, but it is counted.
look_after_it() {
    local rank_died=$dead
    while kill -0 "$job" 2>/dev/null; do
        sleep 0.02
        if [ $(($(now) - rank_died)) -le $patience ] || some_rank_lives; then continue; fi
        stuck=$((stuck + 1))
        kill -KILL $(ps -o pid= --ppid "$job") "$job"
        dead=$(now)
    done
}

# resumed_well: what this life of the run said about its beginning
resumed_well() {
    if grep -q 'passing over' err; then fail "seed $seed: a checkpoint is not whole: $(cat err)"; fi
    if grep -qF "after step $had" err || { [ "$had" = 0 ] && grep -q 'starting anew' err; }; then
        resumes=$((resumes + after_kill))
    elif grep -qE 'resuming|starting anew' err; then
        fail "seed $seed: step $had was complete, but: $(cat err)"
        lost=$((lost + 1))
    fi
}

# died_well: the job of which a rank was killed
died_well() {
    local took=$(($(now) - dead)) before=$newest
    kills=$((kills + 1))
    if [ "$took" -gt "$slowest" ]; then slowest=$took; fi
    if [ "$code" = 124 ] || [ "$took" -gt $patience ]; then
        fail "seed $seed, kill $kills of rank $victim ($moment): $took ms to the end"
    fi
    if is_writing; then torn=$((torn + 1)); fi
    look
    if [ "$newest" -lt "$before" ]; then
        fail "seed $seed, kill $kills: step $before was complete, now the newest is $newest"
        lost=$((lost + 1))
    fi
}

# live MOMENT: one life of the run, from its launch to its end or to the death of a rank
live() {
    rm -f pid.*
    # Open MPI gives the other ranks a second before it kills them; most of the time that would only be waiting
    export OMPI_MCA_odls_base_sigkill_timeout=$((wanted > 9 && RANDOM % 4 == 0))
    look
    had=$newest
    # shellcheck disable=SC2086,SC2016
    timeout --kill-after=5 60 $LH_MPIEXEC $ranks bash -c \
        'echo $$ >"pid.${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}"; exec "$0" "$@"' \
        "$LONGHAUL" train tiny.yaml --resume "${settings[@]}" >out 2>err &
    job=$!
    victim=$((RANDOM % ranks))
    if [ "$1" != none ]; then
        strike "$1" $victim
        look_after_it
    fi
    wait "$job"
    code=$?
    resumed_well
    if [ "$code" != 0 ]; then died_well; fi
}

kills=0 resumes=0 lost=0 torn=0 runs=0 slowest=0 stuck=0
while [ "$resumes" -lt "$wanted" ]; do
    ranks=$((2 + runs % 2)) every=$((1 + runs / 2 % 2)) after_kill=0
    straight=straight.$ranks.$every
    settings=(--set run.name=run --set model.layers=1 --set schedule.steps=$steps --set train.eval_every=0
        --set checkpoint.every=$every --set checkpoint.keep=2)
    rm -rf runs/run
    # a checkpoint holds the run's name: the undisturbed run has the same, and moves away
    if [ ! -e "$straight" ]; then
        expect 0 "$ranks" train tiny.yaml "${settings[@]}"
        mv runs/run "$straight"
    fi
    code=1
    while [ "$code" != 0 ]; do
        moments=(start any any write write)
        moment=${moments[RANDOM % 5]}
        if [ "$resumes" -ge "$wanted" ]; then moment=none; fi
        live "$moment"
        after_kill=1
        if [ "$moment" = none ] && [ "$code" != 0 ]; then
            fail "a run that nobody disturbs ends with $code: $(cat err)"
            break
        fi
    done
    runs=$((runs + 1))
    same_file "$(checkpoint runs/run $steps)" "$(checkpoint "$straight" $steps)"
    same "metrics of a run that was killed" "$(results runs/run)" "$(results "$straight")"
done
echo "seed $seed: $kills ranks killed in $runs runs, $torn of them while a checkpoint was being written; $resumes resumes," \
    "$lost lost checkpoints; the slowest job ended $slowest ms after the kill; $stuck times mpirun stayed when all ranks were gone"
same "lost checkpoints" "$lost" 0
finish
