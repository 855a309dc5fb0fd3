# Every file of experiments/papers/ can be planned, and its number of parameters is the published one.
. "$LH_SOURCE/tests/cli/lib.sh"

limit=20
papers=$LH_SOURCE/experiments/papers

# Name, parameters, relative tolerance (0: exactly). Published: Longformer's 41M and 102M (Beltagy et al. 2020, tables 2
# and 3); its checkpoints with the pooler; for Linformer RoBERTa-base with the masked-token head and matrices of n x k (Wang
# et al. 2020, section 4); for ListOps the shapes of the Long Range Arena's repository. Performer's paper prints none: weights
# of the shape without biases and norms, layers x (4 width^2 + 2 width mlp) + vocab width.
roberta=124697433
table="
longformer-text8-small   41000000 0.03
longformer-text8-large  102000000 0.03
longformer-enwik8-small  41000000 0.03
longformer-enwik8-large 102000000 0.03
longformer-base-4096    148659456 0
longformer-large-4096   434600960 0
linformer-512-128       $((roberta + 2 * 12 * 512 * 128)) 0
linformer-512-256       $((roberta + 2 * 12 * 512 * 256)) 0
linformer-1024-256      $((roberta + 512 * 768 + 2 * 12 * 1024 * 256)) 0
performer-imagenet64    $((6 * (4 * 512 * 512 + 2 * 512 * 2048) + 256 * 512)) 0.03
performer-protein       $((36 * (4 * 512 * 512 + 2 * 512 * 1024) + 29 * 512)) 0.03
performer-protein-long  $((6 * (4 * 512 * 512 + 2 * 512 * 2048) + 29 * 512)) 0.03
lra-listops              8950000 0.03
lra-listops-performer    8950000 0.03
lra-listops-linformer   $((8950000 + 2 * 4 * 2000 * 16)) 0.03
"

# parameters NAME ARGUMENTS...: of its plan on one rank; the plan is left in `out`
parameters() {
    local name=$1
    shift
    expect 0 0 plan "$papers/$name.yaml" --json "$@"
    got=$(sed -n 's/^{"parameters":\([0-9]*\),.*/\1/p' out)
}

# --- the table has every file, and every file is in the table ---
for file in "$papers"/*.yaml; do
    name=$(basename "$file" .yaml)
    same "lines of the table for $name" "$(grep -c "^$name " <<<"$table")" 1
done
while read -r name published tolerance; do
    [ -n "$name" ] || continue
    parameters "$name"
    near "parameters of $name" "$got" "$published" "$tolerance"
    [ "${LH_TEST_REPORT:-}" = 1 ] && echo "parameters $name $got $published"
done <<<"$table"

# --- what their comments say ---
parameters linformer-512-128 --set 'model.attention={mechanism: full}'
same "RoBERTa-base" "$got" "$roberta"
while read -r sharing matrices; do
    parameters linformer-512-128 --set model.attention.sharing="$sharing"
    same "Linformer, sharing $sharing" "$((got - roberta))" "$((matrices * 512 * 128))"
done <<<"none 288
kv 12
layerwise 1"
parameters longformer-base-4096 --set model.head=lm --set model.head_transform=true --set model.attention.global=none
holds "its masked-token training can be planned" "$got > 0"

# --- the phases of the character models ---
for model in longformer-text8-small longformer-enwik8-large; do
    LAUNCH= bash "$papers/longformer-phases.sh" $model plan --json >phases 2>err
    same "phases of $model" "$? $(wc -l <phases)" '0 5'
    same "lengths" "$(grep -o '"length":[0-9]*' phases | tr '\n' ' ')" \
        '"length":2048 "length":4096 "length":8192 "length":16384 "length":23040 '
    same "one model" "$(grep -o '^{"parameters":[0-9]*' phases | sort -u | wc -l)" 1
    parameters $model
    same "phase 1 of $model is its file" "$(head -n 1 phases)" "$(cat out)"
done
bash "$papers/longformer-phases.sh" nothing plan 2>err
same "a model that is not there" $? 2
says err nothing.yaml
finish
