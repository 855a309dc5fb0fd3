#!/usr/bin/env bash
# Which exchange stops scaling where: mechanisms over 1,048,576 tokens on 16 to 1,024 simulated nodes, on two networks.
#   bash experiments/simulated.sh [BUILD_FOLDER] [OUT_FOLDER]     defaults: build/release, build/simulated
# OUT holds a file of JSON lines for each network and mechanism, table.md and, with gnuplot, NETWORK.svg. What is there
# already is not simulated again. Other numbers of ranks: MANY; SQUARE those of ring and zigzag, whose messages grow with the
# square of the ranks (512 take one to fifteen minutes each, 1,024 at least ten); HEADS those of Ulysses, which has work for 16
# and whose plans grow with ranks times tokens. RATES: another file than experiments/platforms/rates.jsonl.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
build=${1:-$here/../build/release}
out=${2:-$here/../build/simulated}
rates=${RATES:-$here/platforms/rates.jsonl}
networks=${NETWORKS:-fat-tree-100g ethernet-10g}
many=${MANY:-16,32,64,128,256,512,1024}
square=${SQUARE:-16,32,64,128,256}
heads=${HEADS:-16,32}
mkdir -p "$out"

# simulate NETWORK NAME RANKS ARGUMENTS...
simulate() {
    local network=$1 name=$2 ranks=$3 file="$out/$1-$2.jsonl"
    shift 3
    "$build/longhaul-sim" "$here/simulated.yaml" --ranks "$ranks" --mode strong --rates "$rates" \
        --platform "$here/platforms/$network.xml" --out "$file" "$@"
}

for network in $networks; do
    simulate "$network" window "$many" --set 'model.attention={mechanism: sliding_window, window: 512}'
    simulate "$network" performer "$many" --set 'model.attention={mechanism: performer, features: 256}'
    simulate "$network" linformer "$many" --set model.kind=encoder --set data.task=masked_text \
        --set 'model.attention={mechanism: linformer, k: 256}'
    simulate "$network" ulysses "$heads" --set mesh.exchange=ulysses
    simulate "$network" usp "$many" --set mesh.exchange=ulysses --set mesh.ulysses=16 --set mesh.layout=zigzag
    simulate "$network" ring "$square"
    simulate "$network" zigzag "$square" --set mesh.layout=zigzag
done

# A table of seconds by network, and the columns that gnuplot draws: ranks, seconds.
names="ring zigzag ulysses usp window performer linformer"
field() { sed -n "s/.*\"ranks\":$1,.*\"$2\":\([0-9.e+-]*\).*/\1/p" "$3"; }
{
    for network in $networks; do
        echo "| $network: seconds a step, waiting | ${names// / | } |"
        echo "|---|$(for n in $names; do printf -- '--:|'; done)"
        for ranks in ${many//,/ }; do
            row="| $ranks"
            for name in $names; do
                file="$out/$network-$name.jsonl"
                [ -s "$file" ] || file=/dev/null
                step=$(field "$ranks" step_s "$file")
                wait=$(field "$ranks" comm_wait_s "$file")
                row+=" | $(awk -v s="$step" -v w="$wait" \
                    'BEGIN { if (s == "") print "-"; else printf "%.3g, %.0f %%", s, 100 * w / s }')"
            done
            echo "$row |"
        done
        echo
    done
} >"$out/table.md"
cat "$out/table.md"

command -v gnuplot >/dev/null || { echo "simulated.sh: no gnuplot: no plots" >&2; exit 0; }
for network in $networks; do
    plots=""
    for name in $names; do
        [ -s "$out/$network-$name.jsonl" ] || continue
        sed -n 's/.*"ranks":\([0-9]*\),.*"step_s":\([0-9.e+-]*\),"step_s_least.*/\1 \2/p' \
            "$out/$network-$name.jsonl" >"$out/$network-$name.dat"
        plots+="'$out/$network-$name.dat' using 1:2 with linespoints lw 2 title '$name', "
    done
    gnuplot <<EOF
set terminal svg size 720,480 font 'sans-serif,13' background '#ffffff'
set output '$out/$network.svg'
set title '$network, 1,048,576 tokens, one layer (simulated)'
set logscale xy
set xtics (16, 32, 64, 128, 256, 512, 1024)
set xlabel 'ranks (nodes of 32 cores)'
set ylabel 'seconds a step'
set grid
set key outside right
set xrange [14:1200]
plot ${plots%, }
EOF
done
