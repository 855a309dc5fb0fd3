# Commands, options and experiment files that are wrong: exit code 2 and a message that helps, the same on one rank and
# on several, and nobody hangs.
. "$LH_SOURCE/tests/cli/lib.sh"

limit=20 # seconds

# --- what is right ---
expect 0 0 --version
same "version" "$(sed -E 's/[0-9]+\.[0-9]+\.[0-9]+/N/' out)" "longhaul N ($LH_PRECISION)"
expect 0 0 --help
for word in train eval bench '--resume' '--set' 'Exit codes'; do says out "$word"; done
expect 0 0 train --help
for word in base run: path length 8192 sliding_window; do
    says out "$word"
done
expect 0 0 eval --help
says out RUN_DIR
expect 0 0 bench --help
says out gflops_forward
expect 0 0 bench attention --help
says out gflops_forward
expect 0 0 convert --help
for word in '--kv-heads G' '--out NEW.h5' run.init; do says out "$word"; done

# --- what is wrong ---

# wrong TEXT ARGUMENTS...: exit code 2, nothing on standard output, the text on standard error
wrong() {
    local text=$1
    shift
    expect 2 0 "$@"
    same "standard output of longhaul $*" "$(cat out)" ''
    says err "$text"
}

# wrong_everywhere TEXT ARGUMENTS...: and the same on 3 ranks
wrong_everywhere() {
    wrong "$@"
    shift
    grep '^longhaul: error: ' err >err.1
    expect 2 3 "$@"
    same "standard output of longhaul $* on 3 ranks" "$(cat out)" ''
    grep '^longhaul: error: ' err | sed -E 's/rank [0-9]+: //' | sort -u >err.3
    same_file err.3 err.1
}

wrong_everywhere 'longhaul train FILE.yaml'
wrong "did you mean 'train'?" trian
wrong "unknown command '--resume'" --resume
wrong "did you mean '--help'?" help
wrong 'wants an experiment file' train
wrong_everywhere "unknown option '--resum'" train --resum tiny.yaml
wrong "unknown option '--resume'" eval --resume folder
wrong "takes one name" train a.yaml b.yaml
wrong_everywhere "cannot read 'nowhere.yaml'" train nowhere.yaml
wrong 'wants a run folder' eval
wrong_everywhere "'nowhere' is no run folder" eval nowhere
wrong_everywhere 'longhaul bench attention' bench
wrong "unknown option '--foo'" bench attention --foo

wrong "did you mean '--ranks'?" plan a.yaml --rank 4
wrong "--json takes no value, got '1'" plan a.yaml --json=1
wrong "did you mean '--draws'?" bench features --draw 3
wrong '--scale: expected a number from 0 to 100' bench features --scale=big

write_text text.txt 600
write_experiment tiny.yaml text.txt
wrong 'KEY=VALUE' train tiny.yaml --set
wrong 'expected --set section.key=value' train tiny.yaml --set length
wrong_everywhere "key 'data.lenght': unknown key; did you mean 'length'?" train tiny.yaml --set data.lenght=3
wrong "key 'data.length': expected an integer" train tiny.yaml --set data.length=many
wrong "key 'data.length'" train tiny.yaml --set data.length=0
for set in optimizer.eps=1e39 optimizer.eps=1e308 model.norm_eps=1e39 optimizer.lr=1e38 optimizer.clip=1e-300; do
    wrong "key '${set%=*}': expected a number" train tiny.yaml --set $set
    says err "got '${set#*=}', which single precision does not hold (0, and 1e-37 to 1e37)"
done
wrong "key 'data.batch': 3 is not a multiple" train tiny.yaml --set data.batch=3 --set train.accumulate=2

# an experiment that another program writes, after a while and in two pieces
expect 0 0 plan tiny.yaml
cp out planned
expect 0 0 plan <(sleep 0.2; head -c 100 tiny.yaml; sleep 0.2; tail -c +101 tiny.yaml)
same_file out planned

# commands that run alone do so, also under a launcher
expect 2 3 plan tiny.yaml
same "what a launched plan prints" "$(cat out)" ''
same "one message" "$(grep -c "'longhaul plan' runs alone, and a launcher started it 3 times: leave out mpirun or srun" err)" 1
expect 0 1 plan tiny.yaml

# a key that belongs elsewhere
wrong "key 'data.seed': unknown key; did you mean 'run.seed'?" train tiny.yaml --set data.seed=3
wrong "key 'layers': unknown key; did you mean 'model.layers'?" train tiny.yaml --set layers=3
wrong "it is a setting of mechanism 'sliding_window'" train tiny.yaml --set model.window=3
wrong "it is a setting of mechanism 'performer'" train tiny.yaml --set model.attention.features=8
wrong "expected {mechanism: full, settings...}" train tiny.yaml --set model.attention=full
wrong "key 'run.init': there is no checkpoint" train tiny.yaml --set run.init=nowhere.h5
mkdir -p some/run && : >some/run/config.yaml
wrong_everywhere "longhaul eval wants the folder of a run (run.output/run.name): cannot list" eval text.txt
: >empty.txt
wrong "key 'data.path': '$PWD/empty.txt' has 0 bytes" train tiny.yaml --set data.path=empty.txt
wrong "key 'data.valid_path': '$PWD/empty.txt' has 0 bytes: at least 2 are needed" train tiny.yaml --set data.valid_path=empty.txt
wrong_everywhere "'some' is no run folder, but holds some: give one of them, such as some/run" eval some

