#!/usr/bin/env bash
# Installs what is needed, builds, and runs every test at its rank counts. The last line is "N passed, N failed".
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

usage() {
    cat <<'EOF'
usage: bash tests/run.sh [--all] [--tidy] [--build NAME]... [--tests REGEX] [--no-install]
       bash tests/run.sh --count JUNIT.xml

  (nothing)       release at 1-5 ranks, double and asan at 1 and 3 ranks, warnings as errors, format, fuzzing (15 seconds
                  for each target)
  --all           release, debug, double and asan at 1-5 ranks, tests labelled slow too, release once more with each
                  lesser instruction set; 10 minutes for each fuzz target; where installed: clang, clang-tidy (with the
                  static analyzer and its MPI checks), valgrind on tests of one rank
  --tidy          clang-tidy as well
  --build NAME    only this part (release, debug, double, asan, avx2, portable, ci, clang, format, fuzz, valgrind, tidy); may be
                  repeated
  --tests REGEX   only tests whose name matches
  --no-install    leave setup.sh out
  --count FILE    print what a ctest report counts
Each test counts once for each rank count and build; the exit code is 1 if anything failed.
LH_JOBS sets how many processors are used (default: all), LH_FUZZ_SECONDS how long each target is fuzzed. Build folders:
build/NAME.
EOF
}

# count_report FILE: "passed failed skipped" of a ctest report. Skipped is only what says so itself (exit code 77); a
# test that could not be run has failed.
count_report() {
    awk '/<testcase /  { open = 1; run = /status="run"/; skip = 0 }
         /<skipped message="SKIP_/ { skip = 1 }
         /<\/testcase>/ { if (open) { if (run) passed++; else if (skip) skipped++; else failed++ } open = 0 }
         END { print passed + 0, failed + 0, skipped + 0 }' "$1"
}

# list_report FILE STATE: names of the tests that are failed or skipped.
list_report() {
    awk -v want="$2" '
        /<testcase /  { name = $0; sub(/.*<testcase name="/, "", name); sub(/".*/, "", name); run = /status="run"/; skip = 0 }
        /<skipped message="SKIP_/ { skip = 1 }
        /<\/testcase>/ { state = run ? "passed" : skip ? "skipped" : "failed"; if (state == want) print name }' "$1"
}

all=0 tidy=0 install=1 filter='' only=''
while [ $# -gt 0 ]; do
    case $1 in
    --all) all=1 ;;
    --tidy) tidy=1 ;;
    --build) only="$only ${2:?--build needs a name}"; shift ;;
    --tests) filter=${2:?--tests needs a regular expression}; shift ;;
    --no-install) install=0 ;;
    --count)
        read -r p f s < <(count_report "${2:?--count needs a file}")
        echo "$p passed, $f failed, $s skipped"
        exit 0 ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
    esac
    shift
done

if [ "$all" = 1 ]; then export LH_ALL=1; fi # scripts run all their scenes in every build
jobs=${LH_JOBS:-$(env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 2)} # nproc counts threads where that is set
passed=0 failed=0
failures=() skips=()

note() { printf '== %s (%ds)\n' "$1" "$SECONDS"; }
pass() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); failures+=("$1"); }
skip() { skips+=("$1"); }

# build NAME [configure arguments]: configure and build build/NAME; a failure counts as one failed test.
build() {
    local name=$1 log=build/$1.log
    shift
    mkdir -p build
    note "build $name"
    if { cmake "$@" && cmake --build "build/$name" --parallel "$jobs"; } >"$log" 2>&1; then return 0; fi
    grep -E -A4 'error:|CMake Error|undefined reference' "$log" | head -n 40 | grep . || tail -n 20 "$log"
    fail "build $name (see $log)"
    return 1
}

# run_tests NAME RANKS [ISA]: every test of build/NAME; RANKS lists the rank counts, the others are left out. ISA: the
# instruction set of the tests' devices, where it is not the best.
run_tests() {
    local name=$1 ranks=$2 isa=${3:-} report=$PWD/build/$1/report.xml p f s t others
    local select=()
    others=$(echo 1 2 3 4 5 6 7 8 | tr ' ' '\n' | grep -vxE "$(echo "$ranks" | tr ' ' '|')" | tr -d '\n')
    select+=(-E "\\.np[$others]\$")
    [ "$all" = 1 ] || select+=(-LE '^slow$')
    [ -z "$filter" ] || select+=(-R "$filter")
    note "test $name${isa:+ with $isa} at $ranks ranks"
    rm -f "$report"
    LH_TEST_ISA=$isa ctest --test-dir "build/$name" -j "$jobs" --output-on-failure --no-tests=error \
        --output-junit "$report" "${select[@]}"
    if [ ! -s "$report" ]; then
        [ -n "$filter" ] || fail "$name${isa:+ with $isa}: ctest made no report"
        return
    fi
    read -r p f s < <(count_report "$report")
    passed=$((passed + p)) failed=$((failed + f))
    [ $((p + f + s)) -gt 0 ] || [ -n "$filter" ] || fail "$name: no tests"
    while read -r t; do failures+=("$name${isa:+ with $isa}: $t"); done < <(list_report "$report" failed)
    while read -r t; do skips+=("$name: $t"); done < <(list_report "$report" skipped)
}

