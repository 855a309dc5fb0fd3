# Shared by the scripts of this folder and of experiments/scaling/, which source it: a table and a plot of what was measured. A script
#
#   - measures with figure_run, whose JSON lines go to OUT/NAME.raw.jsonl as the program prints them (those of the time before
#     stay in OUT/NAME.raw.jsonl.old),
#   - makes OUT/NAME.jsonl, one object a point with ours and the published number, and OUT/NAME.md, the table, from them,
#   - draws OUT/NAME.svg by NAME.gp, where there is gnuplot,
#   - prints the objects and the table.
#
# Options of every script:
#   --quick        tiny sizes: shows that everything runs, and no figures worth keeping
#   --out DIR      where files go (runs/figures of the repository; of --quick runs/figures-quick)
#   --program FILE the program (build/release/longhaul)
#   --resume       goes on where an interrupted measurement has stopped: what stands in OUT/NAME.raw.jsonl is not measured again
#   --redo         measures nothing: makes tables and plots again from OUT/NAME.raw.jsonl; from those of --quick with --quick alone
# LENGTHS='512 1024' in the environment: of the papers' speeds these lengths alone.
set -eu
set -- "$(cd "$(dirname "$0")" && pwd)" "$@"
from=$PWD # names that are given start here
absolute() { case $1 in /*) echo "$1" ;; *) echo "$from/$1" ;; esac }
if [ -n "${LONGHAUL:-}" ]; then LONGHAUL=$(absolute "$LONGHAUL"); fi
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
figures=experiments/papers/figures
here=$1 # the folder of the script
shift
. experiments/launch.sh
quick='' redo='' resume='' out='' program=${LONGHAUL:-build/release/longhaul}
while [ $# -gt 0 ]; do
    case $1 in
    --quick) quick=1 ;;
    --redo) redo=1 ;;
    --resume) resume=1 ;;
    --out) out=$(absolute "${2:?'--out wants a folder'}") && shift ;;
    --program) program=$(absolute "${2:?'--program wants a file'}") && shift ;;
    *)
        sed -n '/^#!/d;/^#/!q;s/^# \{0,1\}//p' "$here/$(basename "$0")" >&2
        sed -n '/^# Options/,/^set/{/^set/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
        [ "$1" = --help ] && exit 0
        exit 2
        ;;
    esac
    shift
done
[ -n "$redo" ] || [ -x "$program" ] || {
    echo "$0: there is no program '$program': build it (cmake --preset release && cmake --build --preset release), or give --program" >&2
    exit 2
}
: "${out:=runs/figures${quick:+-quick}}"
mkdir -p "$out"

# All processors in one process, unless THREADS says otherwise (nproc would give OMP_NUM_THREADS back). GNUPLOT names gnuplot.
processors=$(env -u OMP_NUM_THREADS nproc)
export OMP_NUM_THREADS=${THREADS:-$processors}

# figure_begin NAME: whose raw lines start anew, unless it is resumed.
runs=0 done_runs=0 cut='' # runs that were asked for, and those that stand in the raw lines
figure_begin() {
    name=$1
    raw=$out/$name.raw.jsonl
    if [ -n "$redo" ]; then
        [ -s "$raw" ] || {
            echo "$0: there is no $raw: leave out --redo" >&2
            exit 2
        }
        [ -n "$quick" ] || ! grep -q '^{"quick":true}' "$raw" || {
            echo "$0: $raw was measured with --quick, and has no figures worth keeping: give --quick, or measure without --redo" >&2
            exit 2
        }
    elif [ -n "$resume" ] && [ -s "$raw" ]; then
        done_runs=$(grep -c '^{"run":.*"}$' "$raw" || :)
        [ "$(grep -c '^{"quick":true}' "$raw" || :)" = "${quick:-0}" ] || {
            echo "$0: $raw was measured with${quick:+out} --quick: leave out --resume, and all is measured" >&2
            exit 2
        }
        echo "$name: $done_runs runs stand in $raw" >&2
    fi
    if [ -z "$redo" ] && [ "$done_runs" = 0 ]; then
        if [ -s "$raw" ]; then mv "$raw" "$raw.old"; fi
        : >"$raw"
        if [ -n "$quick" ]; then echo '{"quick":true}' >"$raw"; fi
    fi
    echo "$name: $processors processors, $OMP_NUM_THREADS threads a process" >&2
}

# What a run is known by: what ran, where.
figure_machine="\"version\":\"$("$program" --version 2>/dev/null)\",\"processor\":\"$(sed -n 's/^model name[^:]*: *//p;T;q' /proc/cpuinfo 2>/dev/null)\""

# figure_cut: what follows the last run that ended goes, once something is measured.
figure_cut() {
    [ "$done_runs" -gt 0 ] && [ "$runs" -eq "$done_runs" ] && [ -z "$cut" ] || return 0
    cut=1
    awk -v runs="$done_runs" 'ended < runs || /^\{"quick":/ { print } /^\{"run":.*"}$/ { ended++ }' "$raw" >"$raw.part"
    mv "$raw.part" "$raw"
}

# figure_run RANKS ARGUMENTS...: the program, whose lines join the raw ones. 1 rank: without a launcher. What it says while it
# works is kept beside them, and shown where it fails.
figure_run() {
    local ranks=$1 started=() status=0 mark
    shift
    [ -z "$redo" ] || return 0
    figure_cut
    runs=$((runs + 1))
    mark="{\"run\":$runs,\"ranks\":$ranks,\"threads\":$OMP_NUM_THREADS,$figure_machine,\"command\":\"longhaul $*\"}"
    if [ "$runs" -le "$done_runs" ]; then
        grep -qxF -e "$mark" "$raw" && return
        echo "$0: $raw holds no run such as $mark: leave out --resume, and all is measured" >&2
        exit 2
    fi
    if [ "$ranks" -gt 1 ]; then started=("${launch[@]}" -n "$ranks"); fi
    ${started[@]+"${started[@]}"} "$program" "$@" >>"$raw" 2>>"$out/$name.log" </dev/null || status=$?
    [ "$status" = 0 ] || {
        echo "$0: longhaul $* on $ranks ranks: exit code $status" >&2
        tail -n 5 "$out/$name.log" >&2
        exit 1
    }
    printf '%s\n' "$mark" >>"$raw"
}

# figure_mark STUDY PART: the raw lines that follow belong to it.
figure_mark() {
    [ -z "$redo" ] && [ "$runs" -ge "$done_runs" ] || return 0
    figure_cut
    printf '{"study":"%s","part":"%s"}\n' "$1" "$2" >>"$raw"
}

# What every script's awk may use. get: a member of the line, without the quotes of a text. as_planned: are bytes and memory there,
# and the predicted ones? add, median: numbers by name.
# show: a number with so many digits, or a dash. json: a number, or null.
figure_awk='
function get(key,   at, rest) {
    at = index($0, "\"" key "\":")
    if (at == 0) return ""
    rest = substr($0, at + length(key) + 3)
    if (substr(rest, 1, 1) == "\"") { rest = substr(rest, 2); return substr(rest, 1, index(rest, "\"") - 1) }
    match(rest, /^[^,}]*/)
    return substr(rest, 1, RLENGTH)
}
function equal(a, b) { return get(a) != "" && get(a) == get(b) }
function as_planned() { return equal("sent_bytes", "predicted_sent_bytes") && equal("peak_bytes", "predicted_peak_bytes") }
function add(set, value) { sample[set, ++samples[set]] = value + 0 }
function median(set,   n, i, j, t, x) {
    n = samples[set]
    if (n == 0) return ""
    for (i = 1; i <= n; i++) x[i] = sample[set, i]
    for (i = 2; i <= n; i++) for (j = i; j > 1 && x[j] < x[j - 1]; j--) { t = x[j]; x[j] = x[j - 1]; x[j - 1] = t }
    return n % 2 ? x[(n + 1) / 2] : (x[n / 2] + x[n / 2 + 1]) / 2
}
function show(x, form) { return x == "" ? "-" : sprintf(form, x) }
function json(x) { return x == "" ? "null" : sprintf("%.9g", x) }
function thousands(n,   s) { s = ""; n = sprintf("%d", n); while (length(n) > 3) { s = "," substr(n, length(n) - 2) s; n = substr(n, 1, length(n) - 3) } return n s }
/^\{"(quick|run)":/ { next }
function factor(x) { return x == "" ? "-" : sprintf(x < 9.95 ? "%.1fx" : "%.0fx", x) }
'

# figure_table PROGRAM [FILE...]: awk over the files and the raw lines. It writes the objects to `lines`, the table to
# `table`, and what is drawn to `data`.
figure_table() {
    local text=$1
    shift
    awk -v lines="$out/$name.jsonl" -v table="$out/$name.md" -v data="$out/$name.dat" "$figure_awk$text" "$@" "$raw"
}

# figure_end: draws, and prints.
figure_end() {
    if command -v "${GNUPLOT:-gnuplot}" >/dev/null; then
        "${GNUPLOT:-gnuplot}" -e "data='$out/$name.dat'; svg='$out/$name.svg'" "$figures/style.gp" "$here/$name.gp"
    else
        rm -f "$out/$name.svg"
        echo "$name: no plot, since there is no ${GNUPLOT:-gnuplot} (Debian: gnuplot-nox)" >&2
    fi
    cat "$out/$name.jsonl" "$out/$name.md"
}
