# Token files: what is prepared, what is trained from it on any number of ranks, what is refused; FASTA files as they are.
. "$LH_SOURCE/tests/cli/lib.sh"

# prepare OUTPUT ARGUMENTS...: must say this on standard output, and nothing else there.
prepare() {
    local said=$1
    shift
    expect 0 0 prepare "$@"
    same "prepare $*" "$(cat out)" "$said"
}
# refuses TEXT ARGUMENTS...: exit code 2 with the text, no file made.
refuses() {
    local text=$1
    shift
    expect 2 0 "$@"
    says err "$text"
    missing none.h5 none.h5.tmp
}

# --- words: one <eos> a line; an unfinished last line has one too ---
printf 'the cat saw the dog\n\n the\tdog \r\n cat saw' >small.txt
prepare '13 tokens: 9 words, 4 lines; vocabulary of 5' small.txt --words --out small.h5
printf 'dog the dog\n' >next.txt
prepare '4 tokens: 3 words, 1 lines; vocabulary of 5' next.txt --words --vocab small.h5 --out next.h5
expect 0 0 inspect small.h5
for line in 'kind         words' 'tokens       13 of 1 byte' 'vocabulary   5: <eos> the cat saw dog' \
    'source       small.txt, 40 bytes' 'whole: the digest is right'; do says out "$line"; done
printf 'dog\nbird\n' >other.txt
refuses "other.txt:2: the word 'bird' is not in the vocabulary, which has no <unk>" \
    prepare other.txt --words --vocab small.h5 --out none.h5
prepare '13 tokens: 9 words, 4 lines; vocabulary of 3; 6 rare or unknown words became <unk>' small.txt --words \
    --min-count 3 --out rare.h5
prepare '4 tokens: 2 words, 2 lines; vocabulary of 3; 2 rare or unknown words became <unk>' other.txt --words \
    --vocab rare.h5 --out unknown.h5

# --- ListOps: with parentheses and a header, without, either column first ---
printf 'Source\tTarget\n( ( ( [MAX 2 ) 4 ) ] )\t4\n( ( ( ( ( [MED 9 ) 0 ) 4 ) 5 ) ] )\t4\n' >source.tsv
prepare '2 examples, 0 labels disagree' source.tsv --task listops --out source.h5
printf '8\t[SM 9 9 ]\r\n5\t[MAX 2 [MIN 8 5 ] ]\n4\t[MED [SM 7 8 ] 3 9 ]\n7\t7' >label.tsv
prepare '4 examples, 1 labels disagree' label.tsv --task listops --out label.h5
says err "label.tsv:3: the label is 4, the expression's value 5"
expect 0 0 inspect label.h5
says out 'examples     4, the longest of 9 tokens'
while IFS='|' read -r line text; do
    printf '%b' "$line" >bad.tsv
    refuses "$text" prepare bad.tsv --task listops --out none.h5
done <<'BAD'
4\t[MAX 4 ]\n4\t[MAX 2 ( 4 ]\n|bad.tsv:2: a '(' without its ')'
4\t[MAX 2 ) 4 ]\n|bad.tsv:1: a ')' without its '('
4\t[MAX 2 4\n|bad.tsv:1: token 0: the list of [MAX has no ']'
4 [MAX 2 4 ]\n|bad.tsv:1: expected LABEL<tab>EXPRESSION
4\t[MAX 4 ]\n[MAX 2 4 ]\t4\n|bad.tsv:2: expected a label from 0 to 9 in column 1
4\t[MOX 2 4 ]\n|bad.tsv:1: '[MOX' is no token of ListOps
\n\n|'bad.tsv' has no example
|'bad.tsv' is empty
BAD

# --- FASTA ---
awk 'BEGIN { s = 7; for (r = 0; r < 60; r++) { printf ">record %d\n", r
    for (i = 0; i < r * 37 % 200; i++) { s = s * 16807 % 2147483647
        printf "%s%s", substr("ACDEFGHIKLMNPQRSTVWY", 1 + s % 20, 1), i % 50 == 49 ? "\n" : "" }
    if (i % 50) printf "\n" } }' >proteins.fa