# a file is wrong at a place: line and column are named. file EXPRESSION: tiny.yaml, edited by sed
file() {
    sed -E "$1" tiny.yaml >wrong.yaml
}
file 's/width: 32/widht: 32/'
wrong_everywhere "wrong.yaml:6:3: key 'model.widht'" train wrong.yaml
says err "did you mean 'width'?"
file 's/layers: 2/layers: two/'
wrong "wrong.yaml:5:11: key 'model.layers': expected an integer" train wrong.yaml
file 's/seed: 3/seed: -3/'
wrong "wrong.yaml:1:25: key 'run.seed'" train wrong.yaml
file 's/sliding_window, window/sliding_windows, window/'
wrong "did you mean 'sliding_window'?" train wrong.yaml
says err 'wrong.yaml:8:26:'
file '/layers:/d'
wrong "key 'model.layers'" train wrong.yaml
says err 'required'
file 's/path: text.txt, //'
wrong "key 'data.path' is required" train wrong.yaml
file 's/^model:/  model:/'
wrong 'wrong.yaml:' train wrong.yaml
file 's/heads: 2/heads: 3/'
wrong "key 'model.heads'" train wrong.yaml
file 's/^model:/model:\n  kind: encoder/'
wrong "text needs model.kind decoder" train wrong.yaml
file 's/^  layers/\tlayers/'
wrong "wrong.yaml:5:1: not valid YAML: a tab where YAML wants blanks" train wrong.yaml
file '1i base: nowhere.yaml'
wrong "wrong.yaml:1:7: key 'base'" train wrong.yaml
file '1i base: wrong.yaml'
wrong 'in a circle' train wrong.yaml
file '1i modle: {}'
wrong "did you mean 'model'?" train wrong.yaml
: >wrong.yaml
wrong 'wrong.yaml' train wrong.yaml
head -c 4096 "$LONGHAUL" >wrong.yaml
wrong 'wrong.yaml' train wrong.yaml

missing runs # nothing of this was a run

# --- convert: from a run folder, by one process, and how training goes on ---
wrong 'wants a checkpoint or run folder' convert
wrong 'wants the new number of key/value heads' convert text.txt --out new.h5
wrong 'wants the name of the new file' convert text.txt --kv-heads 1
wrong "--kv-heads: expected an integer from 1 to 65536, got 'two'" convert text.txt --kv-heads two --out new.h5
wrong "--kv-heads: expected an integer from 1" convert text.txt --kv-heads=0 --out new.h5
wrong '--out wants the file to make' convert text.txt --kv-heads 1 --out
wrong "unknown option '--kv-head'" convert text.txt --kv-head 1 --out new.h5
wrong "'longhaul convert' takes one name" convert text.txt tiny.yaml --kv-heads 1 --out new.h5
wrong "there is no checkpoint or run folder 'nowhere'" convert nowhere --kv-heads 1 --out new.h5
wrong "'some' is a folder without checkpoints: name the folder of a run" convert some --kv-heads 1 --out new.h5
wrong "'text.txt' is not a Longhaul checkpoint" convert text.txt --kv-heads 1 --out new.h5
train 2 full --set model.heads=4 --set checkpoint.every=2 --set checkpoint.keep=9
wrong 'give a number that divides 4' convert runs/full --kv-heads 3 --out new.h5
wrong 'give a number that divides 4' convert runs/full --kv-heads 8 --out new.h5
wrong "'text.txt' exists already" convert runs/full --kv-heads 2 --out text.txt
expect 1 0 convert runs/full --kv-heads 2 --out nowhere/new.h5
says err "cannot create 'nowhere/new.h5.tmp'"
missing new.h5 new.h5.tmp
# the newest is damaged: the one before it is taken
head -c 3000 "$(checkpoint runs/full 4)" >"$(checkpoint runs/full 5)"
# a copy under another step's name is passed over, and is not what it says
cp "$(checkpoint runs/full 4)" "$(checkpoint runs/full 7)"
expect 1 0 inspect "$(checkpoint runs/full 7)"
says err "step-00000007.h5' is of step 4"
expect 0 0 convert runs/full --kv-heads=4 --out=copied.h5
says err "step-00000007.h5' is of step 4"
rm "$(checkpoint runs/full 7)"
expect 0 0 convert runs/full --kv-heads=4 --out=same.h5
says err 'passing over a damaged checkpoint'
expect 0 0 convert "$(checkpoint runs/full 4)" --kv-heads 2 --out new.h5
says out 'new.h5: 4 key/value heads merged into 2, in 8 of '
# as many heads: the weights of the run itself; fewer: others; and what run.init says when they do not fit
again="--set model.heads=4 --set schedule.steps=2 --set run.seed=9"
train 2 from-run $again --set run.init="$(checkpoint runs/full 4)"
train 2 from-same $again --set run.init=same.h5
train 2 from-new $again --set run.init=new.h5 --set model.kv_heads=2
same "training from as many heads" "$(results runs/from-same)" "$(results runs/from-run)"
holds "fewer heads are another model" "$(metric runs/from-new train 1 loss) != $(metric runs/from-run train 1 loss)"
expect 2 2 train tiny.yaml $again --set run.name=misfit --set run.init=same.h5 --set model.kv_heads=2
says err "the file has 4 key/value heads, the model 2 (longhaul convert $PWD/same.h5 --kv-heads 2 --out NEW.h5"
says err 'layer.1.attention.value.weight'
expect 2 1 train tiny.yaml $again --set run.name=misfit --set run.init=new.h5
says err 'the file has 2 key/value heads, the model 4 (give the model those of the file'

# a pipe that nobody writes to is not waited for without end
if [ -n "${LH_ALL:-}" ]; then
    mkfifo nobody
    wrong "'nobody' is a pipe to which nobody has written for 10 seconds" plan nobody
fi
finish
