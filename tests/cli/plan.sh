# longhaul plan says before a run what its metrics say after it; it needs no launcher, no MPI and no data.
. "$LH_SOURCE/tests/cli/lib.sh"

limit=60
write_text text.txt 6000
write_experiment tiny.yaml text.txt

# first KEY: of the plan in `out`, whose whole-job numbers come first
first() {
    grep -oE "\"$1\":[^,}]*" out | head -n 1 | cut -d : -f 2
}

# of_layers KEY, of_ranks KEY: one number per layer or rank
of_layers() {
    sed -E 's/.*"layers":\[([^]]*)\].*/\1/' out | grep -oE "\"$1\":[^,}]*" | cut -d : -f 2
}
of_exchanges() {
    grep -oE '"exchange":"[^}]*' out | grep -oE "\"$1\":[^,}]*" | cut -d : -f 2
}
of_ranks() {
    sed -E 's/.*"ranks_list":\[([^]]*)\].*/\1/' out | grep -oE "\"$1\":[^,}]*" | cut -d : -f 2
}

# check_run NAME RANKS ARGUMENTS...: plan and train the same, and compare
check_run() {
    local name=$1 ranks=$2
    shift 2
    train "$ranks" "$name-$ranks" --set schedule.steps=2 --set train.eval_every=0 "$@"
    expect 0 0 plan tiny.yaml --set schedule.steps=2 --set train.eval_every=0 "$@" --ranks "$ranks" --json
    same "$name on $ranks ranks: sent bytes" "$(first sent_bytes_step)" "$(metric "runs/$name-$ranks" train 2 sent_bytes)"
    same "$name on $ranks ranks: peak bytes" "$(first peak_bytes)" "$(metric "runs/$name-$ranks" train 2 peak_bytes)"
    says "runs/$name-$ranks/log.txt" " $(first parameters) parameters"
    same "$name on $ranks ranks: ranks" "$(of_ranks rank | wc -l)" "$ranks"
    near "$name on $ranks ranks: flops by layer" \
        "$(sed -E 's/.*"layers"//; s/"ranks_list".*//' out | grep -oE '"flops_step":[^,}]*' | cut -d : -f 2 | awk '{ s += $1 } END { printf "%.12g", s }')" \
        "$(first flops_step)" 1e-8
    near "$name on $ranks ranks: flops by rank" "$(of_ranks flops_step | awk '{ s += $1 } END { printf "%.12g", s }')" \
        "$(first flops_step)" 1e-8
    near "$name on $ranks ranks: bytes by rank" \
        "$(of_ranks sent_bytes_step | awk '{ s += $1 } END { printf "%.12g", s / NR }')" "$(first sent_bytes_step)" 1e-8
}
for ranks in $(some_ranks 1 2 3 4); do
    check_run window "$ranks" --set data.length=110
    check_run full "$ranks" --set data.length=110 --set 'model.attention={mechanism: full}' --set model.kv_heads=1
done
check_run recompute 3 --set train.recompute=block --set 'model.attention=[{mechanism: full},{mechanism: sliding_window, window: 40}]'
check_run accumulate 3 --set data.batch=4 --set train.accumulate=2 --set train.recompute=block
check_run mesh 4 --set data.batch=4 --set mesh.data=2
check_run data 2 --set data.batch=2 --set mesh.data=2
check_run both 4 --set data.batch=4 --set mesh.data=2 --set train.accumulate=2 --set mesh.align=none
check_run learned 3 --set model.position=learned --set model.norm=post
check_run sinusoidal 2 --set model.position=sinusoidal --set model.mlp=swiglu --set model.norm_kind=rms
check_run encoder 3 --set model.kind=encoder --set data.task=masked_text --set data.length=77
check_run class 3 --set model.kind=encoder --set data.task=markers --set model.head=class --set data.length=77 \
    --set model.pooler=true --set data.batch=2 --set train.accumulate=2
