# longhaul eval: the run's own last evaluation again, elsewhere, on other ranks, with other settings.
. "$LH_SOURCE/tests/cli/lib.sh"

write_text text.txt 6000
write_experiment tiny.yaml text.txt
train 2 run --set checkpoint.every=5
cp out run.out
before=$(cd runs/run && find . -type f -exec cksum {} + | sort)

# evaluated RANKS ARGUMENTS...
evaluated() {
    expect 0 "$@"
    same "one line for each part" "$(wc -l <out)" 1
}
evaluated 2 eval runs/run
for key in step loss bits_per_byte accuracy tokens; do same "$key of eval" "$(value $key)" "$(value $key run.out)"; done
same "part" "$(value part)" '"valid"'
for ranks in 1 3 5; do
    evaluated $ranks eval runs/run
    near "loss on $ranks ranks" "$(value loss)" "$(value loss run.out)" "$real_digits"
    same "tokens on $ranks ranks" "$(value tokens)" 300
done
evaluated 4 eval runs/run --set mesh.data=2 --set data.batch=4
near "loss on 2 x 2 ranks" "$(value loss)" "$(value loss run.out)" "$real_digits"
same "tokens on 2 x 2 ranks" "$(value tokens)" 300
same "eval leaves the run as it is" "$(cd runs/run && find . -type f -exec cksum {} + | sort)" "$before"

# --- other settings, another place ---
evaluated 2 eval runs/run --set data.length=300
same "tokens in one longer sequence" "$(value tokens)" 300
near "loss of a longer sequence" "$(value loss)" "$(value loss run.out)" 0.1
evaluated 2 eval runs/run --set train.eval_tokens=1
same "tokens of the first window" "$(value tokens)" 128
mkdir moved
mv runs/run moved/there
cd moved || exit 1
evaluated 2 eval there
near "loss of a moved run" "$(value loss)" "$(value loss ../run.out)" 0
evaluated 1 eval there/
cd ..
mv text.txt other.txt
expect 2 2 eval moved/there
says err "key 'data.path'"
evaluated 2 eval moved/there --set data.path=other.txt
near "loss with the data elsewhere" "$(value loss)" "$(value loss run.out)" 0

# --- a saved configuration that was edited is followed, and that is said; what --set gives is wanted ---
for asked in '' '--set model.attention.window=3 --set data.length=300 --set data.path=other.txt'; do
    # shellcheck disable=SC2086
    expect 0 1 eval moved/there --set data.path="$PWD/other.txt" $asked
    says_not err 'note:'
done
cp -r moved/there edited
sed -i 's/window: 24/window: 3/; s#path: .*/text.txt#path: other.txt#' edited/config.yaml
expect 0 3 eval edited
same "notes" "$(grep -c 'longhaul: note: .*config.yaml is followed, .* in 2 keys that --set' err)" 1
says err 'model.attention.window was 24, is 3'
says err "data.path was $PWD/text.txt, is $PWD/other.txt"
expect 0 1 eval edited --set data.path="$PWD/other.txt"
says err 'in 1 key that'
expect 0 1 eval edited --set model.attention.window=24 --set data.path="$PWD/other.txt"
says_not err 'note:'
near "loss with the window of the run" "$(value loss)" "$(value loss run.out)" "$real_digits"

# --- what cannot be evaluated ---
mv other.txt text.txt
expect 2 2 eval moved
says err 'no run folder'
expect 2 2 eval moved/there --set model.width=16
says err 'layer.0.attention.query.weight'
expect 2 2 eval moved/there --set model.widht=16
says err "did you mean 'width'?"
train 1 none
expect 2 2 eval runs/none
says err 'no checkpoint'

# --- beside a run that goes on: what is read may be removed before it is open, since a newer one is there. Steps come back,
# but so late that no reader takes the old one for the new one; under sanitizers readers are slower than that ---
if thorough && [ -z "${ASAN_OPTIONS:-}" ]; then
    train 1 live --set schedule.steps=20 --set checkpoint.every=1 --set checkpoint.keep=99
    mv runs/live/checkpoints written
    mkdir runs/live/checkpoints
    names=$(ls written)
    last=step-00000020.h5
    cp "written/$last" runs/live/checkpoints
    touch goes-on
    while [ -e goes-on ] && [ "$SECONDS" -lt 200 ]; do
        for name in $names; do
            ln "written/$name" runs/live/checkpoints
            rm "runs/live/checkpoints/$last"
            last=$name
        done
    done &
    for _ in {1..25}; do
        rm -f live.h5
        expect 0 0 convert runs/live --kv-heads 1 --out live.h5
        says_not err 'passing over'
    done
    for _ in 1 2 3; do
        expect 0 0 eval runs/live
        says_not err 'passing over'
    done
    rm goes-on
    wait
fi
finish
