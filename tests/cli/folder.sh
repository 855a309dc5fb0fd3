# The run folder: what lies there, what is in it, and what a second run does to it (README).
. "$LH_SOURCE/tests/cli/lib.sh"

write_text text.txt 6000
write_experiment tiny.yaml text.txt

# --- everything that a run leaves ---
train 2 tiny --set schedule.steps=7 --set train.log_every=3 --set train.eval_every=2 --set checkpoint.every=2 \
    --set checkpoint.keep=2
same "files of a run" "$(cd runs/tiny && find . -type f | sort | tr '\n' ' ')" \
    './checkpoints/step-00000006.h5 ./checkpoints/step-00000007.h5 ./config.yaml ./environment.json ./log.txt ./metrics.jsonl '
same "fields of train lines" \
    "$(grep '"event":"train"' runs/tiny/metrics.jsonl | keys | sort -u)" \
    'event step loss grad_norm lr tokens samples tokens_per_s step_s comm_wait_s data_s optimizer_s checkpoint_s sent_bytes sent_by_purpose peak_bytes rss_peak_bytes'
same "fields of eval lines" "$(grep '"event":"eval"' runs/tiny/metrics.jsonl | keys | sort -u)" \
    'event step loss bits_per_byte accuracy tokens eval_s'
same "train lines: the first step, every third, the last" \
    "$(grep '"event":"train"' runs/tiny/metrics.jsonl | value step /dev/stdin | tr '\n' ' ')" '1 3 6 7 '
same "eval lines: every second step and the end" \
    "$(grep '"event":"eval"' runs/tiny/metrics.jsonl | value step /dev/stdin | tr '\n' ' ')" '2 4 6 7 '
same "lines that are neither" "$(grep -cvE '^\{"event":"(train|eval)",.*\}$' runs/tiny/metrics.jsonl)" 0
same "standard output: one line" "$(wc -l <out)" 1
same "standard output: the last evaluation" "$(cat out)" "$(tail -n 1 runs/tiny/metrics.jsonl | sed 's/,"eval_s":[^,}]*//')"
near "loss of step 1: ln 256" "$(metric runs/tiny train 1 loss)" 5.5451774 0.02
near "bits per byte" "$(value bits_per_byte)" "$(awk -v l="$(value loss)" 'BEGIN { printf "%.9g", l / log(2) }')" 1e-7
same "tokens of a step" "$(metric runs/tiny train 1 tokens)" 128
says runs/tiny/log.txt 'finished at step 7'
says err 'step 3/7'
digits=9
[ "$LH_PRECISION" = double ] && digits=17
same "longest loss, in digits" \
    "$(value loss runs/tiny/metrics.jsonl | tr -d . | awk '{ if (length($0) > n) n = length($0) } END { print n }')" $digits

# --- what the run is doing, read from its folder ---
expect 0 0 status runs/tiny --json
same "state of a run that has ended" "$(value state)" '"finished"'
for key in step loss grad_norm tokens_per_s step_s peak_bytes; do
    same "status: $key" "$(value $key)" "$(metric runs/tiny train 7 $key)"
done
same "status: loss of the evaluation" "$(value eval_loss)" "$(metric runs/tiny eval 7 loss)"
same "status: checkpoint" "$(value checkpoint)" "\"$(checkpoint runs/tiny 7)\""
expect 0 0 status runs/tiny
says out 'step        7 of 7 (100.0 %)'
cp -r runs/tiny runs/going # as if it went on: two lines fewer, and half of one
sed '/finished/d' runs/tiny/log.txt >runs/going/log.txt
{ sed '$d' runs/tiny/metrics.jsonl | sed '$d'; printf '{"event":"train","step":7,"lo'; } >runs/going/metrics.jsonl
expect 0 0 status runs/going --json
same "state of a run that goes on" "$(value state)" '"running"'
same "its step: that of the last whole line" "$(value step)" 6
holds "time that is left ($(value left_s))" "$(value left_s) > 0"
touch -d '1 hour ago' runs/going/metrics.jsonl
expect 0 0 status runs/going --json
same "state of a run that writes no more" "$(value state)" '"silent"'
# ended STATE LINE: of a run whose log ends with this line (as printf has it)
cp runs/going/log.txt log.before
ended() {
    # shellcheck disable=SC2059
    { cat log.before && printf "$2\n"; } >runs/going/log.txt
    expect 0 0 status runs/going --json
    same "state of a run whose log ends with '$2'" "$(value state)" "\"$1\""
}
ended stopped '2026-11-27T19:32:07Z stopped on request after step 6: runs/going'
ended stopped '2026-11-27T19:32:07Z train.time_limit: stopped after step 6: runs/going'
ended finished '2026-11-27T19:32:07Z finished at step 7: runs/going'
# a machine that crashed leaves zeros, and half a line
ended failed '2026-11-27T19:32:07Z finished at step 7: runs/going\n\0\0\0\0002026-11-27T19:32:07Z failed: disk'
ended failed '\0\0\0\0002026-11-27T19:32:07Z failed: disk'
ended silent '2026-11-27T19:32:07Z finished at step 7: runs/going\n\0\0\0\0002026-11-27T19:32:07Z resuming'
# the words are what a run says of itself, not what its folder is called
ended silent "2026-11-27T19:32:07Z resuming '/data/failed: finished at step 7/0002' after step 4"
ended stopped '2026-11-27T19:32:07Z stopped on request after step 6: finished at step 9'
ended silent 'finished at step 7: runs/going'
rm -r runs/going/metrics.jsonl runs/going/log.txt runs/going/checkpoints
expect 0 0 status runs/going --json
same "state of a run without a step" "$(value state)$(value step)$(value checkpoint)" '"new"nullnull'
expect 0 0 status runs/going
says out 'checkpoint  none'
expect 2 0 status runs
says err 'is no run folder'
expect 2 0 status
says err 'wants a run folder'
rm -r runs/going

