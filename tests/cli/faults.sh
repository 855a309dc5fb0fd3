# What ends a run from outside: a full disk, a file size limit, a folder that is read-only or goes away, too little memory,
# ranks that are started differently. Each ends within seconds with one clear message, an exit code that is not 0, and the
# checkpoint before it as it was.
# shellcheck disable=SC2016 # what ranks run is expanded there
. "$LH_SOURCE/tests/cli/lib.sh"

limit=30 # seconds
write_text text.txt 6000
write_experiment tiny.yaml text.txt

# The program behind a script that every rank runs first: as_rank COMMANDS, in which $rank is its number.
cat >wrapped <<END
#!/usr/bin/env bash
rank=\${OMPI_COMM_WORLD_RANK:-\${PMI_RANK:-0}}
. ./as_rank
exec "$LONGHAUL" "\$@"
END
chmod +x wrapped
LONGHAUL=./wrapped
as_rank() { echo "$1" >as_rank; }
as_rank ''

# one_message TEXT: the program has said one thing that went wrong, with this text in it
one_message() {
    same "messages" "$(grep -cE '^longhaul: (error|rank [0-9]+):' err)" 1
    says err "$1"
}

# --- ranks that are started differently ---
differs() {
    as_rank "$1"
    expect 2 3 train tiny.yaml
    one_message "$2"
}
differs 'if [ $rank = 2 ]; then set -- "$@" --set optimizer.lr=0.5; fi' \
    "the command line differs between ranks: rank 2 has '--set optimizer.lr=0.5' where rank 0 has ''"
if [ -n "${LH_ALL:-}" ]; then
    cp tiny.yaml other.yaml
    differs 'if [ $rank != 0 ]; then set -- train other.yaml; fi' "rank 1 has 'other.yaml' where rank 0 has 'tiny.yaml'"
    differs 'if [ $rank = 1 ]; then set -- --help; fi' "rank 1 has '--help' where rank 0 has 'train tiny.yaml'"
    differs 'if [ $rank = 0 ]; then set -- train; fi' "rank 1 has 'tiny.yaml' where rank 0 has ''"
    as_rank ''
    expect 0 3 --version # of one rank alone
    same "versions" "$(wc -l <out)" 1
fi
missing runs

# --- ranks that see other data: as nodes do that have copies of their own. /proc/self/cwd leads each to its own folder ---
tr a-z b-za <text.txt >other.txt
expect 0 0 prepare text.txt --out text.h5
expect 0 0 prepare other.txt --out other.h5
mkdir elsewhere
cp other.txt elsewhere/text.txt
cp other.h5 elsewhere/text.h5
for data in 'data.path text.txt' 'data.path text.h5 --set data.task=tokens' 'data.valid_path text.txt'; do
    as_rank 'if [ $rank = 1 ]; then cd elsewhere; fi'
    # shellcheck disable=SC2086
    expect 2 3 train tiny.yaml --set ${data/ /=\/proc\/self\/cwd\/}
    one_message "key '${data%% *}': rank 1: "
    says err 'has the size that rank 0 sees, and other content'
done
head -c 5999 other.txt >elsewhere/text.txt
expect 2 3 train tiny.yaml --set data.path=/proc/self/cwd/text.txt
one_message "key 'data.path': rank 1: '/proc/self/cwd/text.txt' has 5999 bytes here and 6000 on rank 0"
missing runs
cp text.txt elsewhere/text.txt # an equal copy is fine
expect 0 3 train tiny.yaml --set data.path=/proc/self/cwd/text.txt
rm -r runs
as_rank ''

# --- a long run, to which something happens when it has its first checkpoint ---

# begin ARGUMENTS...: each rank leaves the number of its process in pid.RANK; $apart says which have a view of the disks of
# their own
apart=
begin() {
    rm -rf runs pid.*
    as_rank "$apart echo \$\$ >pid.\$rank"
    # shellcheck disable=SC2086
    timeout --kill-after=5 60 $LH_MPIEXEC 3 ./wrapped train tiny.yaml --set schedule.steps=1000000 \
        --set train.eval_every=0 --set checkpoint.every=50 --set checkpoint.keep=999 "$@" >out 2>err &
    job=$!
    for _ in $(seq 600); do
        if [ -e "$(checkpoint runs/tiny 50)" ]; then return; fi
        sleep 0.05
    done
    fail "the run has no checkpoint: $(cat err)"
}

