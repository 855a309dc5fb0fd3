#!/usr/bin/env bash
# The table of targets, measured on this machine: attention, a training step, two ranks against one, memory. Prints it as
# Markdown; progress goes to standard error. About eight minutes on two cores that do nothing else; where they do, only
# the ratios mean something, and they less.
#
#   bash experiments/performance.sh [--all] [--program build/release/longhaul] [--only attention,step,pairs,memory]
#
#   --all    also attention with the instruction sets avx2 and portable, which no target names (three minutes more)
#   --quick  one repeat of small sizes: shows that everything runs, and no figures worth keeping
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."

program=build/release/longhaul
all=
quick=
only=attention,step,pairs,memory
while [ $# -gt 0 ]; do
    case $1 in
    --all) all=1 ;;
    --quick) quick=1 ;;
    --program) program=${2:?'--program wants a file'} && shift ;;
    --only) only=${2:?'--only wants parts'} && shift ;;
    --help) sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
    esac
    shift
done
[ -x "$program" ] || {
    echo "performance: there is no program '$program': build it (cmake --preset release && cmake --build --preset release), or give --program" >&2
    exit 2
}

export OMP_NUM_THREADS=1

. experiments/launch.sh

part() { case ,$only, in *,"$1",*) true ;; *) false ;; esac }

# bench RANKS ARGUMENTS...: the lines of `longhaul bench`; what it says goes to standard error. Launchers read standard
# input, which here belongs to loops.
bench() {
    local ranks=$1 && shift
    if [ "$ranks" = 1 ]; then "$program" bench "$@"; else "${launch[@]}" -n "$ranks" "$program" bench "$@" </dev/null; fi
}

# field NAME: of one line on standard input, a member of the outermost object, which come before arrays.
field() { sed -n "1s/^{\(.*,\)\{0,1\}\"$1\":\"\{0,1\}\([^,\"}]*\).*/\2/p;1q" <<<"$(sed 's/,"operations":.*/}/')"; }

# pick TEXT...: the first line of $lines that has all these texts.
pick() {
    local found=$lines text
    for text in "$@"; do found=$(grep -F -- "$text" <<<"$found" || true); done
    head -n 1 <<<"$found"
}

# row WHAT REQUIRED AIM MEASURED [HOW]: a line of the table. Numbers are met when MEASURED is at least REQUIRED, or with
# HOW `below` when it is less; REQUIRED `-` asks for nothing.
row() {
    awk -v what="$1" -v required="$2" -v aim="$3" -v measured="$4" -v how="${5-}" -v text="${6-}" 'BEGIN {
        met = "-"
        if (measured == "" || measured == "null") { met = "not measured"; shown = "-" }
        else {
            shown = how == "below" || how == "percent" ? sprintf("%.2f %%", 100 * measured) : sprintf("%.2f", measured)
            good = how == "below" ? measured < required / 100 : how == "percent" ? measured <= required / 100 : measured >= required
            best = how == "below" ? measured < aim / 100 : how == "percent" ? measured <= aim / 100 : measured >= aim
            if (required != "-") met = !good ? "**no**" : (aim != "-" && best) ? "yes, and the aim" : "yes"
        }
        sign = how == "below" ? "< " : how == "percent" ? "within " : ""
        unit = how == "below" || how == "percent" ? " %" : ""
        printf "| %s | %s | %s | %s%s | %s |\n", what, required == "-" ? "-" : sign required unit, aim == "-" ? "-" : sign aim unit, shown, text == "" ? "" : " (" text ")", met
    }'
}

# --- attention ---

# The design's rows of $lines: both passes, causal and not.
attention_rows() {
    local isa=$1 targets=$2 line causal word
    local name n window f fa b ba cf cfa cb cba
    while read -r name n window f fa b ba cf cfa cb cba; do
        for causal in false true; do
            line=$(pick "\"mechanism\":\"$name\",\"n\":$n," "\"heads\":2,\"kv_heads\":2,\"head_dim\":64,\"causal\":$causal," "\"window\":$window,")
            word="$name, n $n$([ "$window" = null ] || echo ", window $window")$([ $causal = false ] || echo ', causal'), $isa"
            if [ "$targets" = none ]; then f=- fa=- b=- ba=- cf=- cfa=- cb=- cba=-; fi
            if [ $causal = false ]; then
                row "$word: forward" $f $fa "$(field ratio_forward <<<"$line")"
                row "$word: backward" $b $ba "$(field ratio_backward <<<"$line")"
            else
                row "$word: forward" $cf $cfa "$(field ratio_forward <<<"$line")"
                row "$word: backward" $cb $cba "$(field ratio_backward <<<"$line")"
            fi
        done
    done <<ROWS
full $full_n null 0.90 1.05 0.85 1.0 0.85 1.0 0.80 0.95
sliding_window $band_n 256 0.65 0.85 0.60 0.80 0.65 0.85 0.60 0.80
sliding_window $band_n 512 0.75 0.90 0.70 0.85 0.75 0.90 0.70 0.85
ROWS
}

