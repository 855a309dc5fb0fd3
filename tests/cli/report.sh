# longhaul report: what the page holds, that what users wrote stays text and never reaches gnuplot, runs that go on or have
# failed, and what happens where gnuplot is missing, fails or hangs. Without gnuplot all but the plots is checked.
. "$LH_SOURCE/tests/cli/lib.sh"

limit=120
gnuplot=$(command -v gnuplot) || echo "gnuplot is not installed: plots are not checked"
name='<b>"zebra`id`\ $(id) &'
write_text text.txt 6000
write_experiment tiny.yaml text.txt
train 2 "$name" --set schedule.steps=6 --set train.eval_every=3 --set checkpoint.every=3
train 1 other --set optimizer.lr=3.0e-3 --set 'model.attention={mechanism: full}'
train 1 lag --set data.task=lag --set data.path= --set data.lag=4 --set data.length=48
expect 0 2 scale tiny.yaml --ranks 1,2 --lengths 32,64 --repeats 2 --warmup 1
mv out scale.jsonl

# A sweep of copies: two values of a key whose name is wild, three seeds, one point that has not begun.
mkdir sweep
seed=0
points=
for loss in 2.0 2.5 3.3 1.0 1.5; do
    seed=$((seed + 1))
    cp -r runs/other "sweep/000$seed"
    sed -i -E "/\"event\":\"eval\"/s/\"loss\":[0-9.]+,\"bits_per_byte\":[0-9.]+/\"loss\":$loss,\"bits_per_byte\":$loss/" "sweep/000$seed/metrics.jsonl"
    points="$points{\"point\": $seed, \"dir\": \"000$seed\", \"values\": {\"key <i>\": $(((seed + 2) / 3))}, \"seed\": $((seed % 3))},"
done
echo "{\"sweep\": 1, \"points\": [$points{\"point\": 6, \"dir\": \"0006\", \"values\": {\"key <i>\": 2}, \"seed\": 9}]}" >sweep/sweep.json

# Another one: values that have no room in a name and differ in the last keys alone, nothing evaluated.
mkdir sweep2
points=
decay=0.125
for seed in 1 2 3 4 5; do
    [ $seed = 5 ] && decay=0.5
    cp -r runs/other "sweep2/000$seed"
    sed -i -E "/\"event\":\"eval\"/d; s/\"tokens_per_s\":[-+.0-9e]+/\"tokens_per_s\":$((200000 + 100000 * (seed % 2)))/; s/\"loss\":[-+.0-9e]+/\"loss\":$seed/" "sweep2/000$seed/metrics.jsonl"
    layers='[{"mechanism": "sliding_window", "window": 100, "dilation": 10}, {"mechanism": "sliding_window", "window": 100, "dilation": 11}]'
    points="$points{\"point\": $seed, \"dir\": \"000$seed\", \"values\": {\"model.attention\": $layers, \"model.width\": 32, \"optimizer.weight_decay\": $decay, \"optimizer.lr\": $(((seed - 1) % 4 / 2 + 1))}, \"seed\": $((seed % 2))}$([ $seed = 5 ] || echo ,)"
done
echo "{\"sweep\": 1, \"points\": [$points]}" >sweep2/sweep.json

# report PATHS...: the page in page.html, with gnuplot's commands in commands/
mkdir bin commands empty
cat >bin/gnuplot <<EOF
#!/bin/sh
cat >"$PWD/commands/\$\$"
exec "$gnuplot" -d "$PWD/commands/\$\$"
EOF
chmod +x bin/gnuplot
report() {
    if [ -n "$gnuplot" ]; then
        PATH=$PWD/bin:$PATH expect 0 0 report "$@" --out page.html
    else
        expect 0 0 report "$@" --out page.html
    fi
}

