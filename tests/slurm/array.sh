# The points of a sweep as a job array, two at a time, and one of them asked to stop, queued again and resumed: the ends are the
# same bytes as those of the sweep in one launch. Against a real Slurm of one node.
. "$LH_SOURCE/tests/cli/lib.sh"
. "$LH_SOURCE/tests/slurm/start.sh"

slurm_begin

write_text text.txt 60000
write_experiment tiny.yaml text.txt
cat >sweep.yaml <<'EOF'
base: tiny.yaml
data: {length: 1024}
checkpoint: {every: 100000}
sweep:
  grid: {optimizer.lr: [1.0e-2, 2.0e-2], model.attention.window: [24, [16, 8]]}
EOF

# As many steps as take a point some 10 s, so that the first ones can be asked to stop.
started=$(date +%s%N)
limit=300 train 1 probe --set data.length=1024 --set schedule.steps=300
steps=$((300 * 10000 / (($(date +%s%N) - started) / 1000000)))

limit=400 expect 0 1 train sweep.yaml --set schedule.steps=$steps
mv runs straight

points=$("$LONGHAUL" plan sweep.yaml --points | wc -l)
same "points" "$points" 4
job=$(LONGHAUL=$LONGHAUL sbatch --parsable --array "1-$points" --ntasks 1 --time 10 --output 'array-%a.log' \
    "$LH_SOURCE/experiments/slurm/array.sbatch" sweep.yaml --set schedule.steps=$steps)

begun() {
    [ "$(cat runs/0001/metrics.jsonl 2>/dev/null | wc -l)" -ge 3 ]
}
slurm_wait 'the first steps of point 1' 120 begun
scancel --signal USR1 "${job}_1"

# A task that went back waits for two minutes; on one node ten seconds do.
ended() {
    local id
    if [ $((polls = (polls + 1) % 50)) = 0 ]; then
        for id in $(squeue -h -j "$job" -t PENDING -o '%i %r' | sed -n 's/ BeginTime$//p'); do
            scontrol update JobId="$id" StartTime=now
        done
    fi
    [ -z "$(squeue -h -j "$job" -o %i 2>/dev/null)" ]
}
polls=0
slurm_wait "the end of job $job" 400 ended || { tail -n 20 array-*.log slurm/log/slurmctld.log; scancel "$job"; }

says array-1.log 'stopped on request after step'
says array-1.log 'the task goes back into the queue'
says array-1.log 'started 2 times'
says array-1.log "resuming '"
for point in 1 2 3 4; do
    says array-$point.log "finished at step $steps"
    same_file "$(checkpoint runs/000$point "$steps")" "$(checkpoint straight/000$point "$steps")"
    same "losses of point $point" "$(losses runs/000$point | cksum)" "$(losses straight/000$point | cksum)"
    same_file runs/000$point/config.yaml straight/000$point/config.yaml
done
same_file runs/sweep.json straight/sweep.json
same "the folder" "$(ls -A runs | tr '\n' ' ')" '0001 0002 0003 0004 sweep.json '

# Submitted again, nothing is done again.
before=$(find runs -type f -printf '%p %T@\n' | sort)
job=$(LONGHAUL=$LONGHAUL sbatch --parsable --array 2-3 --ntasks 1 --time 10 --output 'again-%a.log' \
    "$LH_SOURCE/experiments/slurm/array.sbatch" sweep.yaml --set schedule.steps=$steps)
slurm_wait "the end of job $job" 60 ended || scancel "$job"
says again-2.log 'point 2 of 4, finished before'
same "files after it" "$(find runs -type f -printf '%p %T@\n' | sort)" "$before"
finish
