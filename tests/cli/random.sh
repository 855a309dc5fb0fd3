# Random configurations (tests/lh_random.h) through the program itself: a valid one trains, sends and takes what `plan`
# says, and writes what can be resumed; a broken one ends with exit code 2 and its mistake named; a wild one does
# either. LH_RANDOM_SEED, LH_RANDOM_FIRST and LH_RANDOM_COUNT choose which.
. "$LH_SOURCE/tests/cli/lib.sh"

seed=${LH_RANDOM_SEED:-6}
first=${LH_RANDOM_FIRST:-0}
count=${LH_RANDOM_COUNT:-4}
if [ -n "${LH_ALL:-}" ]; then count=${LH_RANDOM_COUNT:-60}; fi
"$LH_RANDOM_CONFIG" data || fail "the data files cannot be written"

# whole FILE KEY: of a plan, whose whole-job numbers come first.
whole() { grep -oE "\"$2\":[^,}]*" "$1" | head -n 1 | cut -d : -f 2; }

# as_planned RUN RANKS: the first step's bytes and memory, exactly.
as_planned() {
    expect 0 0 plan case.yaml --ranks "$2" --json
    cp out plan.json
    same "configuration $number: sent_bytes" "$(metric "$1" train 1 sent_bytes)" "$(whole plan.json sent_bytes_step)"
    same "configuration $number: peak_bytes" "$(metric "$1" train 1 peak_bytes)" "$(whole plan.json peak_bytes)"
}

# refused TEXT: exit code 2 and a message that names it.
refused() {
    if [ "$code" = 2 ] && grep -qF -e "$1" err; then pass; else
        fail "configuration $number on $ranks ranks: exit code $code, expected 2 and a message with: $1"
        cat case.yaml err
    fi
}

ran=0 said_no=0 broken=0 large=0
for ((number = first; number < first + count; number++)); do
    ranks=$((number % 5 + 1))
    "$LH_RANDOM_CONFIG" "$seed" "$number" "$ranks" data >case.yaml
    kind=$(sed -n 's/^# seed.*ranks: \([a-z]*\).*/\1/p' case.yaml)
    if grep -q '^# large' case.yaml; then large=$((large + 1)); continue; fi
    rm -rf runs
    longhaul "$ranks" train case.yaml
    if [ "$kind" = broken ]; then
        broken=$((broken + 1))
        refused "$(sed -n 's/^# must name //p' case.yaml)"
    elif [ "$kind" = wild ] && [ "$code" = 2 ]; then
        said_no=$((said_no + 1))
        refused ''
    elif [ "$kind" = wild ] && [ "$code" = 1 ] && grep -q 'Lower optimizer.lr' err; then
        said_no=$((said_no + 1)) # numbers that are not finite
    elif [ "$code" = 0 ]; then
        ran=$((ran + 1))
        as_planned "runs/$(ls runs)" "$ranks"
        expect 0 "$ranks" train case.yaml --resume
    else
        fail "configuration $number on $ranks ranks: exit code $code"
        cat case.yaml err
    fi
done
echo "$ran ran, $broken broken and $said_no wild ones were refused, $large are too large to run here"
finish
