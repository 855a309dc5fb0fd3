# The audit of samples: a run that is stopped and goes on several times, on other ranks, splits, layouts and
# exchanges, sees in every epoch each window exactly once, in the order of the run that nobody disturbed.
. "$LH_SOURCE/tests/cli/lib.sh"

write_text text.txt 1450 # 11 training windows: no batch of 4 divides an epoch
write_experiment tiny.yaml text.txt
sets=(--set data.batch=4 --set train.eval_every=0 --set checkpoint.every=5 --set checkpoint.keep=9)
windows=11

# ids RUN: its sample numbers in the order of training, one a line; its steps must be 1, 2, 3, ...
ids() {
    same "steps of $1" "$(value step "$1/metrics.jsonl" | awk '$1 != NR' | head -n 1)" ''
    value samples "$1/metrics.jsonl" | tr -d '[]' | tr ',' '\n' >"$1.ids"
}

# audited RUN EPOCHS: at least so many whole epochs, of which each is a permutation of all windows
audited() {
    if awk -v n="$windows" -v epochs="$2" '
        { epoch = int((NR - 1) / n); if ($1 < 0 || $1 >= n || seen[epoch, $1]++) bad = bad " " NR ":" $1 }
        END { if (int(NR / n) < epochs) bad = bad " only " NR " samples"; if (bad != "") print "samples" bad; exit bad != "" }' \
        "$1.ids"; then
        pass
    else
        fail "$1: an epoch repeats or skips a window"
    fi
}

# leg STEPS RANKS ARGUMENTS...: go on to this step
leg() {
    local steps=$1 ranks=$2
    shift 2
    train "$ranks" run --resume --set schedule.steps="$steps" "${sets[@]}" "$@"
}

train 1 straight --set schedule.steps=14 "${sets[@]}"
ids runs/straight
audited runs/straight 5
same "epochs are in different orders" \
    "$([ "$(head -n $windows runs/straight.ids)" != "$(head -n $((2 * windows)) runs/straight.ids | tail -n $windows)" ] && echo yes)" yes

leg 3 2
leg 8 4 --set mesh.data=2 --set train.accumulate=2
if thorough; then
    leg 9 3 --set mesh.layout=zigzag
    leg 10 4 --set mesh.data=4
fi
leg 12 3 # checkpoints after 10 and 12, of which the last is lost: steps 11 and 12 are done again
rm "$(checkpoint runs/run 12)"
leg 13 5 --set mesh.exchange=ulysses
same "steps that were done again" "$(value step runs/run/metrics-1.jsonl | tr '\n' ' ')" '11 12 '
losses runs/run >losses.run
losses runs/straight | head -n 13 >losses.straight
if paste losses.run losses.straight | awk '{ d = $1 - $2; if (d < 0) d = -d; if (!(d <= 1e-4 * $2)) bad = 1 } END { exit bad || NR != 13 }'; then
    pass
else
    fail "losses differ"
    paste losses.run losses.straight
fi
# a smaller batch takes fewer samples at a time, from where the order stands
leg 15 2 --set data.batch=2
says err 'data.batch was 4, is 2'
ids runs/run
audited runs/run 5
same_file runs/run.ids runs/straight.ids
finish
