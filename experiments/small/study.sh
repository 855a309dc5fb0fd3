# Shared by the scripts of this folder; they source it. A study is several runs of one or two minutes on one core; runs go to
# runs/, where they replace earlier ones of the same name. LONGHAUL names the program, LAUNCH how it is started (for
# example LAUNCH='mpirun -n 2').
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
small=experiments/small
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# study_text - the text of the quickstart, made here if it is missing.
study_text() {
    mkdir -p runs
    if [ ! -s runs/kjv.txt ]; then
        bible -f gen1:1-rev22:21 >runs/kjv.txt.part
        mv runs/kjv.txt.part runs/kjv.txt
    fi
}

# study_train FILE NAME [--set K=V]... - train FILE.yaml into runs/NAME.
study_train() {
    local file=$small/$1.yaml name=$2
    shift 2
    rm -rf "runs/$name"
    ${LAUNCH-} "${LONGHAUL:-build/release/longhaul}" train "$file" --set "run.name=$name" "$@" >/dev/null 2>"runs/$name.log" || {
        tail -n 5 "runs/$name.log" >&2
        return 1
    }
}

# study_row NAME FIELD... - the run's name, the fields of its last evaluation, and the seconds of its steps (the median of
# those that the metrics hold, times their number).
study_row() {
    local name=$1 line steps
    shift
    line=$(grep '"event": *"eval"' "runs/$name/metrics.jsonl" | tail -n 1)
    printf '%-24s' "$name"
    for field in "$@"; do
        printf '  %s %-7.4f' "$field" "$(sed -n "s/.*\"$field\": *\([-+.0-9eE]*\).*/\1/p" <<<"$line")"
    done
    steps=$(sed -n 's/.*"step": *\([0-9]*\).*/\1/p' <<<"$line")
    sed -n 's/.*"step_s": *\([-+.0-9eE]*\).*/\1/p' "runs/$name/metrics.jsonl" | sort -g |
        awk -v steps="$steps" '{ s[NR] = $1 } END { printf "  %.0f s\n", steps * s[int((NR + 1) / 2)] }'
}