# Tools of LLVM 14, Debian 12's; other versions format and warn differently.
llvm_tool() {
    local tool
    for tool in "$1-14" "$1"; do
        if command -v "$tool" >/dev/null && "$tool" --version | grep -q 'version 14\.'; then
            echo "$tool"
            return 0
        fi
    done
    return 1
}

sources() { find core parallel attention models io experiments tests -name "*.$1" | sort; }

check_format() {
    local tool list
    note format
    if ! tool=$(llvm_tool clang-format); then skip 'format: clang-format 14 is not installed'; return; fi
    list=$(sources '[ch]' | xargs "$tool" --dry-run 2>&1 | sed -n 's/^\([^:]*\.[ch]\):[0-9]*:.*/\1/p' | sort -u)
    if [ -z "$list" ]; then pass; else
        echo "$list"
        fail "format (the files named above; $tool -i FILE makes it right)"
    fi
}

check_tidy() {
    local tool omp=build/tidy/include
    note tidy
    if ! tool=$(llvm_tool clang-tidy); then skip 'tidy: clang-tidy 14 is not installed'; return; fi
    [ -f build/ci/compile_commands.json ] || cmake --preset ci >/dev/null || { fail 'tidy: configure'; return; }
    # the compile commands are gcc's, and its omp.h is the one header that clang lacks (an attribute in it, too)
    mkdir -p "$omp"
    sed 's/, *__malloc__ *([a-z_]*)//g; s/__malloc__ *([a-z_]*), *//g' "$(gcc -print-file-name=include/omp.h)" >"$omp/omp.h"
    if sources c | grep -vE '_avx(2|512)\.c$' | grep -Ff - build/ci/compile_commands.json | grep -v /mutants/ |
        sed -n 's/.*"file": "\([^"]*\)".*/\1/p' | sort -u | xargs -P "$jobs" -n 4 "$tool" -p build/ci --quiet \
            --extra-arg=-isystem"$PWD/$omp"; then
        pass
    else fail tidy; fi
}

# A clang that has OpenMP.
omp_clang() {
    local tool
    for tool in clang-14 clang; do
        if printf '#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n' |
            "$tool" -fopenmp -x c - -o /dev/null 2>/dev/null; then
            echo "$tool"
            return 0
        fi
    done
    return 1
}

# A clang that has its fuzzer library.
fuzz_compiler() {
    local tool
    for tool in clang-14 clang; do
        if echo 'int LLVMFuzzerTestOneInput(const char *p, long n); int LLVMFuzzerTestOneInput(const char *p, long n) { return !p && n; }' |
            "$tool" -fsanitize=fuzzer,address,undefined -x c - -o /dev/null 2>/dev/null; then
            echo "$tool"
            return 0
        fi
    done
    return 1
}