# Rows of other heads, against head size 64 of the same run, forward and backward: at least 0.8 of it.
relative_rows() {
    local what text line base causal pass
    while IFS='|' read -r what text; do
        for causal in false true; do
            line=$(grep -F "\"causal\":$causal," <<<"$lines" | grep '"mechanism":"full"' | grep -F -- "$text" | head -n 1 || true)
            base=$(pick "\"mechanism\":\"full\",\"n\":$full_n," "\"heads\":2,\"kv_heads\":2,\"head_dim\":64,\"causal\":$causal,")
            for pass in forward backward; do
                row "full$([ $causal = false ] || echo ', causal'), $what, over head size 64: $pass" 0.80 - \
                    "$(awk -v a="$(field ratio_$pass <<<"$line")" -v b="$(field ratio_$pass <<<"$base")" 'BEGIN { if (a != "" && b > 0) print a / b }')" \
                    '' "$(awk -v a="$(field ratio_$pass <<<"$line")" 'BEGIN { if (a != "") printf "%.2f of BLIS", a }')"
            done
        done
    done <<'ROWS'
head size 32|"head_dim":32,
head size 128|"head_dim":128,
8 query heads for 1 key/value head|"heads":8,"kv_heads":1,
relative positions|"relative":true
ROWS
}

attention_six() { # ISA REPEATS
    local causal
    for causal in 0 1; do bench 1 attention --mechanism full --n "$full_n" --causal $causal --isa "$1" --repeats "$2"; done
    for window in 256 512; do
        for causal in 0 1; do bench 1 attention --mechanism sliding_window --n "$band_n" --window $window --causal $causal --isa "$1" --repeats "$2"; done
    done
}

attention() {
    local isa line what causal
    full_n=8192 band_n=32768
    isa=$(bench 1 attention --n 64 --repeats 1 2>/dev/null | field isa)
    if [ -n "$quick" ]; then
        full_n=1024 band_n=4096
        lines=$(attention_six "$isa" 1)
    else
        lines=$(bench 1 attention --repeats 7)
    fi
    attention_rows "$isa" all
    if [ -z "$quick" ]; then
        relative_rows
        for causal in false true; do
            line=$(pick '"mechanism":"performer"' "\"causal\":$causal,")
            row "performer, 256 features, n 32768$([ $causal = false ] || echo ', causal'): forward + backward" 0.50 0.75 "$(field ratio <<<"$line")"
        done
        row 'linformer, k 256, n 32768: forward + backward' 0.60 0.80 "$(pick '"mechanism":"linformer"' | field ratio)"
    fi
    [ -n "$all" ] || return 0
    for isa in avx2 portable; do
        if lines=$(attention_six $isa "${quick:-3}"); then attention_rows $isa none; fi
    done
}

# --- a training step, and waiting in it ---

step() {
    local small=() line
    if [ -n "$quick" ]; then small=(--set model.layers=2 --set model.width=64 --set model.heads=2 --set data.length=1024); fi
    line=$(bench 1 step --repeats "${quick:-7}" ${small[@]+"${small[@]}"})
    row 'training step, 12 layers, width 512, window 512, n 8192: model flops over the rate' 0.60 0.80 "$(field ratio <<<"$line")" '' \
        "$(awk -v a="$(field step_s <<<"$line")" -v b="$(field gflops <<<"$line")" 'BEGIN { printf "%.2f s, %.0f GFLOP/s", a, b }')"
    line=$(bench 2 step --repeats "${quick:-7}" ${small[@]+"${small[@]}"})
    row 'waiting for messages in that step on 2 ranks, of the step' 5 1 "$(field comm_wait_share <<<"$line")" below \
        "$(awk -v a="$(field step_s <<<"$line")" -v b="$(field ratio <<<"$line")" 'BEGIN { printf "%.2f s a step, %.2f of BLIS on both", a, b }')"
}

# --- two ranks against one, the same work, in turns ---