check_run zigzag 3 --set mesh.layout=zigzag --set data.length=110 --set train.recompute=attention
check_run relative 2 --set model.position=relative --set 'model.attention={mechanism: full}'
check_run documents 3 --set data.documents=32 --set data.batch=2 --set train.accumulate=2
by_heads='--set mesh.exchange=ulysses --set data.length=110 --set train.recompute=block'
check_run ulysses 3 $by_heads --set 'model.attention=[{mechanism: full},{mechanism: sliding_window, window: 40}]'
check_run hybrid 4 $by_heads --set train.recompute=attention --set mesh.ulysses=2 --set data.documents=32 --set data.batch=2 --set model.kv_heads=1
check_run threads 2 --set device.threads=2
check_run poison 2 --set device.kind=poison
check_run idle 4 --set data.length=20 # a rank without tokens
same "one rank sends nothing" "$(metric runs/window-1 train 2 sent_bytes)" 0
expect 0 0 plan tiny.yaml --json
same "without --ranks: one rank" "$(first ranks)" 1

# --- one object on one line, in the order that readers rely on ---
expect 0 0 plan tiny.yaml --ranks 3 --json
same "lines" "$(wc -l <out)" 1
same "first members" "$(cut -d , -f 1-4 out | sed -E 's/:[0-9.e+]+/:N/g')" \
    '{"parameters":N,"flops_step":N,"sent_bytes_step":N,"peak_bytes":N'
same "brackets" "$(tr -cd '[{' <out | wc -c)" "$(tr -cd ']}' <out | wc -c)"
same "rows" "$(of_ranks rows | tr '\n' ' ')" '48 48 32 '
same "layers" "$(of_layers mechanism | tr '\n' ' ')" '"sliding_window" "sliding_window" '

# --- a head without a loss: a forward pass, without a task or a file ---
sed 's/path: [^,]*, //' tiny.yaml >model.yaml
expect 0 0 plan model.yaml --set model.kind=encoder --set model.head=pooler --ranks 3 --json
same "a forward pass" "$(first pass)" '"forward"'
same "it sends no gradients" "$(first parameter_gradients)" 0
expect 0 0 plan model.yaml --set model.kind=encoder --set model.head=none --ranks 3 --json
rest=$(first parameters)
expect 0 0 plan model.yaml --set model.kind=encoder --set model.head=pooler --ranks 3
says out "a forward pass, since the model's head has no loss"
says out "parameters   $((rest + 32 * 32 + 32));"
expect 2 0 plan model.yaml --set model.kind=encoder --set model.head=class
says err 'give model.classes'
expect 0 0 plan model.yaml --set model.kind=encoder --set model.head=class --set model.classes=7 --json
same "a step" "$(first pass)" '"step"'
expect 0 0 plan model.yaml --set model.kind=encoder --set model.head=pooler --ranks 3 --draw plan.svg
says plan.svg ">a forward pass: "

# --- the table says what the object says, and the picture is a file of its own ---
expect 0 0 plan tiny.yaml --ranks 3 --json --draw plan.svg
same "lines beside a picture" "$(wc -l <out)" 1
for key in empty mixed full; do
    same "tiles: $key, by layer" "$(of_layers tiles_$key | awk '{ s += $1 } END { print s }')" "$(first tiles_$key)"
    same "tiles: $key, by rank" "$(of_ranks tiles_$key | awk '{ s += $1 } END { print s }')" "$(first tiles_$key)"
done
groups=$(sed -E 's/.*"tiles":\[([^]]*)\].*/\1/' out)
same "tiles of two heads by layer" "$(tr '}' '\n' <<<"$groups" | sed -nE 's/.*"heads":2,"empty":([0-9]+).*/\1/p' | awk '{ s += 2 * $1 } END { print s }')" \
    "$(first tiles_empty)"
full=$(grep -oE '"full":[0-9]+' <<<"$groups" | head -n 1 | cut -d : -f 2)
mixed=$(grep -oE '"mixed":[0-9]+' <<<"$groups" | head -n 1 | cut -d : -f 2)
says plan.svg "FULL $full, MIXED $mixed"
expect 0 0 plan tiny.yaml --ranks 3
holds "the table's tiles" "$(awk '/^tiles/ { getline; print ($3 == '"$full"' && $4 == '"$mixed"') }' out)"
expect 0 0 plan tiny.yaml --ranks 3 --draw=again.svg
same_file plan.svg again.svg
# a picture that cannot be written leaves nothing
mkdir folder.svg
for path in nowhere/plan.svg folder.svg; do
    expect "$([ -d "$path" ] && echo 2 || echo 1)" 0 plan tiny.yaml --draw "$path"
    same "standard output without a picture" "$(cat out)" ''
    says err "'$path"
