#!/usr/bin/env bash
# A Slurm of one node, this machine, for tests: slurm_begin starts munged, slurmctld and slurmd, whose files all lie in ./slurm,
# sets SLURM_CONF, and stops them when the shell ends. Needs root, and Debian's slurmctld, slurmd, slurm-client and munge
# (apt-get install); slurm_missing says what is not there.
#
# The node has two processors whatever the machine has, processes are followed by their group, and nothing is bound or limited:
# what a test needs, no more.

slurm_missing() {
    local tool
    for tool in munged slurmctld slurmd sbatch srun scontrol squeue; do
        command -v "$tool" >/dev/null || echo "$tool is not installed"
    done
    [ "$(id -u)" = 0 ] || echo 'only root can start slurmd'
}

# slurm_wait WHAT SECONDS COMMAND...: until the command succeeds.
slurm_wait() {
    local what=$1 tries=$(($2 * 5))
    shift 2
    for _ in $(seq "$tries"); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.2
    done
    echo "slurm: $what did not come within $((tries / 5)) s" >&2
    return 1
}

# Is the node there, and free?
slurm_ready() {
    sinfo -h -o %T | grep -qx idle
}

slurm_stop() {
    local file
    for file in slurmd slurmctld munged; do
        if [ -s "$slurm_folder/$file.pid" ]; then kill "$(cat "$slurm_folder/$file.pid")" 2>/dev/null; fi
    done
    sleep 0.5
    for file in slurmd slurmctld munged; do
        if [ -s "$slurm_folder/$file.pid" ]; then kill -KILL "$(cat "$slurm_folder/$file.pid")" 2>/dev/null; fi
    done
    return 0
}

slurm_start() {
    local host
    host=$(hostname -s)
    slurm_folder=$1
    mkdir -p "$slurm_folder"/{state,spool,log} || return 1
    # munge refuses folders that others could write to, and names of sockets longer than 100 bytes
    slurm_munge=$(mktemp -d /tmp/munge.XXXXXX) || return 1
    chmod 755 "$slurm_munge"
    dd if=/dev/urandom of="$slurm_munge/key" bs=128 count=1 2>/dev/null
    chmod 400 "$slurm_munge/key"
    cat >"$slurm_folder/slurm.conf" <<EOF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket=$slurm_munge/socket
CredType=cred/munge
StateSaveLocation=$slurm_folder/state
SlurmdSpoolDir=$slurm_folder/spool
SlurmctldPidFile=$slurm_folder/slurmctld.pid
SlurmdPidFile=$slurm_folder/slurmd.pid
SlurmctldLogFile=$slurm_folder/log/slurmctld.log
SlurmdLogFile=$slurm_folder/log/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_min_interval=100000,bf_interval=2
KillWait=5
MinJobAge=300
JobRequeue=1
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
EOF
    export SLURM_CONF=$slurm_folder/slurm.conf
    munged --key-file="$slurm_munge/key" --socket="$slurm_munge/socket" --pid-file="$slurm_folder/munged.pid" \
        --log-file="$slurm_folder/log/munged.log" --seed-file="$slurm_munge/seed" --force || return 1
    slurmctld -c >"$slurm_folder/log/slurmctld.out" 2>&1 || return 1
    slurmd -c >"$slurm_folder/log/slurmd.out" 2>&1 || return 1
    slurm_wait 'the node' 30 slurm_ready
}

# slurm_begin: a test's Slurm, in ./slurm, until the test ends; exit code 77 where there is none to start.
slurm_begin() {
    local missing
    missing=$(slurm_missing)
    if [ -n "$missing" ]; then
        echo "skipped: $missing"
        exit 77
    fi
    trap slurm_stop EXIT
    slurm_start "$PWD/slurm" || { tail -n 20 slurm/log/*; fail 'Slurm did not start'; finish; }
}
