# longhaul-sim: what is sent on simulated ranks is what the formulas say, and what a real run counts; the same study gives
# the same times and bytes.
source "$(dirname "$0")/lib.sh"
root=$(cd "$(dirname "$0")/../.." && pwd)
sim=$(dirname "$LONGHAUL")/longhaul-sim
if [ ! -x "$sim" ]; then
    echo "longhaul-sim was not built: no SimGrid (libsimgrid-dev), double or sanitizers"
    exit 77
fi

cat >model.yaml <<'EOF'
run: {name: simulated}
mesh: {chunk: 16}
data: {task: text, length: 500, batch: 1}
model: {kind: decoder, layers: 2, width: 32, heads: 4, attention: {mechanism: full}}
device: {threads: 1}
EOF
encoder='--set model.kind=encoder --set data.task=masked_text'

# field NAME FILE: a number of every line.
field() { sed -n "s/.*\"$1\":\([0-9.e+-]*\)[,}].*/\1/p" "$2"; }

# simulate OUT ARGUMENTS...: exit code in $code.
simulate() {
    local to=$1
    shift
    timeout 60 "$sim" model.yaml --platform "${cluster:-$root/experiments/platforms/${platform:-ethernet-10g}.xml}" \
        --rates "${rates:-$root/experiments/platforms/rates.jsonl}" --mode strong "$@" >"$to" 2>err
    code=$?
}

# sends NAME ARGUMENTS...: bytes on 1-8 ranks, 7 of which nothing divides, equal the formula, those handed to SMPI too;
# on 1-3 ranks they equal what a real run counts.
sends() {
    local name=$1
    shift
    simulate sim --ranks 1,2,3,4,7,8 "$@"
    same "$name: exit code" "$code" 0
    same "$name: points" "$(wc -l <sim)" 6
    same "$name: formula" "$(field sent_bytes sim)" "$(field predicted_sent_bytes sim)"
    # a step's two small reductions, 32 bytes, are not among the messages without contents
    same "$name: handed to SMPI" "$(paste <(field ranks sim) <(field smpi_bytes sim) |
        awk '{ printf "%.9g\n", $2 + ($1 > 1 ? 32 : 0) }')" "$(field sent_bytes sim)"
    [ "${real:-1}" = 1 ] || return
    longhaul 3 scale model.yaml --ranks 1,2,3 --mode strong --repeats 1 --warmup 0 "$@"
    same "$name: a real run" "$(field sent_bytes out)" "$(field sent_bytes sim | head -n 3)"
    same "$name: memory" "$(field peak_bytes out)" "$(field peak_bytes sim | head -n 3)"
}

sends ring
sends zigzag --set mesh.layout=zigzag
sends ulysses --set mesh.exchange=ulysses
real=0 sends window --set 'model.attention={mechanism: sliding_window, window: 100}'
sends performer --set 'model.attention={mechanism: performer, features: 16}'
# shellcheck disable=SC2086 # several words
sends linformer $encoder --set 'model.attention={mechanism: linformer, k: 8}'
real=0 sends recompute --set train.recompute=block

# The same study twice; another network takes another time and sends the same.
simulate first --ranks 2,4,8
simulate second --ranks 2,4,8
same "twice" "$(cat second)" "$(cat first)"
# Strong and weak share the point on the fewest ranks, with all that was counted there; a study goes on in its file.
simulate both --ranks 2,4 --mode both
same "what SMPI was given, of one point" "$(field smpi_bytes both | sed -n '1p;3p' | uniq | wc -l)" 1
simulate none --ranks 2,4 --out grown.jsonl
same "to a file: exit code" "$code" 0
simulate none --ranks 2,4,8 --out grown.jsonl
same "to a file: taken" "$(grep -c 'stands in' err)" 2
same "to a file: as at once" "$(field step_s grown.jsonl)" "$(field step_s first)"
cp grown.jsonl before
platform=fat-tree-100g simulate none --ranks 2,4,8,16 --out grown.jsonl
same "to a file of another network" "$code" 2
says err "holds a study with platform {name: ethernet-10g.xml"
same "to a file of another network: untouched" "$(cmp before grown.jsonl && echo same)" same
platform=fat-tree-100g simulate faster --ranks 2,4,8
same "bytes on another network" "$(field sent_bytes faster)" "$(field sent_bytes first)"
platform=dragonfly-100g simulate dragonfly --ranks 2,4,8
same "bytes on a dragonfly" "$(field sent_bytes dragonfly)" "$(field sent_bytes first)"
same "a faster network is faster" "$(paste <(field step_s faster) <(field step_s first) | awk '$1 >= $2' | wc -l)" 0

# More layers: what is extrapolated from two is near what three layers take.
simulate three --ranks 8 --set model.layers=3
simulate extrapolated --ranks 8 --extrapolate 3
near "three layers" "$(field step_s extrapolated)" "$(field step_s three)" 0.15

# What is wrong is said, with exit code 2.
simulate none --ranks 2,4000
same "too many ranks" "$code" 2
says err 'has 1024 cores'
simulate none --ranks 2 --set 'model.attention={mechanism: linformer}'
same "a mechanism that refuses" "$code" 2
rates=missing simulate none --ranks 2
same "no rates" "$code" 2
echo '{"mechanism":"full"}' >bad
rates=bad simulate none --ranks 2
same "no rates in the file" "$code" 2
says err 'bad:1: no rates'
# Of several lines of a model the mean, in whatever order they stand.
grep '"full"\|"sliding_window"' "$root/experiments/platforms/rates.jsonl" >quick
sed 's/"seconds":/"seconds":1/g' quick >slow
cat quick slow slow >mixed
sort mixed >sorted
for attention in full '{mechanism: sliding_window, window: 8}'; do
    rates=mixed simulate one --ranks 2 --attention "$attention"
    rates=sorted simulate other --ranks 2 --attention "$attention"
    same "rates in another order" "$(field step_s one | cut -c1-8)" "$(field step_s other | cut -c1-8)"
done
echo 'mechanism: full' >bad # YAML
rates=bad simulate none --ranks 2
same "rates that are no JSON" "$code" 2
says err 'bad:1: byte '
platform=missing simulate none --ranks 2
same "no platform" "$code" 2
cluster=$PWD simulate none --ranks 2
same "a folder" "$code" 2
says err 'cannot be read: name a file'
cluster=model.yaml simulate none --ranks 2
same "no platform file" "$code" 2
says err "'model.yaml' is no platform file of SimGrid"
simulate none --rank 2
same "unknown option" "$code" 2
finish
