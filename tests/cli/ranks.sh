# The same file and seed give the same training on any number of ranks (README, invariant 1), end to end.
. "$LH_SOURCE/tests/cli/lib.sh"

write_text text.txt 6000
write_experiment tiny.yaml text.txt

# held out: ceil(6000 x 0.05) bytes, each scored once, although windows of 110 fit neither the chunks nor the part
check_ranks() {
    local name=$1
    shift
    for ranks in 1 2 3 4 5; do
        train "$ranks" "$name-$ranks" --set data.length=110 --set train.eval_every=5 "$@"
        local run=runs/$name-$ranks one=runs/$name-1
        near "$name on $ranks ranks: loss of step 1" \
            "$(metric "$run" train 1 loss)" "$(metric "$one" train 1 loss)" "$real_digits"
        near "$name on $ranks ranks: gradient norm of step 1" \
            "$(metric "$run" train 1 grad_norm)" "$(metric "$one" train 1 grad_norm)" 1e-4
        near_losses "$name on $ranks ranks" "$run" "$one" 1e-4
        near "$name on $ranks ranks: evaluation" "$(metric "$run" eval 5 loss)" "$(metric "$one" eval 5 loss)" 1e-4
        same "$name on $ranks ranks: validation tokens" "$(metric "$run" eval 5 tokens)" 300
        same "$name on $ranks ranks: samples" "$(value samples "$run/metrics.jsonl")" \
            "$(value samples "$one/metrics.jsonl")"
        same "$name on $ranks ranks: tokens" "$(value tokens "$run/metrics.jsonl")" "$(value tokens "$one/metrics.jsonl")"
    done
}
check_ranks window
# windows longer than the sequence, several sequences, dropout, and shards cut anywhere
check_ranks full --set mesh.align=none --set mesh.chunk=7 --set data.batch=2 --set model.dropout=0.1 \
    --set 'model.attention={mechanism: full}'

# one sequence of three positions on five ranks: two of them hold nothing
for ranks in 1 5; do
    train "$ranks" "short-$ranks" --set data.length=3 --set mesh.chunk=1
done
near "length 3 on 5 ranks" "$(metric runs/short-5 train 1 loss)" "$(metric runs/short-1 train 1 loss)" "$real_digits"
near_losses "length 3 on 5 ranks" runs/short-5 runs/short-1 1e-4

# data x sequence, and accumulation, do the same steps
batch='--set data.batch=4'
train 1 batch $batch
train 4 mesh22 $batch --set mesh.data=2
train 4 mesh41 $batch --set mesh.data=4
train 2 accumulate $batch --set train.accumulate=2
train 4 both $batch --set mesh.data=2 --set train.accumulate=2
for name in mesh22 mesh41 accumulate both; do
    near "$name: loss of step 1" "$(metric runs/$name train 1 loss)" "$(metric runs/batch train 1 loss)" "$real_digits"
    near_losses "$name" runs/$name runs/batch 1e-4
    same "$name: samples" "$(value samples runs/$name/metrics.jsonl)" "$(value samples runs/batch/metrics.jsonl)"
done
same "samples of one step are all different" \
    "$(metric runs/batch train 1 samples | tr -d '[]' | tr , '\n' | sort -u | wc -l)" 4

# recomputing changes no bit, but needs less memory
train 2 none
for what in attention block; do
    train 2 $what --set train.recompute=$what
    same "losses with recompute: $what" "$(losses runs/$what)" "$(losses runs/none)"
done
for pair in 'attention none' 'block attention'; do
    holds "recompute: ${pair% *} needs less memory than ${pair#* }" \
        "$(metric "runs/${pair% *}" train 1 peak_bytes) < $(metric "runs/${pair#* }" train 1 peak_bytes)"
done

# another seed is another run: the comparisons above can tell
train 1 seed --set run.seed=4
holds "another seed changes the loss" "$(metric runs/seed train 1 loss) != $(metric runs/batch train 1 loss)"

# ranks that no mesh fits
expect 2 3 train tiny.yaml --set run.name=none $batch --set mesh.data=2
says err 'mesh.data 2 does not divide 3 ranks'
finish
