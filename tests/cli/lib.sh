# What the script tests of the program share. A script sources it, runs checks, and ends with `finish`.
# A check that fails says what it saw and goes on, so that one run shows everything that is wrong.
set -u

cli_failed=0
cli_checks=0
real_digits=1e-6 # relative tolerance of a first step on other rank counts (README, invariant 1)
[ "$LH_PRECISION" = double ] && real_digits=1e-12

# thorough: in double and under sanitizers scenes that say once more what the release build has said run with run.sh --all
# alone.
thorough() {
    [ -n "${LH_ALL:-}" ] || { [ "$LH_PRECISION" = float ] && [ -z "${ASAN_OPTIONS:-}" ]; }
}

# some_ranks COUNTS...: these numbers of ranks; where it is not thorough those of them that are 1 or 3.
some_ranks() {
    for count in "$@"; do
        if thorough || [ "$count" = 1 ] || [ "$count" = 3 ]; then echo "$count"; fi
    done
}

fail() {
    cli_failed=$((cli_failed + 1))
    echo "FAILED: $*"
}

pass() {
    cli_checks=$((cli_checks + 1))
}

finish() {
    echo "$cli_checks checks passed, $cli_failed failed"
    [ "$cli_failed" = 0 ] && [ "$cli_checks" -gt 0 ]
    exit
}

# longhaul RANKS ARGUMENTS...: the program under the launcher (0 ranks: without it); standard output in `out`, standard error in `err`, the
# exit code in $code. A crash, an internal error and a run that hangs are failures whatever was expected.
longhaul() {
    local ranks=$1 launch=()
    shift
    # shellcheck disable=SC2206 # the launcher is several words
    if [ "$ranks" != 0 ]; then launch=($LH_MPIEXEC "$ranks"); fi
    timeout --kill-after=5 "${limit:-60}" "${launch[@]}" "$LONGHAUL" "$@" >out 2>err
    code=$?
    if [ "$code" = 124 ] || [ "$code" -gt 128 ]; then
        fail "longhaul $* on $ranks ranks: exit code $code (124: it hangs; above 128: it crashed)"
        cat err
    fi
    # not piped into grep -q, which would end the writer early
    if grep -qiE 'internal error|error: [a-z]*sanitizer|runtime error:|(^|[^a-z])nan([^a-z]|$)' out err; then
        fail "longhaul $* on $ranks ranks says:"
        grep -iE 'internal error|error: [a-z]*sanitizer|runtime error:|(^|[^a-z])nan([^a-z]|$)' out err
        cat err
    fi
}

# expect CODE RANKS ARGUMENTS...: longhaul must end with this exit code.
expect() {
    local wanted=$1
    shift
    longhaul "$@"
    if [ "$code" = "$wanted" ]; then
        pass
    else
        fail "longhaul ${*:2} on $1 ranks: exit code $code, expected $wanted"
        cat out err
    fi
}

# says FILE TEXT: the file contains the text, letter by letter.
says() {
    if grep -qF -e "$2" "$1"; then
        pass
    else
        fail "$1 does not contain '$2':"
        cat "$1"
    fi
}

# says_not FILE TEXT
says_not() {
    if grep -qF -e "$2" "$1"; then
        fail "$1 contains '$2':"
        cat "$1"
    else
        pass
    fi
}

# same WHAT A B: two words or texts are equal.
same() {
    if [ "$2" = "$3" ]; then
        pass
    else
        fail "$1: '$2', expected '$3'"
    fi
}

# same_file A B: byte by byte.
same_file() {
    if cmp "$1" "$2"; then
        pass
    else
        fail "$1 and $2 differ"
    fi
}

# exists PATH..., missing PATH...
exists() {
    for path in "$@"; do
        if [ -e "$path" ]; then pass; else fail "$path is missing"; fi
    done
}
missing() {
    for path in "$@"; do
        if [ -e "$path" ]; then fail "$path exists"; else pass; fi
    done
}

# holds WHAT EXPRESSION: an awk expression over numbers.
holds() {
    if awk "BEGIN { exit !($2) }"; then
        pass
    else
        fail "$1: not ($2)"
    fi
}

