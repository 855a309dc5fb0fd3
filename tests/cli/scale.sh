# A study that was interrupted goes on: points that stand in its file are not measured again; a file of another study, and one
# that is none, are left as they are.
source "$(dirname "$0")/lib.sh"

cat >study.yaml <<'YAML'
run: {name: study}
mesh: {chunk: 16}
data: {task: text, length: 96}
model: {kind: decoder, layers: 1, width: 16, heads: 2, attention: {mechanism: full}}
device: {threads: 1}
YAML

# study RANKS FILE ARGUMENTS...: exit code in $code.
study() {
    local ranks=$1 file=$2
    shift 2
    longhaul "$ranks" scale study.yaml --ranks 1,2 --lengths "${lengths:-96,192}" --attention full \
        --attention '{mechanism: sliding_window, window: 20}' --repeats "${repeats:-2}" --warmup 0 --out "$file" "$@"
}

# points FILE: which points stand there, without what was measured.
points() { sed -nE 's/.*("ranks":[0-9]+),("n":[0-9]+),("attention":"[^"]*"),("mode":"[a-z]*").*/\1 \2 \3 \4/p' "$1"; }
fits() { sed -nE 's/.*"fit":.*("ranks":[0-9]+),.*("attention":"[^"]*").*/\1 \2/p' "$1"; }

study 2 whole.jsonl
same "exit code" "$code" 0
same "standard output" "$(cat out)" ""
same "head, points and fits" "$(grep -c '"study":"longhaul scale"' whole.jsonl) $(points whole.jsonl | sort -u | wc -l) \
$(fits whole.jsonl | wc -l) $(wc -l <whole.jsonl)" "1 16 4 21"

# Cut after any line, and in the middle of the next: what stands there stays byte for byte, the rest comes as it would have.
for lines in $(if [ -n "${LH_ALL:-}" ]; then echo 1 2 5 9 11 20; else echo 2 11; fi); do
    head -n "$lines" whole.jsonl >kept
    { cat kept; sed -n "$((lines + 1))p" whole.jsonl | head -c 40; } >cut.jsonl
    study 2 cut.jsonl
    same "cut after $lines: exit code" "$code" 0
    says err 'cut.jsonl: the last line is torn and is cut off'
    same "cut after $lines: what stood there" "$(head -n "$lines" cut.jsonl | cmp - kept && echo same)" same
    same "cut after $lines: points" "$(points cut.jsonl)" "$(points whole.jsonl)"
    same "cut after $lines: fits" "$(fits cut.jsonl)" "$(fits whole.jsonl)"
done

# The whole study again measures nothing and writes nothing.
cp whole.jsonl again.jsonl
study 2 again.jsonl
same "again: exit code" "$code" 0
same "again: the file" "$(cmp again.jsonl whole.jsonl && echo same)" same
same "again: points taken" "$(grep -c "stands in 'again.jsonl'" err)" 10

# What was measured is believed: a time that nobody measured comes back in the point's other mode and in the fit.
sed -nE '1p; 2s/"step_s":[^,]*,/"step_s":12345.5,/p' whole.jsonl >believed.jsonl
study 2 believed.jsonl
same "believed: lines" "$(grep -c '"step_s":12345.5,' believed.jsonl)" 2
same "believed: points" "$(points believed.jsonl)" "$(points whole.jsonl)"

# More ranks and lengths may be added to a study.
cp whole.jsonl more.jsonl
longhaul 3 scale study.yaml --ranks 1,2,3 --lengths 96 --mode strong --attention full --repeats 2 --warmup 0 --out more.jsonl
same "more: exit code" "$code" 0
same "more: new" "$(tail -n +22 more.jsonl | sed -E 's/^\{("ranks":3,"n":96),.*/\1/')" '"ranks":3,"n":96'
same "more: taken" "$(grep -c "stands in" err)" 2

thorough || finish