residues=$(grep -v '>' proteins.fa | tr -d '\n' | wc -c)
prepare "$((residues + 60)) tokens: 60 records, $residues residues" proteins.fa --task fasta --out proteins.h5
printf '>a\nMKL\nMK\nMKL\n' >uneven.fa
prepare '9 tokens: 1 records, 8 residues' uneven.fa --task fasta --out uneven.h5
refuses "small.txt:1: expected a header line that begins with '>'" prepare small.txt --task fasta --out none.h5

# --- mistakes ---
refuses 'wants a file to read' prepare
refuses 'wants --out DATA.h5' prepare small.txt
refuses "--task 'fastq' is unknown: did you mean 'fasta'?" prepare small.txt --task fastq --out none.h5
refuses "did you mean '--words'?" prepare small.txt --word --out none.h5
refuses "cannot read 'nowhere.txt'" prepare nowhere.txt --out none.h5
refuses "there is no folder 'nowhere'" prepare small.txt --out nowhere/none.h5
refuses "'small.h5' exists: give --force" prepare small.txt --out small.h5
refuses 'is the file to be read' prepare small.txt --out small.txt --force
mkfifo pipe
refuses 'is a pipe, socket or device' prepare small.txt --out pipe --force
refuses 'is a folder' prepare small.txt --out .
refuses "'proteins.h5' holds fasta, not words" prepare next.txt --words --vocab proteins.h5 --out none.h5
refuses 'is not a token file' prepare next.txt --words --vocab small.txt --out none.h5
refuses '--vocab has a meaning with --words only' prepare next.txt --vocab small.h5 --out none.h5
refuses '--words is of texts' prepare proteins.fa --words --task fasta --out none.h5
: >empty.txt
refuses "'empty.txt' is empty" prepare empty.txt --out none.h5
expect 2 0 inspect
expect 2 0 inspect nowhere.h5
expect 1 0 inspect small.txt
says err 'neither a checkpoint nor a token file'
head -c 3000 proteins.h5 >cut.h5
expect 1 0 inspect cut.h5
says err 'it is torn or was changed'
prepare '40 tokens: bytes' small.txt --out small.h5 --force
expect 0 0 prepare --help
says out 'labels disagree'

# --- training: the same on any number of ranks ---
write_text book.txt 6000
write_text end.txt 900 5
write_experiment tiny.yaml book.txt
prepare '6000 tokens: bytes' book.txt --out book.h5
expect 0 0 prepare book.txt --words --min-count 2 --out words.h5
expect 0 0 prepare end.txt --words --vocab words.h5 --out end.h5
train 1 text --set schedule.steps=2 --set checkpoint.every=2
saved=$(checkpoint runs/text 2)
expect 0 0 inspect "$saved"
for text in 'a checkpoint' 'step           2' 'parameters/embedding.token.weight' 'optimizer/v/' '256 x 32' \
    "$(sed -nE 's/.* ([0-9]+) parameters,.*/parameters     \1/p' runs/text/log.txt)" 'checksums are right'; do
    says out "$text"
done
parameters=$(sed -nE 's/.* ([0-9]+) parameters,.*/\1/p' runs/text/log.txt)
expect 0 0 inspect "$saved" --json
same "inspect --json: one line" "$(wc -l <out)" 1
for text in "{\"file\":\"$saved\",\"kind\":\"checkpoint\",\"tensors\":[{\"name\":\"parameters/" '"step":2,"tokens":256,' \
    "\"parameters\":$parameters,\"optimizer\":true," '"ranks":1,"data":1,"sequence":1,"layout":"contiguous",' \
    '{"name":"optimizer/v/embedding.token.weight","type":"' '"shape":[256,32],"sound":true}' '"whole":true}' \
    '"configuration":"run:\n  name: text\n'; do
    says out "$text"
