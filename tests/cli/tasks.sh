# Tasks that the program makes: the same samples on any number of ranks, and they can be learned.
. "$LH_SOURCE/tests/cli/lib.sh"

cat >tiny.yaml <<'YAML'
run: {name: tiny, seed: 3, output: runs}
mesh: {chunk: 16}
data: {task: lag, length: 64, batch: 4, lag: 5}
model:
  layers: 2
  width: 32
  heads: 2
  attention: {mechanism: full}
optimizer: {lr: 5.0e-3}
schedule: {kind: constant, steps: 2}
train: {log_every: 1, eval_every: 1000}
checkpoint: {every: 0}
YAML

# --- the same samples on 1, 2 and 3 ranks, in any layout and on a mesh ---
check_same() {
    local name=$1 labels=$2 evaluated=$3
    shift 3
    for ranks in $(some_ranks 1 2 3); do
        local run=runs/$name-$ranks
        train $ranks "$name-$ranks" "$@"
        near "$name on $ranks ranks" "$(metric "$run" train 1 loss)" "$(metric "runs/$name-1" train 1 loss)" "$real_digits"
        near_losses "$name on $ranks ranks" "$run" "runs/$name-1" 1e-4
        near "$name on $ranks ranks: evaluation" "$(metric "$run" eval 2 loss)" "$(metric "runs/$name-1" eval 2 loss)" 1e-4
        same "$name on $ranks ranks: labels" "$(metric "$run" train 1 tokens)" "$labels"
        same "$name on $ranks ranks: labels of the evaluation" "$(metric "$run" eval 2 tokens)" "$evaluated"
        same "$name on $ranks ranks: samples" "$(metric "$run" train 2 samples)" '[4,5,6,7]'
    done
    thorough || return
    train 2 "$name-zigzag" --set mesh.layout=zigzag --set data.valid_windows=3 "$@"
    near "$name, zigzag" "$(metric "runs/$name-zigzag" train 1 loss)" "$(metric "runs/$name-1" train 1 loss)" "$real_digits"
    train 2 "$name-mesh" --set mesh.data=2 "$@"
    near "$name on a mesh" "$(metric "runs/$name-mesh" train 1 loss)" "$(metric "runs/$name-1" train 1 loss)" "$real_digits"
    near "$name on a mesh: evaluation" "$(metric "runs/$name-mesh" eval 2 loss)" "$(metric "runs/$name-1" eval 2 loss)" 1e-4
}
# 59 of 64 positions have an answer; one of 64; the last 31
check_same lag 236 $((64 * 59))
check_same markers 4 64 --set data.task=markers --set model.kind=encoder --set data.gap=50
check_same recall 124 $((64 * 31)) --set data.task=recall --set model.kind=encoder --set data.offsets=4
# one class for a sequence: samples differ in length, and the evaluation says what needs no model
trees=(--set data.task=listops --set model.kind=encoder --set model.head=class --set data.tree_depth=5
    --set data.tree_args=4 --set data.longer_than=12 --set data.shorter_than=60)
check_same listops 4 64 "${trees[@]}"
same "baselines" "$(keys <runs/listops-3/metrics.jsonl | tail -n 1)" \
    'event step loss accuracy baseline_majority baseline_first_token baseline_one_level baseline_two_levels tokens eval_s'
holds "two levels are more than one" \
    "$(metric runs/listops-1 eval 2 baseline_two_levels) > $(metric runs/listops-1 eval 2 baseline_one_level)"
train 1 seed --set run.seed=4
holds "another seed, other samples" "$(metric runs/seed train 1 loss) != $(metric runs/lag-1 train 1 loss)"
holds "every step has new samples" "$(metric runs/lag-1 train 2 loss) != $(metric runs/lag-1 train 1 loss)"
# a fixed number of windows, whatever train.eval_tokens says
train 2 windows --set data.valid_windows=3 --set train.eval_tokens=1
same "three windows" "$(value tokens)" $((3 * 59))

# --- they can be learned, and only by who sees far enough (sanitizers would take minutes) ---
if thorough; then
    for ranks in 1 2; do
        train $ranks learn-$ranks --set schedule.steps=200 --set train.log_every=100
        holds "lag on $ranks ranks is learned ($(value accuracy))" "$(value accuracy) > 0.95"
    done
    train 2 near --set schedule.steps=200 --set train.log_every=100 --set model.layers=1 \
        --set 'model.attention={mechanism: sliding_window, window: 4}'
    holds "a window of 4 cannot see 5 back ($(value accuracy))" "$(value accuracy) < 0.2"
    train 1 offsets --set data.task=recall --set model.kind=encoder --set schedule.steps=400 --set optimizer.lr=3.0e-3 \
        --set train.log_every=100
    holds "recall is learned ($(value accuracy))" "$(value accuracy) > 0.9"