# sound FILE...: these checkpoints are there, and whole
sound() {
    as_rank ''
    for file in "$@"; do expect 0 0 inspect "$file"; done
}

# ends TEXT: with exit code 1 and one message; nothing half written lies about, and the newest checkpoint is whole
ends() {
    local began=$SECONDS files
    wait "$job"
    same "exit code" $? 1
    holds "seconds to the end" "$((SECONDS - began)) < 15"
    one_message "$1"
    missing runs/*/checkpoints/*.tmp runs/*/*.tmp
    cp err ended
    files=(runs/*/checkpoints/*.h5)
    sound "${files[0]}" "${files[-1]}"
    cp ended err
}

# between_checkpoints COMMAND...: while no rank writes one, since HDF5 does not survive what comes in the middle
between_checkpoints() {
    local tries
    for tries in $(seq 100); do
        kill -STOP $(cat pid.*)
        if ! ls runs/tiny/checkpoints/*.tmp >/dev/null 2>&1; then "$@"; tries=0; fi
        kill -CONT $(cat pid.*)
        if [ "$tries" = 0 ]; then return; fi
        sleep 0.1
    done
    fail 'a checkpoint is always being written'
}

if command -v prlimit >/dev/null; then
    begin
    between_checkpoints prlimit --fsize=20000 --pid "$(cat pid.1)" # of a rank that does not write metrics
    ends 'the file size limit (ulimit -f) is 20000'
    if [ -n "${LH_ALL:-}" ]; then
        begin
        prlimit --fsize=$(($(wc -c <runs/tiny/metrics.jsonl) + 900)) --pid "$(cat pid.0)"
        ends 'ulimit -f'
    fi
fi

begin
mv runs/tiny runs/away
ends "the run's folder was removed or moved during the run"
exists "$(checkpoint runs/away 50)"

# --- a second launch in the folder of one that goes on, as when a job is queued again while the old one still runs ---
begin
as_rank ''
expect 2 1 train tiny.yaml --resume --set schedule.steps=51
one_message "runs/tiny' is being trained by another launch (process $(cat pid.0) on "
kill -USR1 "$(cat pid.0)"
wait "$job"
same "exit code of the first launch" $? 75
same "steps that are there twice" "$(value step runs/tiny/metrics.jsonl | sort | uniq -d)" ''
missing runs/tiny/.lock
echo 'process 1 on nowhere' >runs/tiny/.lock # of a run that was killed
expect 0 2 train tiny.yaml --resume --set schedule.steps=51
missing runs/tiny/.lock

# what goes on: a folder of checkpoints that is removed is made again, data that is removed stays open, a log on a full
# disk ends no run
if [ -n "${LH_ALL:-}" ]; then
    cp text.txt gone.txt
    begin --set data.path=gone.txt
    rm -rf gone.txt runs/tiny/checkpoints || rm -rf runs/tiny/checkpoints # one may be written meanwhile
    sleep 1
    kill -USR1 "$(cat pid.0)"
    wait "$job"
    same "exit code of a run that goes on" $? 75
    as_rank ''
    expect 2 2 train tiny.yaml --set data.path=gone.txt --resume
    one_message "key 'data.path'"
    sound runs/tiny/checkpoints/*.h5
fi

# --- memory ---
as_rank ''
expect 1 2 train tiny.yaml --set run.name=large --set model.width=20000
one_message 'GiB for parameters, gradients and moments, and it has'
if [ -n "${LH_ALL:-}" ]; then
    expect 1 2 train tiny.yaml --set run.name=large --set data.length=50000000 --set mesh.chunk=4096
    one_message 'GiB for parameters and a step, and it has'
fi
missing runs/large

# A control group with less memory than the node has, as batch systems make them: version 1 and 2, where one may be made.
group_memory() { # ROOT MINE FILE: in $group
    group=$1$2/longhaul-$$
    [ -d "$1$2" ] || group=$1/longhaul-$$ # a container that sees the root alone
    mkdir "$group" 2>/dev/null && echo 400000000 2>/dev/null >"$group/$3" && return
    rmdir "$group" 2>/dev/null
    return 1
}
if group_memory /sys/fs/cgroup/memory "$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup)" memory.limit_in_bytes ||
    group_memory /sys/fs/cgroup "$(sed -n 's/^0:://p' /proc/self/cgroup)" memory.max; then
    as_rank "echo \$\$ >$group/cgroup.procs"
    expect 1 2 train tiny.yaml --set run.name=large --set model.width=2000
    one_message 'GiB for parameters, gradients and moments, and it has 0.37 GiB'
    missing runs/large
    if [ -z "${ASAN_OPTIONS:-}" ]; then expect 0 2 train tiny.yaml --set run.name=grouped; fi
    rmdir "$group"
    as_rank ''
else
    echo 'no control group may be made here'
fi

# A stack, or a number of threads, that cannot be had. (The sanitizer's own frames are larger.)
if [ -z "${ASAN_OPTIONS:-}" ]; then
    for kib in 64 1024; do
        (ulimit -s $kib && exec "$LONGHAUL" plan tiny.yaml) >out 2>err
        same "a stack of $kib KiB: exit code" $? 2
        one_message "the stack is limited to $kib KiB, and 2048 are needed"
    done
    as_rank 'ulimit -v 3000000'
    expect 1 2 train tiny.yaml --set run.name=threads --set device.threads=4096
    one_message 'threads and not 4096 ('
    as_rank ''
fi

# Standard descriptors that are closed: what would go there goes nowhere else, and results that nobody gets are an error.
"$LONGHAUL" train tiny.yaml --set run.name=closed <&- 2>&- >out
same "closed input and messages: exit code, results" "$? $(grep -c '"loss"' out)" '0 1'
"$LONGHAUL" train tiny.yaml --set run.name=closed --resume <&- >&- 2>err
same "closed output: exit code" $? 1
says err 'standard output cannot be written'

# tight: a job of which ranks leave before MPI has started. Open MPI's mpirun sometimes stays behind then (see kill.sh), so
# that it has to be ended.
tight() {
    # shellcheck disable=SC2086
    timeout --kill-after=2 15 $LH_MPIEXEC 3 ./wrapped train tiny.yaml --set run.name=tight --set checkpoint.every=2 \
        >out 2>err
    code=$?
}
# virtual memory can be limited, but not under the sanitizer, which maps terabytes
if [ -z "${ASAN_OPTIONS:-}" ] && (ulimit -v 1000000) 2>/dev/null; then
    as_rank 'if [ $rank = 1 ]; then ulimit -v 200000; fi'
    tight
    holds "a rank without memory ends the job ($code)" "$code != 0"
    one_message 'MPI cannot start on this rank: no memory'
    if command -v prlimit >/dev/null; then
        begin
        # what it has, a little for MPI, and not what a checkpoint asks for
        size=$(awk '/VmSize/ { print $2 * 1024 + 16777216 }' "/proc/$(cat pid.2)/status")
        between_checkpoints prlimit --as="$size" --pid "$(cat pid.2)"
        ends 'rank 2: no memory'
    fi
    if [ -n "${LH_ALL:-}" ]; then
        # from nothing to enough, on one rank and on all
        for who in '$rank = 1' '0 = 0'; do
            for room in 30 50 100 150 200 250 260 270 280 290 300 310 320 330 340 350 400; do
                as_rank "if [ $who ]; then ulimit -v ${room}000; fi"
                rm -rf runs/tight
                tight
                if [ "$code" = 0 ]; then exists "$(checkpoint runs/tight 5)"; else holds "a message" "$(grep -ciE 'memory|failed to map' err) > 0"; fi
                missing runs/tight/checkpoints/*.tmp
            done
        done
    fi
fi
as_rank ''

# --- HDF5 itself fails to write, on the rank that writes most: the library's state is lost, and the job ends ---
if [ -n "${LH_ALL:-}" ] && [ -z "${ASAN_OPTIONS:-}" ]; then
    as_rank "if [ \$rank = 0 ]; then export LH_BAD_WRITES=1 LD_PRELOAD=$LH_BAD_DISK; fi"
    expect 1 3 train tiny.yaml --set run.name=broken --set checkpoint.every=2
    one_message 'cannot write'
    missing runs/broken/checkpoints/*
    as_rank ''
fi

# --- a disk of our own, where the system allows one: full, then read-only. In a script of its own, since the mount is seen
# by its processes alone, and ends with them ---
cat >disk.sh <<'END'
. "$LH_SOURCE/tests/cli/lib.sh"
limit=30
mount -t tmpfs -o size=1800k none disk || exit 1
rm -rf runs
on_disk=(--set run.output=disk --set checkpoint.every=2 --set checkpoint.keep=99 --set schedule.steps=1000
    --set train.eval_every=0)

# a log that takes nothing is no reason to end a run
if [ -n "${LH_ALL:-}" ]; then
    mkdir -p runs/full
    : >runs/full/log.txt
    mount --bind /dev/full runs/full/log.txt || fail '/dev/full cannot be mounted'
    train 2 full --set checkpoint.every=5
    expect 0 0 inspect "$(checkpoint runs/full 5)"
    umount runs/full/log.txt
    rm -rf runs
fi

# full: the disk fills up with checkpoints
full() {
    expect 1 3 train tiny.yaml "${on_disk[@]}"
    same "messages" "$(grep -cE '^longhaul: (error|rank [0-9]+):' err)" 1
    says err 'no room for about'
    says err 'No space left on device'
    missing disk/tiny/checkpoints/*.tmp
    local preload
    preload=$(cat as_rank)
    : >as_rank
    for file in "$(checkpoint disk/tiny 2)" disk/tiny/checkpoints/*.h5; do expect 0 0 inspect "$file"; done
    rm -rf disk/tiny
    echo "$preload" >as_rank
}
if [ -z "${ASAN_OPTIONS:-}" ]; then
    # where the file system cannot hold room, HDF5 must not meet the full disk either
    echo "export LD_PRELOAD=$LH_BAD_DISK" >as_rank
    full
    train 3 tiny --set checkpoint.every=5
    cp "$(checkpoint runs/tiny 5)" zeros.h5
    rm -rf runs/tiny
    : >as_rank
fi
train 3 tiny --set checkpoint.every=5
if [ -z "${ASAN_OPTIONS:-}" ]; then same_file "$(checkpoint runs/tiny 5)" zeros.h5; fi
if [ -n "${LH_ALL:-}" ]; then
    full
    head -c 1790000 /dev/zero >disk/rest # no room for metrics
    expect 1 2 train tiny.yaml "${on_disk[@]}" --set checkpoint.every=0
    same "messages" "$(grep -cE '^longhaul: error' err)" 1
    says err 'No space left on device'
    rm -rf disk/*
fi
cp -r runs/tiny disk/tiny
mount -o remount,ro disk
before=$(cksum disk/tiny/checkpoints/*)
expect 1 2 train tiny.yaml --set run.output=disk --resume --set schedule.steps=9
same "messages" "$(grep -c '^longhaul: error' err)" 1
says err 'Read-only file system'
same "checkpoints on a read-only disk" "$(cksum disk/tiny/checkpoints/*)" "$before"
if [ -n "${LH_ALL:-}" ]; then
    expect 0 2 eval disk/tiny # which writes nothing
    expect 1 2 train tiny.yaml --set run.output=disk --set run.name=new
    says err 'Read-only file system'
fi
finish
END
mkdir disk
if unshare -m mount -t tmpfs none disk 2>/dev/null; then
    # a folder that one rank does not see, or may not write in, from the start or later: what lies on a node's own disk
    apart='if [ $rank = 1 ] && [ -z "${apart:-}" ]; then apart=1 exec unshare -m ./wrapped "$@"; fi;'
    for view in 'none -t tmpfs' '--bind runs' '--bind -r runs'; do
        rm -rf runs
        mkdir runs
        as_rank "$apart if [ \$rank = 1 ]; then mount $view runs; fi"
        case $view in
        --bind\ runs) expect 0 2 train tiny.yaml --set checkpoint.every=2 ;; # another way to the same folder
        *)
            expect 1 2 train tiny.yaml --set checkpoint.every=2
            one_message "key 'run.output': rank 1: cannot write to"
            missing runs/tiny/metrics.jsonl runs/tiny/checkpoints/*
            ;;
        esac
    done
    begin
    between_checkpoints nsenter -m -t "$(cat pid.1)" mount -t tmpfs none "$PWD/runs/tiny/checkpoints"
    ends 'rank 1: cannot write to'
    as_rank ''
    LONGHAUL=./wrapped unshare -m bash disk.sh || fail "disk.sh, see above"
else
    echo "left out: a full and a read-only disk, since nothing can be mounted here"
fi
finish
