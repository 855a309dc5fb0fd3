#!/usr/bin/env bash
# All figures of papers, and the scaling studies: measures them again, one after the other, and prints their tables. About twelve
# minutes on two cores that do nothing else; where they do, times mean little. Raw lines, objects, tables and plots go to runs/figures
# of the repository, those of --quick to runs/figures-quick.
#
#   bash experiments/papers/figures.sh [--write] [--into DIR] [--only NAME,NAME] [--quick] [--resume | --redo] [--out DIR]
#        [--program FILE]
#
#   --write  puts the tables into experiments/RESULTS.md, between their marks, and the plots into experiments/plots/
#   --into   these two in another folder, which has a RESULTS.md with the marks
#   --only   linformer-speed, longformer-growth, performer-speed, performer-features, scaling-lengths, scaling-ranks
#   --quick  tiny sizes: shows that everything runs, and no figures worth keeping (so --write wants --into then)
#   --resume what an interrupted measurement has in its raw lines is not measured again
#   --redo   measures nothing: tables and plots again, from the raw lines of the last time
set -eu -o pipefail
here=$(cd "$(dirname "$0")" && pwd)
all=linformer-speed,longformer-growth,performer-speed,performer-features,scaling-lengths,scaling-ranks
only=$all write='' into='' options=() out='' quick='' anew=1
# absolute NAME: a name that was given, before the folder is left where it was
absolute() { case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac }
if [ -n "${LONGHAUL:-}" ]; then LONGHAUL=$(absolute "$LONGHAUL") && export LONGHAUL; fi
while [ $# -gt 0 ]; do
    case $1 in
    --write) write=1 ;;
    --into) into=$(absolute "${2:?'--into wants a folder'}") && shift ;;
    --only) only=${2:?'--only wants names'} && shift ;;
    --quick) quick=1 && options+=(--quick) ;;
    --resume | --redo) options+=("$1") && anew='' ;;
    --out) out=$(absolute "${2:?'--out wants a folder'}") && shift ;;
    --program) options+=(--program "$(absolute "${2:?'--program wants a file'}")") && shift ;;
    --help) sed -n '2,15s/^# \{0,1\}//p' "$0" && exit ;;
    *) sed -n '2,15s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
    esac
    shift
done
[ -z "$write" ] || [ -z "$quick" ] || [ -n "$into" ] || {
    echo "$0: --quick makes no figures worth keeping: leave out --write, or try it with --into another folder" >&2
    exit 2
}
for name in ${only//,/ }; do
    case ,$all, in *,"$name",*) ;; *)
        echo "$0: --only: there is no figure '$name'; there are $all" >&2
        exit 2
        ;;
    esac
done

cd "$here/../.."
: "${into:=experiments}" "${out:=runs/figures${quick:+-quick}}"
options+=(--out "$out")
for name in ${only//,/ }; do # so that --resume takes nothing from the time before
    if [ -n "$anew" ] && [ -s "$out/$name.raw.jsonl" ]; then mv "$out/$name.raw.jsonl" "$out/$name.raw.jsonl.old"; fi
done
for name in ${only//,/ }; do
    script=experiments/papers/figures/$name.sh
    [ -f "$script" ] || script=experiments/scaling/$name.sh
    printf '## %s\n\n' "$name"
    bash "$script" ${options[@]+"${options[@]}"} | { grep -v '^{' || :; } # the objects stay in the folder
    printf '\n'
    [ -n "$write" ] || continue
    # the table takes the place of what stands between its marks; without them something is wrong with the file
    awk -v name="$name" -v table="$out/$name.md" '
        $0 == "<!-- " name " -->" { print; print ""; while ((getline line <table) > 0) print line; print ""; skip = found = 1; next }
        $0 == "<!-- end -->" { skip = 0 }
        !skip { print }
        END { exit !found || skip }' "$into/RESULTS.md" >"$out/RESULTS.md.new" || {
        echo "$0: $into/RESULTS.md has no marks '<!-- $name -->' and '<!-- end -->'" >&2
        exit 1
    }
    cat "$out/RESULTS.md.new" >"$into/RESULTS.md"
    rm "$out/RESULTS.md.new"
    if [ -f "$out/$name.svg" ]; then mkdir -p "$into/plots" && cp "$out/$name.svg" "$into/plots/"; fi
done
