# The same file, seed and ranks give the same bits: metrics, checkpoints, everything but what a clock says
# (README, invariant 2).
. "$LH_SOURCE/tests/cli/lib.sh"

write_text text.txt 6000
write_experiment tiny.yaml text.txt

# repeated RANKS ARGUMENTS...
repeated() {
    local ranks=$1
    shift
    for time in first second; do
        rm -rf runs/run runs/$time
        train "$ranks" run --set checkpoint.every=3 --set checkpoint.keep=9 --set train.eval_every=3 "$@"
        mv runs/run runs/$time
    done
    same "metrics of the same run ($*)" "$(results runs/second)" "$(results runs/first)"
    for step in 3 5; do same_file "$(checkpoint runs/second $step)" "$(checkpoint runs/first $step)"; done
}
repeated 1 --set device.threads=2
repeated 3 --set model.dropout=0.1
repeated 4 --set 'model.attention={mechanism: full}' --set mesh.data=2 --set data.batch=4 --set train.accumulate=2 \
    --set train.recompute=block

# the comparison can fail
train 2 run --set run.seed=4 --set checkpoint.every=3 --set checkpoint.keep=9
if cmp -s "$(checkpoint runs/run 5)" "$(checkpoint runs/first 5)"; then fail "another seed gives the same"; else pass; fi
finish