# Killed at random moments, it goes on until it is whole; no line is lost or comes twice.
kills=0 code=1
while [ "$code" != 0 ] && [ "$kills" -lt ${LH_ALL:+1}4 ]; do
    had=$(cat killed.jsonl 2>/dev/null | wc -l)
    head -n "$had" killed.jsonl >had.jsonl 2>/dev/null
    # shellcheck disable=SC2086 # the launcher is several words
    { timeout -s KILL "0.$((RANDOM % 60 + 30))" $LH_MPIEXEC 2 "$LONGHAUL" scale study.yaml --ranks 1,2 --lengths 384,768 --attention full \
        --attention '{mechanism: sliding_window, window: 20}' --repeats 40 --warmup 0 --out killed.jsonl >out 2>err; } 2>/dev/null
    code=$?
    while grep -qs 'killed[.]jsonl' /proc/[0-9]*/cmdline; do sleep 0.05; done # ranks outlive their launcher for a moment
    same "killed: earlier lines" "$(head -n "$had" killed.jsonl 2>/dev/null | cmp - had.jsonl && echo same)" same
    kills=$((kills + (code != 0)))
done
echo "killed $kills times"
lengths=384,768 repeats=40 study 2 killed.jsonl
same "killed: exit code" "$code" 0
same "killed: points" "$(points killed.jsonl)" "$(points whole.jsonl | sed 's/"n":384/"n":1536/; s/"n":192/"n":768/; s/"n":96/"n":384/')"
same "killed: fits" "$(fits killed.jsonl)" "$(fits whole.jsonl)"

# refused FILE TEXT ARGUMENTS...: exit code 2, the text said, the file untouched.
refused() {
    local file=$1 text=$2
    shift 2
    cp "$file" before
    study 2 "$file" "$@"
    same "$text: exit code" "$code" 2
    says err "$text"
    same "$text: the file" "$(cmp "$file" before && echo same)" same
}
refused whole.jsonl "'whole.jsonl' holds a study with configuration" --set model.width=32
refused whole.jsonl "'whole.jsonl' holds a study with configuration" --set model.width=32 --lengths 48 # no point stands there
refused whole.jsonl "'whole.jsonl' holds a study with repeats 2, and this is one with 3" --repeats 3
refused whole.jsonl "'whole.jsonl' holds a study with fewest_ranks 1, and this is one with 2" --ranks 2
refused whole.jsonl "--attention 'full' is given twice" --attention full
refused whole.jsonl "did you mean 'width'" --set model.widht=32
refused study.yaml 'study.yaml:1: byte '
printf 'no newline' >short
refused short 'is no file that a study has written'
echo '{"event":"train"}' >metrics.jsonl
refused metrics.jsonl 'is no file that a study has written'
{ cat whole.jsonl && printf '{"torn'; } >torn.jsonl # nothing is cut off before the study is known to be the same
refused torn.jsonl "holds a study with configuration" --set model.width=32
ln -sf whole.jsonl link.jsonl
cp whole.jsonl before
study 2 link.jsonl
same "a link: exit code" "$code" 1
says err 'a symbolic link lies there'
same "a link: its file" "$(cmp whole.jsonl before && echo same)" same
study 2 missing/study.jsonl
same "no folder: exit code" "$code" 1
says err "cannot write 'missing/study.jsonl'"
study 2 /dev/null
same "a device: exit code" "$code" 2
says err 'is no ordinary file'
mkfifo pipe
study 2 pipe
same "a pipe: exit code" "$code" 2
longhaul 2 scale nowhere.yaml --ranks 1 --out none.jsonl
same "no experiment: exit code, and no file" "$code $([ -e none.jsonl ] && echo there)" "2 "

# Another mechanism in the experiment file, another number of threads.
longhaul 1 scale study.yaml --ranks 1 --mode strong --repeats 2 --warmup 0 --out own.jsonl
sed 's/mechanism: full/mechanism: sliding_window, window: 8/' study.yaml >other.yaml
longhaul 1 scale other.yaml --ranks 1 --mode strong --repeats 2 --warmup 0 --out own.jsonl
same "another mechanism: exit code" "$code" 2
says err "'own.jsonl' holds a study with another configuration (its point of n 96"
sed '/^device/d' study.yaml >auto.yaml
longhaul 1 scale auto.yaml --ranks 1 --mode strong --repeats 2 --warmup 0 --out auto.jsonl
cp auto.jsonl before
OMP_NUM_THREADS=2 longhaul 1 scale auto.yaml --ranks 1 --mode strong --repeats 2 --warmup 0 --out auto.jsonl
same "other threads: exit code" "$code" 2
says err "'auto.jsonl' holds a study with 1 threads a rank (n 96, 1 ranks), now there are 2"
same "other threads: the file" "$(cmp auto.jsonl before && echo same)" same