done
missing nowhere folder.svg.tmp plan.svg.tmp

# --- many ranks, in one process and little time ---

# steady NAME ARGUMENTS...: what the layers, and each rank, send does not grow with the length
steady() {
    local name=$1
    shift
    for length in 4096 16384 262144; do
        expect 0 0 plan tiny.yaml "$@" --set data.length="$length" --set mesh.chunk=512 --ranks 8 --json
        of_layers sent_bytes_step >"layers.$name.$length"
        of_ranks sent_bytes_step >"ranks.$name.$length"
    done
    for length in 16384 262144; do
        same_file "layers.$name.$length" "layers.$name.4096"
        same_file "ranks.$name.$length" "ranks.$name.4096"
    done
    holds "$name sends something" "$(head -n 1 "layers.$name.4096") > 0"
}
encoder='--set model.kind=encoder --set data.task=masked_text'
steady window
steady window512 --set model.attention.window=512
steady performer --set 'model.attention={mechanism: performer, features: 256}'
steady performer_encoder $encoder --set 'model.attention={mechanism: performer, features: 256}'
steady linformer $encoder --set 'model.attention={mechanism: linformer, k: 256}'
# exact attention's does, and so does its share of work and memory by rank
expect 0 0 plan tiny.yaml --set data.length=4096 --ranks 8 --set 'model.attention={mechanism: full}' --json
short=$(of_layers sent_bytes_step | head -n 1)
expect 0 0 plan tiny.yaml --set data.length=8192 --ranks 8 --set 'model.attention={mechanism: full}' --json
same "full attention sends in proportion" "$(of_layers sent_bytes_step | head -n 1)" "$((2 * short))"
# which exchange sends fewer bytes: half the ring's for full attention, not for a window; for each size of a group
eight='--ranks 8 --set data.length=65536 --set mesh.chunk=512 --set model.width=64 --set model.heads=8 --set model.kv_heads=8'
both='model.attention=[{mechanism: full}, {mechanism: sliding_window, window: 512}]'
expect 0 0 plan tiny.yaml $eight --set "$both" --json
same "exchanges" "$(grep -oE '"ulysses":[0-9]+' out | cut -d : -f 2 | tr '\n' ' ')" '1 2 4 8 1 2 4 8 '
same "fewest bytes" "$(grep -oE '"ulysses":[^}]*"fewest_bytes":true' out | cut -d : -f 2 | cut -d , -f 1 | tr '\n' ' ')" '8 1 '
layers=$(of_exchanges sent_bytes_step | sed -n 1,4p | tr '\n' ' ')
for ways in 1 2 4 8; do
    expect 0 0 plan tiny.yaml $eight --set "$both" --json --set mesh.exchange=ulysses --set mesh.ulysses=$ways
    layers=${layers#"$(of_layers sent_bytes_step | head -n 1) "}
done
same "what is compared is what a plan of each says" "$layers" ''
expect 0 0 plan tiny.yaml $eight --set "$both"
says out '1.00  fewest bytes'
# by heads memory goes with N / ranks, too
for ranks in 2 4 8; do
    expect 0 0 plan tiny.yaml $eight --set "$both" --set mesh.exchange=ulysses --ranks $ranks \
        --set data.length=$((8192 * ranks)) --json
    [ $ranks = 2 ] && two=$(first peak_bytes)
    near "memory by heads on $ranks ranks" "$(first peak_bytes)" "$two" 0.1
done
# causal attention in zigzag order: three quarters of the full ring's rows, and every rank works as much
spread() {
    of_ranks flops_step | awk 'NR == 1 { a = b = $1 } { s += $1; if ($1 < a) a = $1; if ($1 > b) b = $1 }
        END { printf "%.6f", (b - a) / (s / NR) }'
}
for ranks in 4 8; do
    exact="--set data.length=16384 --set mesh.chunk=512 --ranks $ranks --json"
    expect 0 0 plan tiny.yaml $exact $encoder --set 'model.attention={mechanism: full}'
    ring=$(first forward_bytes)
    expect 0 0 plan tiny.yaml $exact --set 'model.attention={mechanism: full}' --set mesh.layout=zigzag
    same "zigzag on $ranks ranks: rows" "$((4 * $(first forward_bytes)))" "$((3 * ring))"
    holds "zigzag on $ranks ranks: work" "$(spread) <= 0.05"
    expect 0 0 plan tiny.yaml $exact --set 'model.attention={mechanism: full}'
    holds "contiguous on $ranks ranks: work" "$(spread) > 0.5"
done

many=1024
[ -n "${ASAN_OPTIONS:-}" ] && many=64 # sanitizers take their time
big="--set data.length=$((many * 1024)) --set mesh.chunk=512 --set model.attention.window=512 --ranks $many"
expect 0 0 plan tiny.yaml $big --set train.recompute=block --json
same "ranks of a large plan" "$(of_ranks rank | tail -n 1)" "$((many - 1))"
same "rows of a large plan" "$(of_ranks rows | sort -u)" 1024
expect 0 0 plan tiny.yaml $big --draw big.svg
holds "a picture of many ranks is small" "$(wc -c <big.svg) < 500000"
says out "$many ranks (1 data x $many sequence)"
says out "1-$((many - 2))"
# parameters of a large model are never allocated: 400 million, with gradients and moments 6 GiB and more
large='--set model.layers=32 --set model.width=1024 --set model.heads=16'
(
    [ -n "${ASAN_OPTIONS:-}" ] || ulimit -v 2000000 # sanitizers reserve more
    exec timeout 60 "$LONGHAUL" plan tiny.yaml $large --ranks 16 --json >out 2>err
)
same "exit code of a large model's plan" "$?" 0
holds "a large model" "$(first parameters) > 400000000 && $(first parameter_bytes) > 6e9"

# --- no MPI: what stops a run does not stop a plan ---
if [ -n "${OMPI_MCA_rmaps_base_oversubscribe:-}" ]; then
    export OMPI_MCA_btl=none OMPI_MCA_pml=none
    longhaul 0 train tiny.yaml
    holds "MPI does not start" "$code != 0"
    expect 0 0 plan tiny.yaml --ranks 4
    unset OMPI_MCA_btl OMPI_MCA_pml
fi
rm text.txt # plan opens no data file
expect 0 0 plan tiny.yaml --ranks 2
says out 'sliding_window'
same "standard error" "$(cat err)" ''

# --- what is wrong ---

# wrong TEXT ARGUMENTS...: exit code 2, nothing on standard output, the text on standard error
wrong() {
    local text=$1
    shift
    expect 2 0 plan "$@"
    same "standard output of longhaul plan $*" "$(cat out)" ''
    says err "$text"
}
wrong 'longhaul plan FILE.yaml'
wrong "cannot read 'nowhere.yaml'" nowhere.yaml
wrong '--ranks: expected an integer from 1 to 1048576, got' tiny.yaml --ranks 0
wrong '--ranks: expected an integer from 1 to 1048576, got' tiny.yaml --ranks
wrong '--ranks: expected an integer from 1 to 1048576, got' tiny.yaml --ranks=3x
wrong '--ranks: expected an integer from 1 to 1048576, got' tiny.yaml --ranks 99999999999999999999
wrong 'mesh.data 2 does not divide 3 ranks' tiny.yaml --set data.batch=2 --set mesh.data=2 --ranks 3
wrong "unknown option '--jsom'" tiny.yaml --jsom
wrong '--draw wants the name of the picture, such as' tiny.yaml --draw
wrong '--draw wants the name of the picture, such as' --draw --json tiny.yaml
wrong 'give a name that ends with .svg' tiny.yaml --draw plan.png
wrong "unknown option '--resume'" tiny.yaml --resume
for other in '--point 1' '--draw plan.svg' '--ranks 2'; do
    # shellcheck disable=SC2086 # two words
    wrong "plans none: leave out ${other%% *}" tiny.yaml --set sweep.seeds=2 --points $other
done
wrong "unknown key; did you mean 'length'?" tiny.yaml --set data.lenght=3
expect 2 0 train tiny.yaml --ranks 2
says err "unknown option '--ranks'"
wrong 'mesh.ulysses 3 does not divide the 4 ranks' tiny.yaml --set mesh.exchange=ulysses --set mesh.ulysses=3 --ranks 4
expect 2 0 train tiny.yaml --draw plan.svg
says err "unknown option '--draw'"
expect 0 0 plan --help
for word in '--ranks P' '--draw OUT.svg' sent_bytes_step exchanges tiles_mixed ranks_list; do says out "$word"; done
missing runs/tiny # a plan is no run
finish
