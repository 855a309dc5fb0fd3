# It learns: a text that repeats is soon predicted; and the experiment that users start with is a good one.
. "$LH_SOURCE/tests/cli/lib.sh"

write_periodic text.txt 30000 41
write_experiment tiny.yaml text.txt
for ranks in 2 3; do
    train $ranks periodic-$ranks --set schedule.steps=200 --set train.log_every=100
    holds "a periodic text is learned on $ranks ranks ($(value bits_per_byte))" "$(value bits_per_byte) < 0.5"
    holds "accuracy ($(value accuracy))" "$(value accuracy) > 0.95"
done

# Of random letters nobody can know more than how frequent they are, which takes 4.67 bits. Who does has seen the byte that
# is to be predicted, perhaps on another rank.
write_text text.txt 60000
for ranks in 1 3; do
    for kind in sliding_window full; do
        setting='{mechanism: full}'
        if [ $kind = sliding_window ]; then setting='{mechanism: sliding_window, window: 24}'; fi
        train $ranks random-$kind-$ranks --set schedule.steps=150 --set train.log_every=50 --set optimizer.lr=3.0e-3 \
            --set model.attention="$setting"
        bits=$(value bits_per_byte)
        holds "random letters stay random on $ranks ranks, $kind ($bits)" "$bits > 4.6 && $bits < 4.9"
    done
done

write_text text.txt 200000
expect 0 2 train "$LH_SOURCE/experiments/quickstart.yaml" --set data.path=text.txt --set schedule.steps=1 \
    --set train.eval_tokens=8192
holds "the quickstart's first step" "$(metric runs/quickstart train 1 loss) < 6"
same "the quickstart's sequence" "$(metric runs/quickstart train 1 tokens)" 8192
exists "$(checkpoint runs/quickstart 1)"
finish
