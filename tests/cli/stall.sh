# A rank that hangs: it says where it is and ends, those that wait for it say so, the launcher ends the rest, and
# the checkpoint is as good as before (train.stall_seconds). Real hangs: a stopped process, a function that does
# not return (tests/stall_hook.c).
. "$LH_SOURCE/tests/cli/lib.sh"
unset OMPI_MCA_odls_base_sigkill_timeout # ranks that are killed at once cannot say where they wait

write_text text.txt 6000
write_experiment tiny.yaml text.txt
host=$(hostname)
stall=3
quiet=(--set train.log_every=1000 --set train.stall_seconds=$stall)

# before: what the runs below begin with
train 3 run --set schedule.steps=4 --set checkpoint.every=4
mv runs/run before

# start NAME RANK FUNCTION ARGUMENTS...: goes on without end on 3 ranks, in the background, with its output in NAME/err; FUNCTION
# hangs on RANK as soon as NAME/when is there. Each rank leaves its process number in NAME/pid.RANK. When all is
# over, NAME/end has the exit code and the time.
start() {
    local name=$1
    mkdir -p "$name/runs"
    cp -r before "$name/runs/run"
    # shellcheck disable=SC2086,SC2016
    (
        LH_STALL_RANK=$2 LH_STALL_IN=$3 LH_STALL_WHEN=$PWD/$name/when LH_STALL_NAME=$name \
            timeout --kill-after=5 25 $LH_MPIEXEC 3 bash -c 'echo $$ >$LH_STALL_NAME/pid.$OMPI_COMM_WORLD_RANK
                if [ "$OMPI_COMM_WORLD_RANK" = "$LH_STALL_RANK" ]; then export LD_PRELOAD=$LH_STALL_HOOK; fi
                exec "$0" "$@"' "$LONGHAUL" train tiny.yaml --resume --set run.name=run --set run.output="$name/runs" \
            --set schedule.steps=1000000 "${quiet[@]}" "${@:4}" >"$name/out" 2>"$name/err"
        echo $? $SECONDS >"$name/end"
    ) &
}

# running NAME: waits until it has done a step
running() {
    for _ in $(seq 200); do
        if grep -q '^step 5/' "$1/err"; then return; fi
        sleep 0.05
    done
    fail "$1 has done no step after 10 s:"
    cat "$1/err"
}

# ended NAME SECONDS: by itself, not well, this long after the hang began at the latest
ended() {
    local code end
    read -r code end <"$1/end"
    holds "$1 fails, and is not ended from outside ($code)" "$code != 0 && $code != 124 && $code != 137"
    holds "$1 ends within seconds" "$end - $since <= $2"
    for pid in "$1"/pid.*; do
        for _ in $(seq 40); do # the launcher does not wait for whom it has killed
            kill -0 "$(cat "$pid")" 2>/dev/null || break
            sleep 0.05
        done
        if kill -0 "$(cat "$pid")" 2>/dev/null; then fail "$1: process $pid is still there"; else pass; fi
    done
    same_file "$(checkpoint "$1/runs/run" 4)" "$(checkpoint before 4)"
}

# hangs NAME RANK WHERE: this rank names itself and where it is, and no other does
hangs() {
    ended "$1" $((stall + 8))
    if grep -E "^longhaul: rank $2 on $host hangs.*: nothing has moved for $stall s \(train.stall_seconds\) in: $3" \
        "$1/err" >line; then
        pass
    else
        fail "$1: rank $2 does not say '$3':"
        cat "$1/err"
    fi
    same "$1: ranks that hang" "$(grep -cE '^longhaul: rank [0-9]+ on [^ ]+ hangs' "$1/err")" 1
}

# Sanitizers want to be the first library, so that there is no hook.
hook=$([ -n "${ASAN_OPTIONS:-}" ] || echo yes)
start stopped -1 none
running stopped
if [ -n "$hook" ]; then
    start compute 1 sincos
    start data 2 pread
    start sync 0 fsync --set checkpoint.every=8 --set checkpoint.keep=1000 # step 4 stays, however long the others take
    running compute
    running data
    running sync
    touch compute/when data/when sync/when
fi
since=$SECONDS
kill -STOP "$(cat stopped/pid.1)" # its watchdog with it

# Long work is no hang: an operation that computes for longer than the limit.
if [ -n "$hook" ]; then
    write_text long.txt 20000
    expect 0 1 train tiny.yaml --set run.name=long --set device.isa=portable --set data.path=long.txt \
        --set data.length=12288 --set schedule.steps=1 --set train.stall_seconds=1 --set train.eval_every=0 \
        --set model.layers=1 --set model.heads=1 --set model.width=64 --set 'model.attention={mechanism: full}'
    holds "the step takes longer than the limit" "$(metric runs/long train 1 step_s) > 2"
    says_not err stall_seconds
fi
wait

ended stopped $((stall + 8))
for rank in 0 2; do
    if grep -E "^longhaul: rank $rank on $host waits for other ranks: nothing has moved for $stall s .* in: step [0-9]+, .*, in MPI_" \
        stopped/err >line; then
        pass
    else
        fail "rank $rank does not say that it waits"
        cat stopped/err
    fi
done
says stopped/err 'one that says nothing (stopped, or lost with its node)'
says_not stopped/err ' hangs: '
if [ -n "$hook" ]; then
    hangs compute 1 'step [0-9]+, forward and backward pass, forward of rotary_angles\.'
    hangs data 2 'step [0-9]+, reading data\.'
    hangs sync 0 'step [0-9]+, writing a checkpoint\.'
    says sync/err 'Look at the file system of run.output'
fi

# what is left goes on with the bits of a run that never stopped
mv stopped/runs/run runs/run
train 3 run --resume --set schedule.steps=6 --set checkpoint.every=6
says err 'after step 4'
mv runs/run runs/resumed
train 3 run --set schedule.steps=6 --set checkpoint.every=6
same_file "$(checkpoint runs/run 6)" "$(checkpoint runs/resumed 6)"
finish
