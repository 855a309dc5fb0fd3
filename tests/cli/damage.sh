# Damaged, cut and foreign files in the place of a checkpoint, a token file, a text and an experiment file: one clear message
# and exit code 1 or 2, on every rank, whatever is changed. LH_ALL: many more places.
. "$LH_SOURCE/tests/cli/lib.sh"

limit=20 # seconds

write_text text.txt 6000
write_experiment tiny.yaml text.txt
train 2 run --set checkpoint.every=3 --set checkpoint.keep=9
mv runs/run runs/whole
saved=$(checkpoint runs/whole 5)
expect 0 0 prepare text.txt --out book.h5

# bend FILE OFFSET BIT: one bit of a file
bend() {
    local byte
    byte=$(od -An -tu1 -j "$2" -N 1 "$1")
    # shellcheck disable=SC2059
    printf "\\$(printf %o $((byte ^ (1 << $3))))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# one_message CODES RANKS ARGUMENTS...: ends with one of these codes and one message
one_message() {
    local codes=$1
    shift
    longhaul "$@"
    if [[ " $codes " == *" $code "* ]] && [ "$(grep -c '^longhaul: error: ' err)" = 1 ]; then
        pass
    else
        fail "longhaul ${*:2} on $1 ranks: exit code $code, expected one of $codes, and one message ($where):"
        cat out err
    fi
}

# swept FILE COMMAND...: bits all over the file are changed one by one, then it is cut at many lengths; the command gets its
# name. More places in the first KiB, where our own header and the library's lie.
swept() {
    local file=$1 size places=10 at bit i
    shift
    size=$(wc -c <"$file")
    if [ -n "${LH_ALL:-}" ]; then places=200; fi
    for i in $(seq 0 $((places - 1))); do
        at=$((i % 2 == 0 ? i * 1024 / places : i * size / places)) bit=$((i * 5 % 8))
        cp "$file" hurt.h5
        bend hurt.h5 $at $bit
        where="bit $bit of byte $at"
        one_message 1 0 "$@" hurt.h5
        at=$((i % 2 == 0 ? i * 1024 / places : i * size / places))
        head -c "$at" "$file" >hurt.h5
        where="cut after $at of $size bytes"
        one_message 1 0 "$@" hurt.h5
    done
    head -c $((size - 1)) "$file" >hurt.h5
    where="the last byte missing"
    one_message 1 0 "$@" hurt.h5
    { cat "$file" && printf x; } >hurt.h5
    where="a byte too many"
    one_message 1 0 "$@" hurt.h5
}
swept "$saved" inspect
swept book.h5 inspect

# --- what stands in a checkpoint's place, for every command that reads one ---
printf '\211HDF\r\n\032\n' >signature # an HDF5 file's first bytes, and no more
head -c 30000 /dev/urandom >noise
head -c 30000 /dev/zero >zeros
gzip -c "$saved" >packed.h5
cp "$saved" bent.h5
bend bent.h5 $(($(wc -c <"$saved") / 2)) 3
head -c 20000 "$saved" >cut.h5
for file in bent.h5 cut.h5 book.h5 text.txt signature noise zeros packed.h5 /dev/null; do
    where=$file
    if [ "$file" != book.h5 ]; then one_message '1 2' 0 inspect "$file"; fi
    one_message '1 2' 0 convert "$file" --kv-heads 1 --out new.h5
    missing new.h5 new.h5.tmp
done

# under MPI: a few of them by default, since each costs a launch
few=bent.h5
if [ -n "${LH_ALL:-}" ]; then few='bent.h5 cut.h5 book.h5 text.txt signature noise zeros packed.h5 /dev/null'; fi
for file in $few; do
    where="$file as a checkpoint"
    rm -rf runs/run
    cp -r runs/whole runs/run
    rm "$(checkpoint runs/run 3)"
    cp "$file" "$(checkpoint runs/run 5)"
    one_message 1 3 eval runs/run
    says err 'passing over a damaged checkpoint'
    one_message 1 2 train tiny.yaml --set run.name=run --set checkpoint.every=3 --resume
    cmp -s "$file" "$(checkpoint runs/run 5)" || fail "the damaged checkpoint was touched"
    if [ -n "${LH_ALL:-}" ]; then
        one_message 2 2 train tiny.yaml --set run.name=other --set run.init="$(checkpoint runs/run 5)"
        missing "$(checkpoint runs/other 5)"
    fi
done

# --- token files, for training ---
cp book.h5 bent.h5
bend bent.h5 3000 6
head -c 3000 book.h5 >cut.h5
few=''
if [ -n "${LH_ALL:-}" ]; then few='bent.h5 cut.h5 text.txt signature noise zeros /dev/null'; fi
for file in $few "$saved"; do
    where="$file as a token file"
    one_message 2 2 train tiny.yaml --set run.name=tokens --set data.task=tokens --set data.path="$file"
    says err "key 'data.path'"
done

# --- experiment files: a changed letter may be a mistake or not; cut, the file lacks what is required or is whole ---
size=$(wc -c <tiny.yaml)
every=61
if [ -n "${LH_ALL:-}" ]; then every=1; fi
good=0
for ((i = 0; i < 8 * size; i += every)); do
    cp tiny.yaml hurt.yaml
    bend hurt.yaml $((i / 8)) $((i % 8))
    where="bit $((i % 8)) of byte $((i / 8)) of tiny.yaml"
    longhaul 0 plan hurt.yaml
    if [ "$code" = 0 ]; then good=$((good + 1)); else one_message 2 0 plan hurt.yaml; fi
done
holds "some changes do no harm, most do ($good of $((8 * size / every)))" "$good > 0 && $good < 4 * $size / $every"
for ((i = 0; i < size; i += every)); do
    head -c "$i" tiny.yaml >hurt.yaml
    where="tiny.yaml cut after $i of $size bytes"
    longhaul 0 plan hurt.yaml
    if [ "$code" != 0 ]; then one_message 2 0 plan hurt.yaml; fi
done
for file in "$saved" book.h5 noise zeros packed.h5 /dev/null; do
    where="$file as an experiment file"
    one_message 2 0 plan "$file"
done
missing runs/tokens/checkpoints runs/new
finish
