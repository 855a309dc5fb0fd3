# Any file as data: an error that says what to do, or a correct run, never a crash.
. "$LH_SOURCE/tests/cli/lib.sh"

write_text text.txt 6000
write_experiment tiny.yaml text.txt
write_text valid.txt 777 5

# refused TEXT ARGUMENTS...: exit code 2, and a message with this text
refused() {
    local text=$1
    shift
    expect 2 3 train tiny.yaml --set run.name=refused "$@"
    says err "$text"
}

# trained RANKS ARGUMENTS...: a new run named `run`, whose losses are numbers
trained() {
    local ranks=$1
    shift
    rm -rf runs/run
    train "$ranks" run "$@"
    same "losses that are numbers ($*)" "$(losses runs/run | grep -cE '^[0-9.]+(e[-+][0-9]+)?$')" 5
}

# --- what is no data ---
refused "key 'data.path'" --set data.path=nowhere.txt
says err 'nowhere.txt'
refused "key 'data.valid_path'" --set data.valid_path=nowhere.txt
refused "key 'data.test_path'" --set data.test_path=nowhere.txt
mkdir folder
refused 'is a folder' --set data.path=folder
refused 'pipe, socket or device' --set data.path=/dev/null
mkfifo pipe
refused 'pipe, socket or device' --set data.path=pipe
: >empty
refused 'has 0 bytes' --set data.path=empty
refused 'has 0 bytes' --set data.valid_path=empty
printf a >one
refused 'has 1 bytes' --set data.path=one
refused 'has 1 bytes' --set data.test_path=one
printf ab >two
refused 'has 2 bytes, of which 1' --set data.path=two

# --- hardly any data ---
printf abc >three
for ranks in 1 3; do
    trained $ranks --set data.path=three
    same "tokens of 3 bytes" "$(metric runs/run train 1 tokens) $(value tokens)" '1 1'
    trained $ranks --set data.path=two --set data.valid_path=two
    same "tokens of 2 bytes" "$(metric runs/run train 1 tokens) $(value tokens)" '1 1'
    write_text short 60
    trained $ranks --set data.path=short
    same "shorter than a sequence" "$(metric runs/run train 1 tokens) $(value tokens)" '56 3'
done
trained 2 --set data.path=short --set mesh.chunk=1000000000000
same "a chunk longer than anything" "$(metric runs/run train 1 tokens)" 56
refused "key 'data.length'" --set data.length=1000000000000
refused "key 'data.batch'" --set data.batch=1000000000 --set data.length=1000000000

# --- windows: every byte but the first is predicted once in an epoch ---
trained 3 --set data.path=three --set data.batch=4
same "4 sequences of 1 token" "$(metric runs/run train 1 tokens)" 4
write_text exact 129
trained 2 --set data.path=exact --set data.valid_path=valid.txt
same "length + 1 bytes: one window" "$(value samples runs/run/metrics.jsonl | sort -u)" '[0]'
same "length + 1 bytes: tokens" "$(metric runs/run train 1 tokens)" 128
write_text more 130
trained 2 --set data.path=more --set data.valid_path=valid.txt
same "length + 2 bytes: tokens of 4 steps" \
    "$(grep train runs/run/metrics.jsonl | value tokens /dev/stdin | head -n 4 | sort -n | tr '\n' ' ')" '1 1 128 128 '
same "validation: all of another file but its first byte" "$(value tokens)" 776
write_text epoch 600
trained 3 --set data.path=epoch --set data.valid_path=valid.txt --set schedule.steps=5
same "an epoch takes every window" "$(value samples runs/run/metrics.jsonl | sort | tr '\n' ' ')" '[0] [1] [2] [3] [4] '
same "an epoch predicts every byte but the first" \
    "$(grep train runs/run/metrics.jsonl | value tokens /dev/stdin | awk '{ n += $1 } END { print n }')" 599

# --- all 256 bytes ---
for i in $(seq 0 255); do
    # shellcheck disable=SC2059
    printf "\\$(printf %o "$i")"
done >bytes
cat bytes bytes bytes bytes >binary
trained 3 --set data.path=binary
holds "binary bytes" "$(metric runs/run train 5 loss) < 6"

# --- a large file costs no memory ---
truncate -s 100000000 zeros
trained 1
small=$(metric runs/run train 5 rss_peak_bytes)
for ranks in 1 2; do
    trained $ranks --set data.path=zeros --set train.eval_tokens=256
    holds "100 MB of zeros are not in memory" "$(metric runs/run train 5 rss_peak_bytes) < $small + 2e7"
    holds "zeros are learned" "$(metric runs/run train 5 loss) < 4"
done
rm zeros

# --- other files for validation and test ---
trained 2 --set data.valid_path=valid.txt --set data.test_path=exact --set checkpoint.every=5
same "validation tokens" "$(value tokens)" 776
expect 0 2 eval runs/run
same "parts" "$(value part | tr '\n' ' ')" '"valid" "test" '
same "tokens of the parts" "$(value tokens | tr '\n' ' ')" '776 128 '

# --- a file that shrinks during the run ends it on all ranks ---
cp text.txt shrinks.txt
rm -rf runs/run
# shellcheck disable=SC2086
timeout --kill-after=5 30 $LH_MPIEXEC 3 "$LONGHAUL" train tiny.yaml --set run.name=run --set data.path=shrinks.txt \
    --set schedule.steps=1000000 >out 2>err &
job=$!
for _ in $(seq 100); do
    if [ -s runs/run/metrics.jsonl ]; then break; fi
    sleep 0.1
done
: >shrinks.txt
wait "$job"
same "exit code of a run whose data shrinks" $? 1
says err 'has shrunk'
finish
