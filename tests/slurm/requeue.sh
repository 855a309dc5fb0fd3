# A job that reaches its time limit writes a checkpoint, goes back into the queue, resumes, and ends with the bits of a run
# that nobody disturbed: against a real Slurm of one node, by srun and by mpirun.
. "$LH_SOURCE/tests/cli/lib.sh"
. "$LH_SOURCE/tests/slurm/start.sh"

slurm_begin

write_text text.txt 60000
write_experiment tiny.yaml text.txt
long=(--set data.length=1024 --set model.width=64 --set checkpoint.every=100000)

# As many steps as this machine does in 45 s: a job is asked to stop after 15 to 35.
started=$(date +%s%N)
limit=300 train 2 probe "${long[@]}" --set schedule.steps=300
steps=$((300 * 45000 / (($(date +%s%N) - started) / 1000000)))
long+=(--set schedule.steps=$steps)

# The undisturbed run. A checkpoint holds the run's name, so all runs have the same and move away afterwards.
limit=300 train 2 run "${long[@]}"
mv runs/run runs/straight

# Slurm lets a job that went back wait for two minutes, since the node must have forgotten it; on one node ten seconds do.
ended() {
    local state
    state=$(squeue -h -j "$1" -o %T 2>/dev/null)
    [ "$state" = PENDING ] || pending=0
    if [ "$state" = PENDING ] && [ $((pending += 1)) = 40 ]; then scontrol update JobId="$1" StartTime=now; fi
    [ -z "$state" ] || [ "$state" = COMPLETED ]
}

# requeued SCRIPT SIGNAL: as a job that has one minute, and is told 45 seconds before
requeued() {
    local script=$1 signal=$2 job
    rm -rf runs/run
    pending=0
    job=$(LONGHAUL=$LONGHAUL sbatch --parsable --ntasks 2 --time 1 --signal "$signal" --output "$script.log" \
        "$LH_SOURCE/experiments/slurm/$script.sbatch" tiny.yaml --set run.name=run "${long[@]}")
    slurm_wait "the end of job $job" 400 ended "$job" || { tail -n 20 "$script.log" slurm/log/slurmctld.log; scancel "$job"; }
    says "$script.log" 'stopped on request after step'
    says "$script.log" 'the job goes back into the queue'
    says "$script.log" 'started 2 times'
    says "$script.log" "resuming '"
    says "$script.log" "finished at step $steps"
    same_file "$(checkpoint runs/run "$steps")" "$(checkpoint runs/straight "$steps")"
    same "losses of a requeued job" "$(losses runs/run)" "$(losses runs/straight)"
}
requeued many_nodes USR1@45
requeued one_node B:USR1@45
finish
