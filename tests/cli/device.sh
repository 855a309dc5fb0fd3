# Devices, instruction sets and threads change no result, and what is sent depends on what must be.
. "$LH_SOURCE/tests/cli/lib.sh"

write_text text.txt 20000
write_experiment tiny.yaml text.txt

# --- the device that finds missing copies ---
for ranks in 1 3; do
    train $ranks cpu-$ranks --set train.eval_every=5
    train $ranks poison-$ranks --set train.eval_every=5 --set device.kind=poison
    same "results on the poison device, $ranks ranks" "$(results runs/poison-$ranks)" "$(results runs/cpu-$ranks)"
done

# --- instruction sets and threads ---
train 2 portable --set device.isa=portable
says err 'portable kernels'
tried=0
for isa in avx2 avx512 avx512_bf16; do
    rm -rf runs/$isa
    longhaul 2 train tiny.yaml --set run.name=$isa --set device.isa=$isa
    if [ "$code" = 2 ]; then # this machine or this build has not got it
        says err "$isa"
        continue
    fi
    tried=$((tried + 1))
    same "exit code with device.isa $isa" "$code" 0
    says err "$isa kernels"
    bound=1e-4
    [ $isa = avx512_bf16 ] && bound=5e-3 # it rounds
    near_losses "device.isa $isa" runs/$isa runs/portable $bound
done
echo "$tried vector instruction sets tried"
without_memory() { # every thread has scratch of its own
    results "$1" | sed -E 's/,"peak_bytes":[0-9]+//'
}
# a step that is wide enough for threads to share every part of it: any number of them gives the same bits
for threads in 1 2 3 7; do
    train 1 threads-$threads --set device.threads=$threads --set data.length=1000 --set mesh.chunk=256 \
        --set model.width=128 --set model.mlp=swiglu --set schedule.steps=3 --set train.eval_every=3
    says err "$threads thread"
    same "results with $threads threads" "$(without_memory runs/threads-$threads)" "$(without_memory runs/threads-1)"
done

# --- a launcher that bound the rank to one processor ---
one=$(taskset -cp $$ | sed 's/.*: *\([0-9]*\).*/\1/')
LH_MPIEXEC="taskset -c $one $LH_MPIEXEC" train 1 bound --set device.threads=2 --set schedule.steps=1
says err 'warning: 2 threads share 1 of this node'
LH_MPIEXEC="taskset -c $one $LH_MPIEXEC" train 1 fits --set device.threads=1 --set schedule.steps=1
if grep -q warning err; then fail "1 thread of 1 processor is warned"; else pass; fi

# --- bfloat16 storage: another number of ranks, half of the rows' bytes, less memory; a run may go on with it ---
train 3 bfloat16 --set device.store=bfloat16 --set device.kind=poison
near_losses "bfloat16 on 3 ranks" runs/bfloat16 runs/cpu-3 5e-3
for key in sent_bytes peak_bytes; do
    holds "bfloat16 needs less $key" \
        "$(metric runs/bfloat16 train 1 $key) < $(metric runs/cpu-3 train 1 $key)"
done
train 1 cpu-1 --resume --set schedule.steps=12 --set device.store=bfloat16
near "the last loss of a run that goes on in bfloat16" \
    "$(losses runs/cpu-1 | tail -n 1)" "$(losses runs/cpu-1 | head -n 1)" 0.5
expect 2 2 train tiny.yaml --set device.store=half
says err "expected one of: real, bfloat16"

# --- bytes ---
same "1 rank sends nothing" "$(value sent_bytes runs/cpu-1/metrics.jsonl | sort -u)" 0
for length in 512 1024; do
    for kind in sliding_window full; do
        setting='{mechanism: full}'
        if [ $kind = sliding_window ]; then setting='{mechanism: sliding_window, window: 24}'; fi
        train 2 $kind-$length --set schedule.steps=1 --set data.length=$length --set model.attention="$setting"
    done
done
# sent KIND LENGTH
sent() {
    metric "runs/$1-$2" train 1 sent_bytes
}
holds "2 ranks send something" "$(sent sliding_window 512) > 0"
same "a window sends as much whatever the length" "$(sent sliding_window 1024)" "$(sent sliding_window 512)"
# causal: rank 0 sends keys and values of its half (float or double, width 32, 2 layers), which come back as gradients
bytes=4
[ "$LH_PRECISION" = double ] && bytes=8
holds "full attention sends rows: $(sent full 1024) - $(sent full 512)" \
    "$(sent full 1024) - $(sent full 512) >= 256 * 32 * 2 * 2 * 2 * $bytes / 2"
holds "memory grows with the length" \
    "$(metric runs/full-1024 train 1 peak_bytes) > 1.2 * $(metric runs/full-512 train 1 peak_bytes)"
finish