# near WHAT A B RELATIVE: both are numbers, and |A - B| <= RELATIVE * |B|.
near() {
    if awk -v a="$2" -v b="$3" -v r="$4" 'BEGIN {
        number = "^-?[0-9.]+([eE][-+]?[0-9]+)?$"
        d = a - b; if (d < 0) d = -d; if (b < 0) b = -b
        exit !(a ~ number && b ~ number && d <= r * b) }'; then
        pass
    else
        fail "$1: $2 against $3, tolerance $4"
    fi
}

# value KEY [FILE]: of each line's JSON object. Our writer puts no space around colons.
value() {
    sed -nE "s/.*\"$1\":(\\[[^]]*\\]|\"[^\"]*\"|[^,}]*).*/\\1/p" "${2:-out}"
}

# metric RUN EVENT STEP KEY
metric() {
    grep "^{\"event\":\"$2\",\"step\":$3," "$1/metrics.jsonl" | value "$4" /dev/stdin
}

# keys: of each JSON line on standard input, in order.
keys() {
    sed -E 's/\[[^]]*\]//g; s/:"[^"]*"//g' | grep -oE '"[a-z_]+"|\}' | tr -d '"' | tr '\n' ' ' | tr '}' '\n' | sed 's/^ //; s/ $//'
}

# results RUN: its metrics without what a clock says.
results() {
    sed -E 's/,"(tokens_per_s|step_s|comm_wait_s|data_s|optimizer_s|checkpoint_s|eval_s|rss_peak_bytes)":[-+.0-9eE]+//g' "$1/metrics.jsonl"
}

# losses RUN: the training losses.
losses() {
    grep '"event":"train"' "$1/metrics.jsonl" | value loss /dev/stdin
}

# near_losses WHAT RUN REFERENCE RELATIVE: as many, and each one near.
near_losses() {
    losses "$2" >losses.a
    losses "$3" >losses.b
    if awk -v r="$4" 'NR == FNR { a[FNR] = $1; n = FNR; next }
                      { m = FNR; d = a[FNR] - $1; if (d < 0) d = -d; if (!(d <= r * $1)) bad = 1 }
                      END { exit bad || n != m || n == 0 }' losses.a losses.b; then
        pass
    else
        fail "$1: losses of $2 and $3 differ by more than $4"
        paste losses.a losses.b
    fi
}

# checkpoint RUN STEP: its path.
checkpoint() {
    printf '%s/checkpoints/step-%08d.h5' "$1" "$2"
}

# write_text FILE BYTES [SEED]: words of random letters, a new one at every seed.
write_text() {
    awk -v n="$2" -v s="${3:-1}" 'BEGIN {
        for (i = 0; i < n; i++) {
            s = (s * 16807) % 2147483647
            c = int(s / 7919) % 30
            printf "%c", c < 26 ? 97 + c : (c == 29 && i % 7 == 0 ? 10 : 32)
        } }' >"$1"
}

# write_periodic FILE BYTES PERIOD: the same random letters again and again.
write_periodic() {
    write_text period "$3"
    awk -v n="$2" '{ text = text $0 " " } END {
        for (used = 0; used + length(text) < n; used += length(text)) printf "%s", text
        printf "%s", substr(text, 1, n - used) }' period >"$1"
    rm period
}

# write_experiment FILE TEXT: a tiny decoder; chunks of 16 so that even short sequences have shards on all ranks. Every
# step is logged, the end is evaluated, nothing is saved. LH_TEST_ISA chooses the instruction set.
write_experiment() {
    cat >"$1" <<EOF
run: {name: tiny, seed: 3, output: runs}
mesh: {chunk: 16}
data: {path: $2, length: 128}
model:
  layers: 2
  width: 32
  heads: 2
  attention: {mechanism: sliding_window, window: 24}
optimizer: {lr: 1.0e-2}
schedule: {kind: constant, steps: 5}
train: {log_every: 1, eval_every: 1000, eval_tokens: 0}
checkpoint: {every: 0}
device: {isa: ${LH_TEST_ISA:-auto}}
EOF
}

# train RANKS NAME ARGUMENTS...: tiny.yaml into runs/NAME; must succeed.
train() {
    local ranks=$1 name=$2
    shift 2
    expect 0 "$ranks" train tiny.yaml --set run.name="$name" "$@"
}
