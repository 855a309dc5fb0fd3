# Encoders with masked text, and weights taken from another run.
. "$LH_SOURCE/tests/cli/lib.sh"

write_periodic text.txt 20000 23
write_experiment decoder.yaml text.txt
sed -E 's/^data: \{/data: {task: masked_text, batch: 4, /; s/^model:/model:\n  kind: encoder/; s/length: 128/length: 256/' \
    decoder.yaml >tiny.yaml

# --- masked text ---
train 2 two --set schedule.steps=30 --set checkpoint.every=30
cp out two.out
holds "the loss falls" \
    "$(metric runs/two train 30 loss) < 0.8 * $(metric runs/two train 1 loss) && $(value loss) < 4.4"
labels=$(grep train runs/two/metrics.jsonl | value tokens /dev/stdin | awk '{ n += $1 } END { print n / NR / 1024 }')
holds "15 % of the positions are predicted ($labels)" "$labels > 0.14 && $labels < 0.16"
holds "15 % of the validation part is predicted" "$(value tokens) > 110 && $(value tokens) < 190"
for ranks in 1 3; do
    train $ranks ranks-$ranks
    near "masked text on $ranks ranks: step 1" \
        "$(metric runs/ranks-$ranks train 1 loss)" "$(metric runs/two train 1 loss)" "$real_digits"
    head -n 5 runs/two/metrics.jsonl >losses.first
    same "masked text on $ranks ranks: labels" "$(value tokens losses.first)" \
        "$(grep train runs/ranks-$ranks/metrics.jsonl | value tokens /dev/stdin)"
done
train 2 nothing --set data.mask=1e-12
same "without a label there is no loss" "$(losses runs/nothing | sort -u)" 0
train 3 everything --set data.mask=1
same "all positions are predicted" "$(metric runs/everything train 1 tokens)" 1024
expect 2 2 train decoder.yaml --set data.task=masked_text
says err 'model.kind'

# --- run.init: weights alone ---
from=$(checkpoint runs/two 30)
train 2 init --set run.init="$from" --set optimizer.lr=0 --set schedule.steps=1
near "evaluation with the weights of another run" "$(value loss)" "$(value loss two.out)" "$real_digits"
same "steps start anew" "$(value step runs/init/metrics.jsonl | tr '\n' ' ')" '1 1 '
train 3 on --set run.init="$from"
holds "the first loss is as low as the other run's last" \
    "$(metric runs/on train 1 loss) < 1.3 * $(metric runs/two train 30 loss)"
expect 2 2 train tiny.yaml --set run.name=wrong --set run.init=nowhere.h5
says err "key 'run.init'"
says err 'nowhere.h5'
expect 2 2 train tiny.yaml --set run.name=wrong --set run.init=text.txt
says err "key 'run.init'"
expect 2 2 train tiny.yaml --set run.name=wrong --set run.init="$from" --set model.width=16
says err 'layer.0.attention.query.weight'
expect 2 2 train tiny.yaml --set run.name=wrong --set run.init="$from" --set model.layers=3
says err 'layer.2.attention.query.weight'
says_not err 'layer.0.attention.query.weight'
missing "$(checkpoint runs/wrong 5)"
finish