done
expect 0 0 inspect words.h5 --json
says out '{"file":"words.h5","kind":"token file","holds":"words","tokens":'
says out '"whole":true}'
{ head -c 5000 "$saved"; printf x; tail -c +5002 "$saved"; } >changed.h5
expect 1 0 inspect changed.h5
says err 'is damaged: its digest is'
expect 1 0 inspect changed.h5 --json
same "inspect --json of a damaged file" "$(cat out)" ''
train 1 tokens-1 --set schedule.steps=2 --set data.task=tokens --set data.path=book.h5
same "a token file of bytes is the text" "$(results runs/tokens-1)" "$(results runs/text)"
holds "bits of bytes" "$(value bits_per_byte) > 0"
check() {
    local name=$1 unit=$2
    shift 2
    for ranks in 1 3; do
        train $ranks "$name-$ranks" --set schedule.steps=2 "$@"
        near "$name on $ranks ranks" "$(metric "runs/$name-$ranks" train 1 loss)" \
            "$(metric "runs/$name-1" train 1 loss)" "$real_digits"
        near_losses "$name on $ranks ranks" "runs/$name-$ranks" "runs/$name-1" 1e-4
        same "$name on $ranks ranks: labels" "$(metric "runs/$name-$ranks" eval 2 tokens)" \
            "$(metric "runs/$name-1" eval 2 tokens)"
        near "$name on $ranks ranks: $unit" "$(value "$unit")" \
            "$(awk -v l="$(value loss)" 'BEGIN { printf "%.17g", exp(l) }')" 1e-6
    done
}
check words perplexity --set data.task=tokens --set data.path=words.h5 --set data.valid_path=end.h5
same "every word of the validation file but the first is predicted" "$(value tokens)" \
    $(($(wc -w <end.txt) + $(wc -l <end.txt)))
check fasta perplexity --set data.task=fasta --set data.path=proteins.fa
check records perplexity --set data.task=fasta --set data.path=proteins.h5
same "FASTA as text and as a token file" "$(results runs/records-1)" "$(results runs/fasta-1)"
check masked perplexity --set data.task=masked_tokens --set model.kind=encoder --set data.path=words.h5 --set data.mask=0.3
awk 'BEGIN { s = 5; for (i = 0; i < 40; i++) { n = 2 + i % 5; most = 0; text = "[MAX"
    for (k = 0; k < n; k++) { s = s * 16807 % 2147483647; d = s % 10; if (d > most) most = d; text = text " " d }
    print most "\t" text " ]" } }' >trees.tsv
prepare '40 examples, 0 labels disagree' trees.tsv --task listops --out trees.h5
for ranks in 1 3; do
    train $ranks listops-$ranks --set schedule.steps=2 --set data.task=listops --set data.path=trees.h5 \
        --set model.kind=encoder --set model.head=class --set data.valid_fraction=0.2 --set data.length=40 --set data.batch=4
    near "listops on $ranks ranks" "$(metric runs/listops-$ranks train 1 loss)" \
        "$(metric runs/listops-1 train 1 loss)" "$real_digits"
    near_losses "listops on $ranks ranks" runs/listops-$ranks runs/listops-1 1e-4
    same "a label for each example" "$(metric runs/listops-$ranks train 1 tokens) $(value tokens)" '4 8'
    same "with one level all of these are solved" "$(value baseline_one_level)" 1
done

# --- what does not fit ---
expect 2 2 train tiny.yaml --set run.name=none --set data.path=words.h5
says err "key 'data.path': '$PWD/words.h5' is a token file, not a text: use data.task tokens"
expect 2 0 train tiny.yaml --set run.name=none --set data.task=tokens
says err "'$PWD/book.txt' is not a token file, or its beginning is lost; longhaul prepare makes token files"
expect 2 2 train tiny.yaml --set run.name=none --set data.task=tokens --set data.path=words.h5 --set data.valid_path=small.h5
says err 'number their tokens differently'
expect 2 2 train tiny.yaml --set run.name=none --set data.task=tokens --set data.path=cut.h5
says err 'it is torn or was changed'
expect 2 0 train tiny.yaml --set run.name=none --set data.task=tokens --set data.path=label.h5
says err 'use data.task listops'
expect 2 2 train tiny.yaml --set run.name=none --set data.task=fasta --set data.path=uneven.fa
says err 'uneven.fa:4: the lines of this record differ in length'
expect 2 0 train tiny.yaml --set run.name=none --set data.task=fasta --set data.documents=10
says err "records of task fasta end with token 0: leave it out"
expect 2 0 train tiny.yaml --set run.name=none --set data.task=fasta --set data.path=proteins.fa \
    --set 'model.attention={mechanism: performer}'
says err 'convert the file with longhaul prepare and use data.task tokens'
expect 2 0 plan tiny.yaml --set data.task=tokens --set data.path=words.h5
says err "key 'model.vocab' is missing: the token file says it"
expect 0 0 plan tiny.yaml --json --set data.task=tokens --set data.path=words.h5 --set model.vocab=300
finish