# --- the saved configuration is a whole experiment, from anywhere ---
for key in output path; do
    case $(sed -nE "s/^  $key: //p" runs/tiny/config.yaml) in
    /*) pass ;;
    *) fail "$key is not absolute in config.yaml" ;;
    esac
done
mkdir elsewhere
cp runs/tiny/config.yaml elsewhere/copy.yaml
(
    cd elsewhere || exit 1
    longhaul 2 train copy.yaml --set run.name=again
    exit "$code"
)
same "exit code of a run from the saved configuration" $? 0
same "results of a run from the saved configuration" "$(results runs/again)" "$(results runs/tiny)"
sed 's/name: again/name: tiny/' runs/again/config.yaml >again.yaml
same_file again.yaml runs/tiny/config.yaml

# --- a folder with checkpoints is not touched without --resume ---
before=$(cd runs/tiny && find . -type f -exec cksum {} + | sort)
for ranks in 1 3; do
    expect 2 "$ranks" train tiny.yaml
    says err '--resume'
    says err 'run.name'
done
same "the folder after a run that was refused" "$(cd runs/tiny && find . -type f -exec cksum {} + | sort)" "$before"

# --- no checkpoint unless asked for, and old metrics move aside ---
train 2 once
missing "$(checkpoint runs/once 5)"
cp runs/once/metrics.jsonl first.jsonl
train 1 once --set schedule.steps=2
same_file runs/once/metrics-1.jsonl first.jsonl
same "lines of the new metrics" "$(wc -l <runs/once/metrics.jsonl)" 3
train 1 once --set schedule.steps=1
exists runs/once/metrics-2.jsonl

# --- a checkpoint after the last step, and how many stay ---
train 2 last --set checkpoint.every=1000
same "one checkpoint" "$(ls runs/last/checkpoints)" step-00000005.h5
train 2 all --set checkpoint.every=2 --set checkpoint.keep=9
same "all checkpoints" "$(ls runs/all/checkpoints | tr '\n' ' ')" 'step-00000002.h5 step-00000004.h5 step-00000005.h5 '

# --- never, and how much ---
same "eval_tokens 0: the whole validation part" "$(value tokens)" 300
train 2 silent --set train.eval_every=0
same "eval_every 0: no evaluation" "$(cat out)$(grep eval runs/silent/metrics.jsonl)" ''
same "eval_every 0: the same losses" "$(losses runs/silent)" "$(losses runs/all)"
train 2 some --set train.eval_tokens=130
same "eval_tokens 130: two windows of 128" "$(value tokens)" 256
expect 2 2 train tiny.yaml --set run.name=never --set train.log_every=0
says err 'train.log_every'
missing runs/never

# --- where a run may lie ---
train 2 deep --set run.output=a/b/c
exists a/b/c/deep/metrics.jsonl
expect 1 2 train tiny.yaml --set run.name=blocked --set run.output=text.txt
says err 'text.txt'
# what cannot be made says why, not that it is missing; nobody may make folders there, whoever asks
expect 1 1 train tiny.yaml --set run.name=locked --set run.output=/sys/longhaul
says err "cannot make the folder '/sys/longhaul'"
says_not err 'No such file'
expect 2 2 train tiny.yaml --set run.output="$(printf 'folder/%.0s' {1..1000})"
says err 'run.output'
missing folder
expect 2 2 train tiny.yaml --set run.name=../up
says err 'run.name'
missing up runs/up
# a link in the run's folder is no way out of it
mkdir -p runs/linked
echo precious >precious
ln -s ../../precious runs/linked/log.txt
expect 1 1 train tiny.yaml --set run.name=linked
says err 'a symbolic link lies there'
same "what a link pointed to" "$(cat precious)" precious

# nor does a pipe there wait for anybody
limit=30
for file in metrics.jsonl log.txt; do
    rm -r runs/linked
    cp -r runs/tiny runs/linked
    rm "runs/linked/$file" && mkfifo "runs/linked/$file"
    expect 1 1 train tiny.yaml --set run.name=linked --resume --set schedule.steps=8
    same "messages" "$(grep -c '^longhaul: error' err)" 1
    says err "runs/linked/$file'"
done
limit=60

# --- paths start at the working directory, base: at the naming file ---
mkdir -p studies
cat >studies/child.yaml <<'EOF'
base: ../tiny.yaml
run: {name: child}
EOF
expect 0 2 train studies/child.yaml
same "results of a file that inherits" "$(losses runs/child)" "$(losses runs/all)"
finish
