#!/usr/bin/env bash
# Tests can fail (README, invariant 8): every tests/mutants/NAME.patch plants one error in a copy of a source; the test
# that the patch names must pass without it and fail with it. Prints "mutant NAME: caught by TEST" for each.
#
# usage: run_mutants.sh BUILD_FOLDER FOLDER_OF_PROGRAMS LAUNCHER...   (the number of ranks follows the launcher)
# A patch begins with one line that says what is wrong, then "Test: NAME" and "Ranks: N". A patch that does not apply, a
# mutant that is not built, passes, hangs or crashes without a failed test: a failure here.
set -u
build=$1 programs=$2
shift 2
launch=("$@")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failures=0

field() { sed -n "s/^$2: *//p" "$1" | head -n 1; }

# run PROGRAM RANKS: its exit code; the output is in $log
run() { timeout 60 "${launch[@]}" "$2" "$programs/$1" >"$log" 2>&1; }

wrong() {
    echo "mutant $1: $2"
    failures=$((failures + 1))
}

# One build for all; where it fails, each is built alone to see which.
together=1
cmake --build "$build" --parallel 2 --target mutants >"$log" 2>&1 || together=0

declare -A sound
for patch in "$here"/mutants/*.patch; do
    name=$(basename "$patch" .patch)
    test=$(field "$patch" Test) ranks=$(field "$patch" Ranks)
    if [ -z "$test" ] || [ -z "$ranks" ]; then wrong "$name" 'the patch names no Test or no Ranks'; continue; fi
    if [ "$together" = 0 ] && ! cmake --build "$build" --target "mutant_$name" >"$log" 2>&1; then
        grep -E 'does not apply|error:' "$log" | head -n 5
        wrong "$name" 'was not built'
        continue
    fi
    if [ -z "${sound[$test.$ranks]:-}" ]; then
        run "test_$test" "$ranks"
        sound[$test.$ranks]=$?
    fi
    if [ "${sound[$test.$ranks]}" != 0 ]; then wrong "$name" "$test.np$ranks fails without it"; continue; fi
    run "mutant_$name" "$ranks"
    code=$?
    # the names of failed tests; several ranks may print at once
    caught=$(grep -oE '\[  FAILED  \] [a-z][a-z0-9_]*' "$log" | sed 's/.* //' | sort -u | paste -sd ' ')
    if [ "$code" = 0 ]; then wrong "$name" "NOT caught by $test.np$ranks"
    elif [ "$code" = 124 ]; then wrong "$name" "$test.np$ranks hangs"
    elif [ -z "$caught" ]; then tail -n 5 "$log"; wrong "$name" "$test.np$ranks ended with $code but no test failed"
    else echo "mutant $name: caught by $test.np$ranks ($caught)"; fi
done
[ "$failures" = 0 ]