# Each target counts once. What is not fuzzed comes from the libraries of the release build, made by gcc with its OpenMP.
check_fuzz() {
    local tool target targets='checkpoint tokens config set' seconds=15 log=build/fuzz.log
    [ "$all" = 1 ] && targets="$targets text" seconds=600
    note fuzz
    if ! tool=$(fuzz_compiler); then
        skip 'fuzz: clang with its fuzzer library is not installed (Debian: clang-14 libclang-rt-14-dev)'
        return
    fi
    mkdir -p build/fuzz
    rm -f build/fuzz/*.passed
    if ! { cmake --preset release && cmake --build build/release --parallel "$jobs" --target lh_experiments &&
        cmake -S . -B build/fuzz -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_COMPILER="$tool" -DLH_TESTS=OFF \
            -DLH_FUZZ="$PWD/build/release" -DOpenMP_C_FLAGS=-fopenmp -DOpenMP_C_LIB_NAMES=gomp \
            -DOpenMP_gomp_LIBRARY="$(gcc -print-file-name=libgomp.so)" &&
        cmake --build build/fuzz --parallel "$jobs" --target fuzzers; } >"$log" 2>&1; then
        grep -E -A4 'error:|CMake Error|undefined reference' "$log" | head -n 40
        fail "build fuzz (see $log)"
        return
    fi
    note "fuzz ${LH_FUZZ_SECONDS:-$seconds} seconds each"
    echo "$targets" | tr ' ' '\n' | xargs -P "$jobs" -I{} bash -c \
        "bash tests/fuzz/run.sh build/fuzz {} ${LH_FUZZ_SECONDS:-$seconds} && : >build/fuzz/{}.passed"
    for target in $targets; do
        if [ -e "build/fuzz/$target.passed" ]; then pass; else fail "fuzz: $target (build/fuzz/fuzz_$target.log)"; fi
    done
}

# Memory errors that the sanitizers do not see: reading what was never written, and what the libraries do with our memory.
# All test programs in the debug build, on one rank, those that take longest first; valgrind knows no AVX-512. Left out:
# programs that are to fail, and bench, which takes most of its time to measure the processor's speed, and whose cases are
# mechanisms and steps that the others run. Each program counts once.
check_valgrind() {
    local program name long='tiles conformance plan accuracy kernels random_config step_plan favor checkpoint convert'
    note valgrind
    if ! command -v valgrind >/dev/null; then skip 'valgrind: not installed (Debian: valgrind)'; return; fi
    if ! grep -qw avx2 /proc/cpuinfo 2>/dev/null; then skip 'valgrind: the tests want avx2'; return; fi
    build debug --preset debug || return
    note 'valgrind, one rank'
    mkdir -p build/valgrind
    rm -f build/valgrind/*.passed
    for program in $(printf 'build/debug/tests/test_%s\n' $long) build/debug/tests/test_*; do
        name=${program##*/test_}
        [[ $name =~ ^(must_fail.*|fatal|bench)$ ]] || [[ ! $name =~ ${filter:-.} ]] || echo "$name"
    done | awk '!seen[$0]++' >build/valgrind/list
    (cd build/valgrind && LH_TEST_ISA=avx2 LH_RANDOM_PATIENCE=1000 OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
        OMPI_MCA_pml=ob1 OMPI_MCA_btl='^tcp,ofi,openib,usnic' xargs -P "$jobs" -I{} bash -c \
        'timeout 2400 valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite \
            --suppressions=../../tests/valgrind.supp ../debug/tests/test_{} >{}.log 2>&1 && : >{}.passed' <list)
    while read -r name; do
        if [ -e "build/valgrind/$name.passed" ]; then pass; else
            fail "valgrind: $name (build/valgrind/$name.log)"
            grep -A8 '^==[0-9]*== [A-Z0-9]' "build/valgrind/$name.log" | head -n 20
        fi
    done <build/valgrind/list
}

# part NAME: one of the parts that --build takes.
part() {
    local some=1,3 tool
    [ "$all" = 1 ] && some=1,2,3,4,5
    some=${some//,/ }
    case $1 in
    release) build release --preset release && run_tests release '1 2 3 4 5' ;;
    debug) build debug --preset debug && run_tests debug '1 2 3 4 5' ;;
    double | asan) build "$1" --preset "$1" && run_tests "$1" "$some" ;;
    avx2 | portable)
        if [ "$1" = portable ] || grep -qw avx2 /proc/cpuinfo 2>/dev/null; then
            build release --preset release && run_tests release '1 2 3 4 5' "$1"
        else skip "$1: not on this processor"; fi ;;
    ci) build ci --preset ci && pass ;;
    clang)
        if tool=$(omp_clang); then
            build clang --preset debug -B build/clang -DCMAKE_C_COMPILER="$tool" && run_tests clang '1 2 3 4 5'
        else skip 'clang: not installed, or without OpenMP (Debian: clang-14 libomp-14-dev)'; fi ;;
    format) check_format ;;
    fuzz) check_fuzz ;;
    valgrind) check_valgrind ;;
    tidy) check_tidy ;;
    *) echo "run.sh: no part '$1'" >&2; exit 2 ;;
    esac
}

setup=()
if [ "$all" = 1 ]; then setup=(--all); fi
if [ "$install" = 1 ] && ! bash setup.sh ${setup[@]+"${setup[@]}"}; then
    echo 'setup.sh failed, see above'
    echo '0 passed, 1 failed'
    exit 1
fi

parts=$only
if [ -z "$parts" ]; then
    parts='format ci release fuzz double asan'
    [ "$all" = 1 ] && parts='format ci release fuzz avx2 portable debug double asan clang tidy valgrind'
    [ "$all" = 0 ] && [ "$tidy" = 1 ] && parts="$parts tidy"
fi
for p in $parts; do part "$p"; done

note end
for t in ${skips[@]+"${skips[@]}"}; do echo "skipped: $t"; done
for t in ${failures[@]+"${failures[@]}"}; do echo "failed: $t"; done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
