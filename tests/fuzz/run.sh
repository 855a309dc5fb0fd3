#!/usr/bin/env bash
# bash tests/fuzz/run.sh FOLDER TARGET SECONDS: fuzzes FOLDER/tests/fuzz/fuzz_TARGET, beginning with tests/fuzz/corpus/TARGET
# (inputs that found something, and a few to begin with) and with what is made here.
# What is found lies in FOLDER/found, the log in FOLDER/fuzz_TARGET.log; one line says how it went. Exit code 1: a finding.
# LH_FUZZ_SEED chooses the run (0: by time), 1 unless given.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
source=$PWD
folder=$(cd "$1" && pwd) target=$2 seconds=$3
log=$folder/fuzz_$target.log
# targets write many small files, and sync them: in memory, where there is such a folder
scratch=$(mktemp -d /dev/shm/fuzz.XXXXXX 2>/dev/null || mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/corpus" "$scratch/seeds" "$folder/found"
cd "$scratch" || exit 1
# addresses in the same places each time: the sanitizers of clang 14 do not start everywhere otherwise
fixed=()
if setarch -R true 2>/dev/null; then fixed=(setarch -R); fi
options=(-seed="${LH_FUZZ_SEED:-1}" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -malloc_limit_mb=1000000
    -print_final_stats=1 -close_fd_mask=1 -artifact_prefix="$folder/found/$target-")
case $target in
config | set)
    # every key, word and mechanism that the sources know
    grep -ohE '"[a-z_0-9.-]{2,24}"' "$source"/experiments/config_*.c "$source"/experiments/sweep_axes.c "$source"/attention/*.c | sort -u >dictionary
    grep -ohE '[a-z_]+\|[a-z_|]+' "$source"/experiments/config_fields.c "$source"/attention/*.c | tr '|' '\n' |
        sort -u | sed -n 's/..*/"&"/p' >>dictionary
    [ "$target" = set ] || for file in "$source"/experiments/*.yaml "$source"/experiments/*/*.yaml; do
        { printf '\0' && cat "$file"; } >"seeds/$(basename "$file")"
    done
    # a list and a word longer than any may be
    printf '\0data: {path: a}\nmodel: {layers: 1, width: 8, heads: 1, attention: {mechanism: sliding_window, window: 4, global: [%s]}}' \
        "$(seq -s , 300)" >seeds/list
    printf -- '\n--set\n%0200d.%0400d=%0400d' 0 0 0 >seeds/long
    options+=(-dict=dictionary -max_len=4096) ;;
text) options+=(-max_len=512) ;;
json)
    printf '{"event":"train","step":1,"loss":-1.5e-3,"x":[1,{"a":null},true,false],"text":"\\u00e9\\ud83d\\ude00\\n"}' >seeds/line
    options+=(-max_len=512) ;;
*)
    # one change of every kind to every item (tests/fuzz/shape.c), with small and with large numbers behind it; those of
    # type, shape and value for two ways of reading
    tails=('\x02\x03\x04\x05' '\x0d\x01\x02\x40' '\x22\x02\x7f\xbf\x05\xc1\xc1\xc1')
    items=31 two='0 3'
    [ "$target" = checkpoint ] || items=15 two='0 2'
    for ((i = 0; i < items * 8 * 3; i++)); do
        kind=$((i / 3 % 8)) ways=$(((i + i / 24) % 4))
        case $kind in 1 | 2 | 7) ways=$two ;; esac
        for way in $ways; do
            # shellcheck disable=SC2059 # the format is the bytes
            printf "$(printf '\\x%02x\\x01\\x%02x\\x%02x' "$way" $((i / 24)) "$kind")${tails[i % 3]}" >"seeds/$i-$way"
        done
    done
    options+=(-max_len=256) ;;
esac
inputs=(corpus seeds)
[ ! -d "$source/tests/fuzz/corpus/$target" ] || inputs+=("$source/tests/fuzz/corpus/$target")
ASAN_OPTIONS=allocator_may_return_null=1:max_allocation_size_mb=256:quarantine_size_mb=16 \
    UBSAN_OPTIONS=print_stacktrace=1 LSAN_OPTIONS=suppressions=$source/tests/lsan.supp:print_suppressions=0 \
    OMP_NUM_THREADS=1 ${fixed[@]+"${fixed[@]}"} "$folder/tests/fuzz/fuzz_$target" "${options[@]}" \
    "${inputs[@]}" >"$log" 2>&1
code=$?
awk -v t="$target" '
    /^#[0-9]+/ { for (i = 2; i < NF; i++) { if ($i == "cov:") edges = $(i + 1); if ($i == "ft:") features = $(i + 1) } }
    /^stat::number_of_executed_units/ { runs = $2 }
    /^stat::average_exec_per_sec/ { rate = $2 }
    END { printf "fuzz %s: %d inputs, %d a second, %d edges, %d features\n", t, runs, rate, edges, features }' "$log"
[ "$code" = 0 ] && exit 0
grep -E 'fuzz: |ERROR:|runtime error:|SUMMARY|Test unit written' "$log" | head -n 12
exit 1