fi

# --- the task names its global token: a window of 2 and 50 positions between the markers ---
global='{mechanism: sliding_window, window: 2, global: task}'
check_same global 4 64 --set data.task=markers --set model.kind=encoder --set data.gap=50 \
    --set model.attention="$global"
if thorough; then
    train 2 markers --set data.task=markers --set model.kind=encoder --set data.length=8 --set data.gap=4 \
        --set data.batch=32 --set optimizer.lr=3.0e-3 --set schedule.steps=150 --set train.log_every=100 \
        --set model.attention="$global"
    holds "markers are learned by global attention ($(value accuracy))" "$(value accuracy) > 0.9"
fi
expect 2 2 train tiny.yaml --set run.name=none --set model.attention="$global"

# --- a class for each sequence: one label each, counted once, whatever the ranks ---
class='--set data.task=markers --set model.kind=encoder --set model.head=class'
check_same class 4 64 $class --set data.gap=50 --set model.pool=mean --set model.pooler=true \
    --set 'model.attention=[{mechanism: sliding_window, window: 2, global: task}, {mechanism: performer}]'
if thorough; then
    train 2 classes $class --set data.length=8 --set data.gap=4 --set data.batch=32 --set optimizer.lr=3.0e-3 \
        --set schedule.steps=200 --set train.log_every=100 --set model.attention="$global" --set checkpoint.every=200
    holds "classes are learned ($(value accuracy))" "$(value accuracy) > 0.9"
    expect 0 3 eval runs/classes
    same "eval counts each sequence once" "$(value tokens)" 64
    near "eval on other ranks" "$(value accuracy)" "$(metric runs/classes eval 200 accuracy)" 0.02
fi

# --- weights of a model that has no random projection: it stays as drawn ---
train 1 exact --set data.task=recall --set model.kind=encoder --set schedule.steps=1 --set checkpoint.every=1
for ranks in 1 3; do
    train $ranks drawn-$ranks --set data.task=recall --set model.kind=encoder --set schedule.steps=1 \
        --set run.init="$(checkpoint runs/exact 1)" --set checkpoint.every=1 \
        --set 'model.attention={mechanism: performer, features: 16}'
done
near "features drawn on 1 and 3 ranks" "$(metric runs/drawn-3 train 1 loss)" "$(metric runs/drawn-1 train 1 loss)" "$real_digits"
expect 0 2 train tiny.yaml --set run.name=drawn-1 --set data.task=recall --set model.kind=encoder \
    --set 'model.attention={mechanism: performer, features: 16}' --set schedule.steps=2 --resume

# --- resumed, the samples go on where they ended ---
train 2 whole --set schedule.steps=4 --set checkpoint.every=2
train 2 parts --set schedule.steps=2 --set checkpoint.every=2
expect 0 2 train tiny.yaml --set run.name=parts --set schedule.steps=4 --set checkpoint.every=2 --resume
same "resumed losses" "$(losses runs/parts)" "$(losses runs/whole)"
expect 2 2 train tiny.yaml --set run.name=parts --set data.lag=6 --set schedule.steps=6 --resume
says err 'data.lag was 5, is 6'
expect 0 1 eval runs/parts
same "eval says the same" "$(value loss)" "$(metric runs/parts eval 4 loss)"

# --- mistakes ---
expect 2 2 train tiny.yaml --set run.name=none --set data.lag=64
says err "key 'data.lag': no position has an answer"
expect 2 2 train tiny.yaml --set run.name=none --set data.task=markers
says err 'markers needs model.kind encoder, and it is decoder'
expect 2 2 train tiny.yaml --set run.name=none --set model.head=none
says err "key 'model.head': none has no loss"
expect 2 2 train tiny.yaml --set run.name=none --set data.task=recall --set model.kind=encoder --set model.head=class
says err "key 'model.head': data.task recall needs the head lm, and it is class"
expect 2 2 train tiny.yaml --set run.name=none $class --set model.classes=1
says err "key 'model.classes'"
expect 2 2 train tiny.yaml --set run.name=none --set data.documents=10
says err 'task lag has no documents'
finish
