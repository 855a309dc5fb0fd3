# Packed documents: attention stops where they end, and what follows an end is not predicted, in every layout.
. "$LH_SOURCE/tests/cli/lib.sh"

# Documents of lines, one of them empty, one longer than a chunk and a shard, one of a single letter.
write_text letters 400
tr -d '\n' <letters >line
cut=1
: >packed.txt
for length in 5 70 0 1 33 120 17; do
    { tail -c +$cut line | head -c $length; echo; } >document-$length.txt
    cat document-$length.txt >>packed.txt
    cut=$((cut + length))
done
bytes=$(wc -c <packed.txt)
write_experiment tiny.yaml packed.txt
sed -i -E 's/^data: \{/data: {valid_path: packed.txt, documents: 10, /; s/mechanism: sliding_window, window: 24/mechanism: full/' tiny.yaml
# float sums of different tiles agree to a few units in the last place
close=1e-5
[ "$LH_PRECISION" = double ] && close=1e-11

# --- the loss of a packed window is the mean over its documents, each one run by itself ---
# weights of one step that moves them far
check_packed() {
    local name=$1
    shift
    train 1 "$name" --set data.length="$bytes" --set schedule.steps=1 --set checkpoint.every=1 "$@"
    local sum=0 tokens=0
    for length in 5 70 1 33 120 17; do
        expect 0 1 eval "runs/$name" --set data.valid_path=document-$length.txt
        same "$name: labels of a document of $length letters" "$(value tokens)" "$length"
        sum=$(awk -v s=$sum -v n=$length -v l="$(value loss)" 'BEGIN { printf "%.17g", s + n * l }')
        tokens=$((tokens + length))
    done
    local mean
    mean=$(awk -v s="$sum" -v n=$tokens 'BEGIN { printf "%.17g", s / n }')
    for layout in contiguous zigzag; do
        expect 0 3 eval "runs/$name" --set mesh.layout=$layout
        same "$name, $layout: labels" "$(value tokens)" $tokens
        near "$name, $layout: mean over documents" "$(value loss)" "$mean" $close
    done
    expect 0 1 eval "runs/$name" --set data.documents=none
    holds "$name: without documents the loss is another one" \
        "($(value loss) - $mean)^2 > 1e-8 && $(value tokens) == $bytes - 1"
}
check_packed rotary
if thorough; then
    check_packed sinusoidal --set model.position=sinusoidal
    check_packed relative --set model.position=relative
fi
check_packed window --set 'model.attention={mechanism: sliding_window, window: 24}'

# --- training: the same first step on any number of ranks, also where a rank has no label at all ---
# lines of one letter: of two bytes one is predicted; windows of 48 end within documents
yes a | head -c 193 >short.txt
for ranks in $(some_ranks 1 2 3 4); do
    train $ranks "steps-$ranks" --set data.length=48 --set data.batch=2
    near "loss on $ranks ranks" "$(metric runs/steps-$ranks train 1 loss)" "$(metric runs/steps-1 train 1 loss)" "$real_digits"
    near "norm on $ranks ranks" "$(metric runs/steps-$ranks train 1 grad_norm)" \
        "$(metric runs/steps-1 train 1 grad_norm)" 1e-4
    near_losses "documents on $ranks ranks" runs/steps-$ranks runs/steps-1 1e-4
done
# by heads a rank needs the documents of other ranks' rows
for ways in auto 2; do
    train 4 "heads-$ways" --set data.length=48 --set data.batch=2 --set mesh.exchange=ulysses --set mesh.ulysses=$ways
    near "by heads, groups of $ways: loss" "$(metric "runs/heads-$ways" train 1 loss)" \
        "$(metric runs/steps-1 train 1 loss)" "$real_digits"
    near_losses "by heads, groups of $ways" "runs/heads-$ways" runs/steps-1 1e-4
done
train 2 halves --set data.length=48 --set data.path=short.txt --set data.valid_path=short.txt
same "half of the bytes are predicted" "$(metric runs/halves train 1 tokens)" 24
same "half of the validation part is predicted" "$(value tokens)" 96
# only the first two of 64 bytes are not ends: ranks beyond the first have no label
{ printf 'ab'; yes '' | head -c 63; } >ends.txt
train 3 ends --set data.length=64 --set data.path=ends.txt --set data.valid_path=ends.txt
same "labels before the ends" "$(metric runs/ends train 1 tokens)" 2

# --- masked text: other documents are not seen ---
# the first document has no label, so with another text in its place the loss is the same
sed -E 's/^data: \{/data: {task: masked_text, mask: 0.02, /; s/^model:/model:\n  kind: encoder/' tiny.yaml >masked.yaml
mv masked.yaml tiny.yaml
tr a-z b-za <document-33.txt >other.txt
cat document-33.txt document-120.txt document-70.txt >first.txt
cat other.txt document-120.txt document-70.txt >second.txt
for ranks in 1 3; do
    for file in first second other; do
        train $ranks $file-$ranks --set data.length=300 --set data.valid_path=$file.txt --set optimizer.lr=0 \
            --set schedule.steps=1 --set run.seed=6
        value loss >$file.loss
        value tokens >$file.tokens
    done
    same "no label in the first document" "$(cat other.tokens)" ""
    holds "labels in the others" "$(cat first.tokens) > 0"
    same "masked text on $ranks ranks sees no other document" "$(cat second.loss)" "$(cat first.loss)"
done
near "masked text on 3 ranks" "$(metric runs/first-3 eval 1 loss)" "$(metric runs/first-1 eval 1 loss)" "$real_digits"
train 1 seen --set data.length=300 --set data.valid_path=second.txt --set optimizer.lr=0 --set schedule.steps=1 \
    --set run.seed=6 --set data.documents=none
holds "without documents it does" "$(value loss) != $(cat first.loss)"

# --- what cannot be ---
expect 2 2 train tiny.yaml --set run.name=none --set model.position=learned
says err "key 'data.documents': positions begin anew in each document, but learned positions are a table"
expect 2 2 train tiny.yaml --set run.name=none --set data.documents=256
says err "key 'data.documents': expected an integer from 0 to 255 or none"
finish
