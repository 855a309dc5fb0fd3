# Layouts: the same training wherever positions lie; and tables by position at other lengths.
. "$LH_SOURCE/tests/cli/lib.sh"

write_text text.txt 6000
write_experiment tiny.yaml text.txt

# --- zigzag: the first step of one rank, on 1 to 4 ranks, also where blocks are empty or cut anywhere ---
check_zigzag() {
    local name=$1
    shift
    train 1 "$name" --set schedule.steps=2 "$@"
    for ranks in $(some_ranks 1 2 3 4); do
        local run=runs/$name-$ranks
        train $ranks "$name-$ranks" --set schedule.steps=2 --set mesh.layout=zigzag "$@"
        near "$name, zigzag on $ranks ranks: loss of step 1" \
            "$(metric "$run" train 1 loss)" "$(metric "runs/$name" train 1 loss)" "$real_digits"
        near "$name, zigzag on $ranks ranks: gradient norm of step 1" \
            "$(metric "$run" train 1 grad_norm)" "$(metric "runs/$name" train 1 grad_norm)" 1e-4
        near_losses "$name, zigzag on $ranks ranks" "$run" "runs/$name" 1e-4
        same "$name, zigzag on $ranks ranks: tokens" "$(metric "$run" train 1 tokens)" \
            "$(metric "runs/$name" train 1 tokens)"
    done
}
check_zigzag full --set 'model.attention={mechanism: full}' --set data.length=119
check_zigzag window --set data.length=100 --set mesh.align=none --set mesh.chunk=7 --set data.batch=2
check_zigzag learned --set model.position=learned --set data.length=60
grep -q 'layout: zigzag' runs/full-3/config.yaml && pass || fail "the resolved file does not say zigzag"

# zigzag does what it is for: on full causal attention no rank waits for another's longer rows
train 3 resumed --set mesh.layout=zigzag --set schedule.steps=4 --set checkpoint.every=2
train 3 half --set mesh.layout=zigzag --set schedule.steps=2 --set schedule.kind=constant --set checkpoint.every=2
expect 0 2 train tiny.yaml --set run.name=half --set schedule.steps=4 --resume
near_losses "resumed with another layout" runs/half runs/resumed 1e-4

# --- attention by heads: the same training, over all ranks or in groups of two with a ring ---
heads=(--set model.width=36 --set model.heads=6 --set model.kv_heads=2 --set schedule.steps=2 --set data.length=119
    --set 'model.attention=[{mechanism: full}, {mechanism: sliding_window, window: 24}]')
check_ulysses() {
    local name=$1 ranks=$2
    shift 2
    train "$ranks" "$name" "${heads[@]}" --set mesh.exchange=ulysses "$@"
    near "$name: loss of step 1" "$(metric "runs/$name" train 1 loss)" "$(metric runs/ring train 1 loss)" "$real_digits"
    near "$name: gradient norm of step 1" "$(metric "runs/$name" train 1 grad_norm)" \
        "$(metric runs/ring train 1 grad_norm)" 1e-4
    near_losses "$name" "runs/$name" runs/ring 1e-4
}
train 4 ring "${heads[@]}"
for ranks in $(some_ranks 3 4 5); do check_ulysses ulysses-$ranks $ranks; done
check_ulysses hybrid 4 --set mesh.ulysses=2 --set mesh.layout=zigzag
holds "by heads other bytes are sent" \
    "$(metric runs/hybrid train 2 sent_bytes) != $(metric runs/ring train 2 sent_bytes)"
grep -q 'ulysses: 2' runs/hybrid/config.yaml && pass || fail "the resolved file does not say ulysses: 2"
expect 2 3 train tiny.yaml --set mesh.exchange=ulysses --set mesh.ulysses=2
says err "mesh.ulysses 2 does not divide the 3 ranks along the sequence"

# --- tables by position at a shorter length ---
train 2 table --set model.position=learned --set model.max_length=128 --set data.length=128 --set schedule.steps=2 \
    --set checkpoint.every=2
grep -q 'max_length: 128' runs/table/config.yaml && pass || fail "the resolved file has no max_length"
for layout in contiguous zigzag; do
    for ranks in 1 3; do
        expect 0 $ranks eval runs/table --set data.length=50 --set mesh.layout=$layout
        cp out table-$ranks-$layout
        near "length 50 of 128, $layout on $ranks ranks" "$(value loss)" "$(value loss table-1-contiguous)" "$real_digits"
        same "tokens at length 50" "$(value tokens)" 300
    done
done
# a table that is longer than the sequence from the start
for ranks in $(some_ranks 1 2 3 4); do
    train $ranks longer-$ranks --set model.position=learned --set model.max_length=128 --set data.length=70
    near "longer table on $ranks ranks" "$(metric runs/longer-$ranks train 1 loss)" \
        "$(metric runs/longer-1 train 1 loss)" "$real_digits"
    near_losses "longer table on $ranks ranks" runs/longer-$ranks runs/longer-1 1e-4
done
expect 2 2 eval runs/table --set data.length=129
says err "key 'data.length': 129 is more than model.max_length = 128, and learned positions are a table"
# without tables nothing speaks against it
train 2 rotary --set schedule.steps=1 --set checkpoint.every=1
expect 0 2 eval runs/rotary --set data.length=200
same "tokens at a longer length" "$(value tokens)" 300
finish