pairs() {
    local what set words common one two times gemm
    common=(--repeats 2 --warmup 1 --products 3 --set model.layers=1 --set model.width=256 --set model.heads=4)
    common+=(--set data.length=$([ -z "$quick" ] && echo 16384 || echo 2048))
    while IFS='|' read -r what set; do
        IFS=';' read -ra words <<<"$set"
        times= gemm=
        for _ in $([ -z "$quick" ] && echo 1 2 3 || echo 1); do
            one=$(bench 1 step "${common[@]}" "${words[@]}")
            two=$(bench 2 step "${common[@]}" "${words[@]}")
            times="$times $(field step_s_least <<<"$one") $(field step_s_least <<<"$two")"
            gemm="$gemm $(field gemm_gflops <<<"$one") $(field gemm_gflops <<<"$two")"
        done
        # efficiency of each pair, the middle one; of products too, since two busy cores may each be slower than one
        read -r one two <<<"$(awk -v times="$times" -v gemm="$gemm" '
            function middle(x, n,   i, j, t) { for (i = 2; i <= n; i++) for (j = i; j > 1 && x[j] < x[j - 1]; j--) { t = x[j]; x[j] = x[j - 1]; x[j - 1] = t }; return x[int((n + 1) / 2)] }
            BEGIN { n = split(times, t, " ") / 2; split(gemm, g, " ")
                for (i = 1; i <= n; i++) { e[i] = t[2 * i - 1] / (2 * t[2 * i]); p[i] = g[2 * i] / (2 * g[2 * i - 1]) }
                print middle(e, n), middle(p, n) }')"
        row "2 ranks against 1, n 16384: $what" 0.85 0.97 "$one" '' "$(printf 'BLIS itself %.2f' "$two")"
    done <<'ROWS'
full|--set;model.kind=encoder;--set;data.task=masked_text;--set;model.attention={mechanism: full}
full, causal, zigzag|--set;model.attention={mechanism: full};--set;mesh.layout=zigzag
sliding_window 256|--set;model.kind=encoder;--set;data.task=masked_text;--set;model.attention.window=256
sliding_window 256, causal|--set;model.attention.window=256
performer|--set;model.kind=encoder;--set;data.task=masked_text;--set;model.attention={mechanism: performer}
performer, causal|--set;model.attention={mechanism: performer}
linformer|--set;model.kind=encoder;--set;data.task=masked_text;--set;model.attention={mechanism: linformer}
ROWS
}

# --- memory against the plan ---

memory() {
    local line
    # four ranks on two processors: those that wait let the others work
    line=$(OMPI_MCA_mpi_yield_when_idle=1 bench 4 step --repeats 1 --warmup 0 --products 1 --set model.layers=4 --set model.width=256 --set model.heads=4 \
        --set model.attention.window=256 --set "data.length=$([ -z "$quick" ] && echo 262144 || echo 16384)" --set train.recompute=block)
    row 'peak_bytes, n 262144, window 256, width 256, 4 layers, blocks recomputed, 4 ranks: off the plan' 10 3 \
        "$(awk -v a="$(field peak_bytes <<<"$line")" -v b="$(field predicted_peak_bytes <<<"$line")" 'BEGIN { d = a / b - 1; print d < 0 ? -d : d }')" percent \
        "$(awk -v a="$(field peak_bytes <<<"$line")" 'BEGIN { printf "%.1f MiB", a / 1048576 }')"
    # what the process has grown by also holds parameters, the operands of the product, and the libraries' own buffers
    row 'the same of what the system gave the process, off peak_bytes + parameters + 48 MiB of the product' - - \
        "$(awk -v a="$(field rss_peak_bytes <<<"$line")" -v s="$(field rss_start_bytes <<<"$line")" -v p="$(field predicted_peak_bytes <<<"$line")" \
            -v q="$(field parameter_bytes <<<"$line")" 'BEGIN { d = (a - s) / (p + q + 3 * 2048 * 2048 * 4) - 1; print d < 0 ? -d : d }')" percent \
        "$(awk -v a="$(field rss_peak_bytes <<<"$line")" -v s="$(field rss_start_bytes <<<"$line")" 'BEGIN { printf "grown by %.1f MiB", (a - s) / 1048576 }')"
}

model=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)
family=$(sed -n 's/^cpu family[[:space:]]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)
echo "Machine: ${model:-$(uname -m)}${family:+, family $family}, $(nproc --all) processors, load $(cut -d' ' -f1 /proc/loadavg 2>/dev/null || echo '?') at the start; $("$program" --version 2>&1 | head -n 1); one thread a rank; float unless the program says otherwise; $(date -u +%Y-%m-%d)."
if [ -n "$quick" ]; then echo && echo 'Quick: sizes are smaller than the table says.'; fi
echo
echo '| what | required | aim | measured | met |'
echo '|---|---|---|---|---|'
for name in attention step pairs memory; do
    if part $name; then $name; fi
done