# From another folder, a file without its last newline or with an empty line, one that is empty: nothing is lost.
mkdir -p elsewhere
cp own.jsonl elsewhere
(cd elsewhere && longhaul 1 scale ../study.yaml --ranks 1 --mode strong --repeats 2 --warmup 0 --out own.jsonl && says err 'stands in')
same "from another folder" "$(cmp own.jsonl elsewhere/own.jsonl && echo same)" same
head -c -1 own.jsonl >unended.jsonl
echo >>own.jsonl
for file in unended own; do
    longhaul 1 scale study.yaml --ranks 1 --lengths 96,192 --mode strong --repeats 2 --warmup 0 --out $file.jsonl
    same "$file: taken" "$(grep -c 'stands in' err)" 1
    same "$file: lines" "$(grep -c . $file.jsonl)" 4
done
(umask 077 && : >empty.jsonl)
ln empty.jsonl twin.jsonl
longhaul 1 scale study.yaml --ranks 1 --mode strong --repeats 2 --warmup 0 --out empty.jsonl
same "empty: lines, mode, and its other name" "$(wc -l <empty.jsonl) $(stat -c %a empty.jsonl) $(cmp empty.jsonl twin.jsonl && echo same)" \
    "2 600 same"
head -c 30 whole.jsonl >begun.jsonl # a head that was torn
study 2 begun.jsonl
same "a torn head" "$(points begun.jsonl)" "$(points whole.jsonl)"

# Weak alone: nothing is measured again, and nothing fitted.
for i in 1 2; do longhaul 2 scale study.yaml --ranks 1,2 --lengths 96,192 --mode weak --repeats 2 --warmup 0 --out weak.jsonl; done
same "weak: lines, taken" "$(wc -l <weak.jsonl) $(grep -c 'stands in' err)" "5 4"

# Points that somebody has changed: what is computed with must be there.
for change in 's/"step_s":[^,]*,//' 's/"step_s":[^,]*,/"step_s":"abc",/' 's/"step_s":[^,]*,/"step_s":0,/' 's/"seconds":\[[^]]*\]/"seconds":[1]/' \
    's/"mechanism":"full"/"mechanism":7/' 's/"mode":"strong",//' 's/"efficiency":[^,]*,//'; do
    sed "2$change" whole.jsonl >changed.jsonl
    sed -i '3,$d' changed.jsonl
    refused changed.jsonl 'remove its lines, and it is measured again'
    thorough || break
done

# Two at once: the second is refused.
# shellcheck disable=SC2086 # the launcher is several words
$LH_MPIEXEC 1 "$LONGHAUL" scale study.yaml --ranks 1 --lengths 96 --mode strong --repeats 10000 --out held.jsonl >/dev/null 2>held &
for i in $(seq 200); do [ -e held.jsonl ] && break || sleep 0.05; done
longhaul 1 scale study.yaml --ranks 1 --lengths 96 --mode strong --repeats 10000 --out held.jsonl
same "two at once: exit code" "$code" 2
says err "'held.jsonl' is being written by another study"
wait
same "two at once: the first ends" "$(wc -l <held.jsonl)" 2

# A file size limit, reached by the next line; MPI's own files are smaller.
{ cat whole.jsonl && head -c "$((20971520 - $(wc -c <whole.jsonl)))" /dev/zero | tr '\0' '\n'; } >limited.jsonl
(ulimit -f 20480 && lengths=96,192,384 study 2 limited.jsonl && echo "$code" >limited)
same "a file size limit: exit code" "$(cat limited)" 1
says err "cannot write 'limited.jsonl': File too large; the file size limit (ulimit -f)"
same "a file size limit: what stood there" "$(head -n 21 limited.jsonl | cmp - whole.jsonl && echo same)" same

# Lengths that were added: of two fits the report has the last.
longhaul 1 scale study.yaml --ranks 1 --lengths 96,192,384 --mode strong --repeats 2 --warmup 0 --out own.jsonl
same "fits" "$(grep -c '"fit"' own.jsonl)" 2
expect 0 0 report own.jsonl --out page.html
exponent=$(printf '%.2f' "$(value exponent own.jsonl | tail -n 1)")
same "the report's fits" "$(grep -o 'n<sup>[-0-9.]*' page.html | sort -u | wc -l) $(grep -c "$exponent" page.html | awk '{ print ($1 > 0) }')" "1 1"

# A report reads it.
expect 0 0 report whole.jsonl --out page.html
same "report: nothing is torn" "$(grep -c 'torn\|were left out' page.html)" 0
finish