# whole PAGE: every tag is closed by its own, no bare &, nothing from elsewhere, no script
whole() {
    if awk 'BEGIN { RS = "<" }
        NR == 1 { next }
        { tag = $0; sub(/>.*/, "", tag) }
        index($0, ">") == 0 { print "no end of <" tag; bad = 1; next }
        tag ~ /^!/ || tag ~ /\/$/ { next }
        tag ~ /^\// { close_ = substr(tag, 2); if (stack[depth] != close_) { print "</" close_ "> closes <" stack[depth] ">"; bad = 1 } depth--; next }
        { split(tag, word, /[ \n\t]/); stack[++depth] = word[1] }
        END { exit bad || depth != 0 }' "$1"; then pass; else fail "$1 is not well-formed"; fi
    same "bare & in $1" "$(sed -E 's/&(amp|lt|gt|quot|#39|#xFFFD);//g' "$1" | grep -c '&')" 0
    same "scripts in $1" "$(grep -ciE '<script|javascript:| on[a-z]+=' "$1")" 0
    same "links out of $1" "$(grep -oE '(src|href)="[^"]*"' "$1" | grep -cvE '"(#[a-zA-Z0-9-]+|data:image/svg\+xml;base64,[A-Za-z0-9+/=]+)"')" 0
}

# plots PAGE: each figure has a series with a path of at least two points, a polygon or a mark
plots() {
    [ -n "$gnuplot" ] || return
    local count
    count=$(grep -c '<figure class="plot"' "$1")
    holds "figures in $1" "$count > 3"
    same "pictures in $1" "$(grep -c '<div class="drawing"' "$1")" "$count"
    same "pictures with marks in $1" "$(awk 'BEGIN { RS = "<figure class=\"plot\"" }
        NR > 1 && /class="series"/ && (/d=.M[0-9.]+,[0-9.]+ L/ || /<polygon/ || /<use/) { n++ } END { print n + 0 }' "$1")" "$count"
    same "colours of gnuplot that are left in $1" "$(grep -c 'rgb(' "$1")" 0
    same "ids in $1 that come twice" "$(grep -oE ' id="[^"]*"' "$1" | sort | uniq -d)" ''
}

# --- everything at once ---
report "runs/$name" runs/other runs/lag sweep sweep2 scale.jsonl
same "standard output" "$(cat out)" page.html
whole page.html
plots page.html
for id in runs curves sweep time bytes memory scaling attention configuration environment; do
    says page.html "<section id=\"$id\">"
    says page.html "<a href=\"#$id\">"
done
says page.html '&lt;b&gt;&quot;zebra`id`\ $(id) &amp;'
says page.html 'key &lt;i&gt;'
says_not page.html '<b>"zebra'
says_not page.html 'class="bad"' # bytes and memory: counted = planned
says page.html '6 of 6 logged steps send exactly what is planned'
says page.html '5 of 5 logged steps send exactly what is planned'
for run in "$name" other lag; do
    loss=$(metric "runs/$run" train "$([ "$run" = "$name" ] && echo 6 || echo 5)" loss)
    says page.html "<td class=\"n\">$(awk -v x="$loss" 'BEGIN { printf "%.5g", x }')</td>"
done
says page.html "$(metric runs/other eval 5 bits_per_byte | awk '{ printf "%.4g", $1 }') <span class=\"unit\">bits/byte"
says page.html 'Runs of differing tasks'
says page.html '<figure class="plot" id="plot-accuracy"'
says page.html '<td>0.01</td><td class="differs">0.003</td><td>0.01</td>'
says_not page.html '<code>model.layers</code>' # it is the same everywhere
says page.html "$(value mpi "runs/$name/environment.json" | tr -d '"')"
# mean and sample standard deviation of 2, 2.5, 3.3, and of 1, 1.5
says page.html '2.6 <span class="unit">± 0.66</span>'
says page.html '1.25 <span class="unit">± 0.35</span>'
says page.html '3 of 3'
says page.html '2 of 3<div class="said">seed 9: not begun</div>'
says page.html 'sweep2: 5 points, 3 combinations'
says page.html '<td class="n">3.5 <span class="unit">± 0.71</span></td>'
says page.html '<td class="n">250 K <span class="unit">± 71 K</span></td>'
says page.html '{mechanism: sliding_window, window: 100, dilation: 11}]</td>'
if [ -n "$gnuplot" ]; then
    says page.html '<figure class="plot" id="plot-sweep-2"'
    says page.html '<h3>Training over the sweep</h3>'
    says page.html '</i>row 2: model.attention: [{mechanism'
    same "series of the sweep" "$(sed -n '/id="plot-sweep-2"/,/<\/ul>/p' page.html | grep -o '<li>' | grep -c .)" 2
fi
says page.html 'row 2: model.attention: [{mechanism'
holds "bytes of the page" "$(wc -c <page.html) < 2000000"
if [ -n "$gnuplot" ]; then
    same "words of users in gnuplot's commands" "$(cat commands/* | grep -cE 'zebra|`|\$\(|<i>|<b>|sliding|optimizer')" 0
    same "what else is in the data" "$(cat commands/* | sed -n '/EOD/,/^EOD/p' | grep -vE '^(\$s[0-9]+ << )?EOD$' | grep -cvE '^[-+.0-9eEnaif ]*$')" 0
fi

# --- studies in one file that differ in what their names do not say; a line that does not say all ---
sed -e '/fit/d' -e 's/"pass":"step"/"pass":"forward"/; s/"step_s_mean":[^,]*/"step_s_mean":1e6/' scale.jsonl >forward
sed -E -e '/fit/d' -e 's/"predicted_sent_bytes":[^,]*,//; s/"step_s_mean":[^,]*,//' -e 's/"batch":[0-9]+/"batch":77/' scale.jsonl >batch
cat scale.jsonl forward batch scale.jsonl >studies.jsonl
report studies.jsonl
whole page.html
says page.html 'sliding_window, step, batch 1, study 1, n 32'
says page.html 'sliding_window, forward, batch 1, n 32'
says page.html 'sliding_window, step, batch 77, n 32'
says page.html 'sliding_window, step, batch 1, study 4, n 32'
says page.html 'sliding_window, step, batch 1, study 4, 2 ranks: n^'
same "cells in red" "$(grep -c 'n bad' page.html)" 0
same "shares of waiting in mean times" "$(grep 'forward, batch 1</td>' page.html | grep -c '<td class="n">0.0</td>')" "$(grep -c . forward)"
same "shares of waiting that are not known" "$(grep 'batch 77</td>' page.html | grep -c '<td class="n">–</td><td class="n">[^–]*</td><td class="n">–</td>')" "$(grep -c . batch)"

# --- a run that goes on: half a line, no last line of the log; then one without any line, and one that is torn ---
cp -r "runs/$name" going
sed -i '/finished/d' going/log.txt
truncate -s -30 going/metrics.jsonl
report going
whole page.html
plots page.html
says page.html 'class="state running"'
says page.html '1 still running'
mkdir new
cp going/config.yaml new
report new
whole page.html
says page.html 'class="state new"'
sed -i 's/^{"event":"train","step":2,/{"event":"tr/' going/metrics.jsonl
report going new
whole page.html
says page.html '1 torn lines'

# --- a run that failed; one whose configuration cannot be read is shown all the same ---
cp -r "runs/$name" wild
sed -i '/finished/d' wild/log.txt
printf '%s\n' 'T failed: no <memory>' >>wild/log.txt
report wild "runs/$name"
says page.html '#1</b> wild</th>'
says page.html '#2</b> runs/&lt;b&gt;'
whole page.html
says page.html 'class="state failed"'
says page.html 'failed: no &lt;memory&gt;'
cp -r runs/other old # of a version without environment.json
rm old/environment.json
sed -i -E 's/"step":([0-9]+)(.*)"grad_norm":[^,]*/"step":\1\2"grad_norm":3.\1/' old/metrics.jsonl
report old
[ -z "$gnuplot" ] || same "axes without a number" "$(cat commands/* | grep -cF 'tics ()')" 0
whole page.html
says page.html '#1 is not planned: the folder has no environment.json'
says_not page.html '<section id="environment">'
cp -r runs/other broken
echo '<oops>' >>broken/config.yaml
report broken
whole page.html
says page.html '&lt;oops&gt;'
says page.html '<div class="note warn">'

# --- started again: on other ranks with nothing left to do; before the first line ---
cp -r "runs/$name" runs/again
expect 0 3 train tiny.yaml --set run.name=again --set schedule.steps=6 --set train.eval_every=3 --set checkpoint.every=3 --resume
same_file runs/again/environment.json "runs/$name/environment.json"
cp -r runs/again begun
sed -i 's/"from_step":0/"from_step":6/; s/"ranks":2/"ranks":3/; s/"sequence":2/"sequence":3/' begun/environment.json
report runs/again begun
whole page.html
says page.html '6 of 6 logged steps send exactly what is planned'
says page.html 'no step logged since the last start'
says_not page.html 'class="bad"'

# --- more runs than there is room for ---
# shellcheck disable=SC2046 # no blanks
report $(yes runs/other | head -n 98)
if [ -n "$gnuplot" ]; then
    says page.html '2 more series are left out'
    says page.html 'the first 24 of 98 runs'
fi
says page.html 'Left out: 74 more runs, 0 more ranks'

# --- the page takes the place of an earlier one alone ---
kept() {
    cp -P "$1" before
    expect 2 0 report runs/other scale.jsonl --out "$1"
    says err "$2"
    [ "$(readlink "$1")" = "$(readlink before)" ] || fail "$1 is another link"
    same_file "$1" before
}
kept scale.jsonl 'give a name that ends with .html'
kept runs/other/config.yaml 'give a name that ends with .html'
cp text.txt mine.html
kept mine.html 'was not made by longhaul report'
ln -s text.txt link.html
kept link.html 'is no ordinary file'
mkfifo pipe.html pipe.svg
expect 2 0 report runs/other --out pipe.html
expect 2 0 plan tiny.yaml --draw pipe.svg
says err "longhaul plan: --draw: 'pipe.svg' is no ordinary file"
ln -s text.txt link.svg
expect 2 0 plan tiny.yaml --draw link.svg
says err "'link.svg' is no ordinary file"
echo '<svg>mine</svg>' >mine.svg
expect 2 0 plan tiny.yaml --draw mine.svg
says err "'mine.svg' was not made by longhaul plan, and is not replaced"
same "a picture of somebody else" "$(cat mine.svg)" '<svg>mine</svg>'
same_file text.txt mine.html

# --- gnuplot is missing, fails, hangs ---
code_of() {
    wanted=$1
    shift
    "$@" >out 2>err
    same "exit code of: $*" $? "$wanted"
}
code_of 0 env PATH="$PWD/empty" "$LONGHAUL" report runs/other --out page.html
says err 'there is no gnuplot in $PATH (Debian: gnuplot-nox)'
says page.html 'gnuplot is missing'
says page.html '<details open="open"><summary>Some of the figures</summary>'
says_not page.html 'class="drawing"'
whole page.html
printf '#!/bin/sh\necho "boom <&" >&2\nexit 3\n' >empty/gnuplot
chmod +x empty/gnuplot
code_of 1 env PATH="$PWD/empty:$PATH" "$LONGHAUL" report runs/other --out page.html
says err 'gnuplot failed (exit code 3): boom <&'
says page.html 'boom &lt;&amp;'
whole page.html
printf '#!/bin/sh\nexec sleep 20\n' >empty/gnuplot
code_of 1 env PATH="$PWD/empty:$PATH" "$LONGHAUL" report runs/other --out page.html --patience 1
says err 'gnuplot took more than 1 s and was stopped'

# --- what is no run ---
no_run() {
    expect 2 0 report "${@:2}"
    says err "$1"
    same "standard output of report ${*:2}" "$(cat out)" ''
}
no_run 'wants run folders'
no_run "there is no 'nowhere'" nowhere
no_run "'runs' is no run folder, but holds some" runs
no_run 'it has neither config.yaml nor sweep.json' empty
no_run 'has no line of longhaul scale' text.txt
no_run 'wants the name of the page' runs/other --out
no_run "unknown option '--foo'" runs/other --foo
echo '{"sweep": 1, "points": 3}' >empty/sweep.json
no_run "no list 'points'" empty
echo '{"sweep": 1, "points": [{"point": 1, "dir": "../runs/other", "values": {}, "seed": 1}]}' >empty/sweep.json
no_run "'empty/sweep.json'" empty
echo '{"sweep": 1' >empty/sweep.json
no_run "'empty/sweep.json': byte 12" empty
expect 1 0 report runs/other --out nowhere/page.html
says err 'nowhere/page.html'

# --- a long run: thinned, but nothing that stands out is lost ---
if thorough; then
    cp -r runs/other long
    sed -i 's/^  steps: .*/  steps: 100000/' long/config.yaml
    awk 'BEGIN { for (i = 1; i <= 100000; i++)
        printf "{\"event\":\"train\",\"step\":%d,\"loss\":%.9g,\"grad_norm\":%.9g,\"lr\":0.001,\"tokens\":128,\"samples\":[1],\"tokens_per_s\":1000,\"step_s\":0.1,\"comm_wait_s\":0.01,\"sent_bytes\":0}\n",
            i, 1 + 5 / sqrt(i), i == 77777 ? 1234567 : 1 }' >long/metrics.jsonl
    report long
    whole page.html
    plots page.html
    holds "bytes of the page of a long run" "$(wc -c <page.html) < 1000000"
    [ -z "$gnuplot" ] || says commands/"$(grep -l 'norm before' commands/* | xargs ls -t | head -n 1 | xargs basename)" '77777'
fi

finish
