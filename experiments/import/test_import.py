"""Checks of the importer that need transformers (and torch); the C test `import` needs neither.

    python3 test_import.py [PATH/TO/longhaul]

Folders with random weights make the way to Longhaul and back and must be the same, bit by bit; with
the program given, it evaluates and trains imported models, and must say what transformers says.
Packages: tests/golden/requirements.txt.
"""

import contextlib
import io
import json
import math
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers

import huggingface
import safetensors_folder

BERT = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "max_position_embeddings": 34, "pad_token_id": 1,
        "type_vocab_size": 2}
MISTRAL = {"vocab_size": 256, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
           "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 40, "sliding_window": 20,
           "rope_theta": 1000.0, "max_position_embeddings": 96}
WORDS = 60  # of the made text
failed = []


def check(name, good, figure=""):
    print(f"{'ok  ' if good else 'FAIL'} {name} {figure}".rstrip())
    if not good:
        failed.append(name)


def run(*words):
    """huggingface.py; its message where it refuses."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = huggingface.main([str(w) for w in words])
    return err.getvalue() if code else ""


def save(kind, config, place, **more):
    torch.manual_seed(3)
    model = kind(config).eval()
    for p in model.parameters():
        p.data = (p.data + 0.1 * torch.randn_like(p)).to(p.dtype)
    model = model.to(more.pop("dtype", torch.float32))
    model.save_pretrained(place, **more)
    return model


# --- there and back ------------------------------------------------------------------------------


def same_folder(a, b):
    x, y = safetensors_folder.read_folder(a), safetensors_folder.read_folder(b)
    return x.config_text == y.config_text and list(x.tensors) == list(y.tensors) and \
        x.files == y.files and all(
            t.dtype == y.tensors[n].dtype and t.raw.tobytes() == y.tensors[n].raw.tobytes()
            and t.raw.shape == y.tensors[n].raw.shape for n, t in x.tensors.items())


def round_trip(name, kind, config, place, options=(), **more):
    folder, h5, back = place / name, place / f"{name}.h5", place / f"{name}.back"
    save(kind, config, folder, **more)
    said = run("to-longhaul", folder, h5, *options) or run("from-longhaul", h5, back)
    check(f"{name}: there and back", not said and same_folder(folder, back), said.strip())
    model, again = (kind.from_pretrained(p).eval() for p in (folder, back))
    tokens = torch.arange(2, 22)[None]  # a multiple of all windows, as the package wants
    with torch.no_grad():
        check(f"{name}: transformers computes the same", torch.equal(model(tokens)[0],
                                                                     again(tokens)[0]))


def round_trips(place):
    long = transformers.LongformerConfig(**BERT, attention_window=[4, 10], num_labels=3)
    roberta = transformers.RobertaConfig(**BERT)
    mistral = transformers.MistralConfig(**MISTRAL)
    round_trip("longformer", transformers.LongformerModel, long, place)
    round_trip("masked", transformers.LongformerForMaskedLM, long, place, ("--global", "none"))
    round_trip("classes", transformers.LongformerForSequenceClassification, long, place)
    round_trip("roberta", transformers.RobertaForMaskedLM, roberta, place)
    round_trip("encoder", transformers.RobertaModel, roberta, place, ("--head", "none"))
    round_trip("mistral", transformers.MistralForCausalLM, mistral, place)
    round_trip("hidden", transformers.MistralModel, mistral, place)
    round_trip("bf16", transformers.MistralForCausalLM, mistral, place, dtype=torch.bfloat16)
    round_trip("half", transformers.LongformerModel, long, place, dtype=torch.float16)
    round_trip("shards", transformers.MistralForCausalLM, mistral, place, max_shard_size="20KB")
    tied = transformers.MistralConfig(**MISTRAL, tie_word_embeddings=True)
    round_trip("tied", transformers.MistralForCausalLM, tied, place)
    untied = transformers.RobertaConfig(**BERT, tie_word_embeddings=False)
    round_trip("untied", transformers.RobertaForMaskedLM, untied, place)


# --- mistakes ------------------------------------------------------------------------------------


def changed(source, place, **values):
    shutil.copytree(source, place)
    config = json.loads((place / "config.json").read_text()) | values
    (place / "config.json").write_text(json.dumps(config))
    return place


def mistakes(place):
    out, good = place / "out.h5", place / "longformer"
    cases = {
        "no folder": ((place / "none", out), "is no folder"),
        "no weights": ((changed(place / "classes", place / "empty"), out), "has neither"),
        "another model": ((changed(good, place / "bert", model_type="bert"), out),
                          "'model_type' is \"bert\"; supported: longformer, mistral, roberta"),
        "another activation": ((changed(good, place / "relu", hidden_act="relu"), out),
                               "'hidden_act' is \"relu\"; supported: \"gelu\""),
        "scaled rotary": ((changed(place / "mistral", place / "yarn", rope_scaling={"type": "yarn"}),
                           out), "'rope_scaling' is {\"type\": \"yarn\"}; supported: null"),
        "no such head": ((good, out, "--head", "class"), "no 'classifier.dense.weight'"),
        "shorter": ((place / "roberta", out, "--length", 16), "has 32 positions already"),
        "no table": ((place / "mistral", out, "--length", 512), "has no table of positions"),
        "torn": ((changed(good, place / "torn"), out), "is torn"),
        "another suffix": ((good, place / "out.bin"), "ends in .h5"),
    }
    (place / "empty" / "model.safetensors").unlink()
    torn = place / "torn" / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-100])
    for name, (words, text) in cases.items():
        said = run("to-longhaul", *words)
        check(f"mistake: {name}", text in said and said.count("\n") == 1, said.strip())
    data = bytearray((place / "mistral.h5").read_bytes())
    data[-2000] ^= 1
    (place / "bad.h5").write_bytes(data)
    said = run("from-longhaul", place / "bad.h5", place / "bad")
    check("mistake: a damaged checkpoint", "is damaged" in said, said.strip())
    said = run("from-longhaul", place / "mistral.h5", good)
    check("mistake: a folder that holds a model", "already holds a model" in said, said.strip())


# --- the program ---------------------------------------------------------------------------------


def make_text(path):
    """Words in a fixed order of pairs: something that neighbours tell."""
    rng = np.random.default_rng(5)
    words = ["".join(rng.choice(list("abcdefgh"), rng.integers(3, 7))) for _ in range(WORDS)]
    follows, at, out = rng.integers(0, WORDS, (WORDS, 2)), 0, []
    for _ in range(12000):
        out.append(words[at])
        at = follows[at, rng.integers(0, 2)]
    path.write_text(" ".join(out))
    return path


class Program:
    def __init__(self, path, place):
        self.path, self.place = pathlib.Path(path).resolve(), place

    def say(self, *words):
        done = subprocess.run([self.path, *map(str, words)], cwd=self.place, text=True,
                              capture_output=True, check=False)
        if done.returncode:
            raise SystemExit(f"longhaul {words[0]}: {done.stderr}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def train(self, experiment, name, *settings):
        words = [w for s in settings for w in ("--set", s)]
        self.say("train", experiment, "--set", f"run.name={name}", *words)
        return sorted((self.place / "runs" / name / "checkpoints").glob("*.h5"))[-1]

    def evaluate(self, checkpoint, experiment, name, *settings):
        """Loss of a checkpoint as it is: a run folder of which it is the only step."""
        run_folder = self.place / "runs" / name
        (run_folder / "checkpoints").mkdir(parents=True)
        shutil.copy(checkpoint, run_folder / "checkpoints" / "step-00000000.h5")
        shutil.copy(experiment, run_folder / "config.yaml")
        words = [w for s in settings for w in ("--set", s)]
        return self.say("eval", run_folder, *words)[0]["loss"]


def causal_loss(folder, text, length):
    """Over the validation part, as experiments/task.h cuts it."""
    model = transformers.MistralForCausalLM.from_pretrained(folder).eval()
    data = np.frombuffer(text.read_bytes(), dtype=np.uint8).astype(np.int64)
    held = math.ceil(len(data) * 0.05)
    part, total = torch.tensor(data[len(data) - held - 1:]), 0.0
    with torch.no_grad():
        for at in range(0, held, length):
            inputs, labels = part[at:at + length], part[at + 1:at + length + 1]
            logits = model(inputs[None, :len(labels)]).logits[0]
            total += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
    return total / held


def decoder(program, place, text):
    settings = [f"data.path={text}", "train.eval_tokens=0", "schedule.warmup=0"]
    h5, yaml = place / "mistral.h5", place / "mistral.yaml"
    ours = program.evaluate(h5, yaml, "as-imported", *settings)
    theirs = causal_loss(place / "mistral", text, 96)
    check("Mistral: loss as imported", abs(ours - theirs) < 1e-5 * theirs, f"{ours:.7f} {theirs:.7f}")
    last = program.train(yaml, "trained", *settings, "schedule.steps=30", "data.batch=4",
                         "checkpoint.every=30", "train.eval_every=0", "optimizer.lr=3e-3")
    said = run("from-longhaul", last, place / "trained", "--like", place / "mistral")
    check("Mistral: a run's checkpoint goes back", not said, said.strip())
    ours = program.evaluate(last, yaml, "as-trained", *settings)
    theirs = causal_loss(place / "trained", text, 96)
    check("Mistral: loss after 30 steps", abs(ours - theirs) < 1e-5 * theirs,
          f"{ours:.7f} {theirs:.7f}")
    said = run("from-longhaul", last, place / "other")
    check("mistake: a run's checkpoint alone", "give --like FOLDER" in said, said.strip())


def extension(program, place, text):
    """RoBERTa of 64 positions, trained, as a Longformer of 256."""
    config = transformers.RobertaConfig(**BERT | {"vocab_size": 257, "hidden_size": 64,
                                                  "num_attention_heads": 4, "intermediate_size": 128,
                                                  "max_position_embeddings": 66,
                                                  "layer_norm_eps": 1e-5})
    save(transformers.RobertaForMaskedLM, config, place / "short")
    run("to-longhaul", place / "short", place / "short.h5")
    settings = [f"data.path={text}", "train.eval_tokens=0", "data.batch=16", "model.dropout=0"]
    last = program.train(place / "short.yaml", "short", *settings, "schedule.steps=600",
                         "checkpoint.every=600", "train.eval_every=0", "optimizer.lr=3e-3")
    run("from-longhaul", last, place / "learned", "--like", place / "short")
    said = run("to-longhaul", place / "learned", place / "long.h5", "--length", 256, "--window", 64,
               "--global", "none")
    said = said or run("from-longhaul", place / "long.h5", place / "long")
    check("extended: there and back", not said, said.strip())
    old = transformers.RobertaForMaskedLM.from_pretrained(place / "learned").roberta
    new = transformers.LongformerForMaskedLM.from_pretrained(place / "long").longformer
    a, b = (m.embeddings.position_embeddings.weight for m in (old, new))
    check("extended: positions are copies", b.shape[0] == 258 and torch.equal(b[:2], a[:2]) and all(
        torch.equal(b[2 + 64 * i:66 + 64 * i], a[2:66]) for i in range(4)))
    short = program.evaluate(last, place / "short.yaml", "at-64", *settings)
    long = program.evaluate(place / "long.h5", place / "long.yaml", "at-256", *settings)
    fresh = program.evaluate(place / "short.h5", place / "short.yaml", "fresh", *settings)
    check("extended: loss before training is close", abs(long - short) < 0.25 * (fresh - short),
          f"RoBERTa at 64: {short:.4f}, Longformer at 256: {long:.4f}, untrained: {fresh:.4f}")


def main():
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as name:
        place = pathlib.Path(name)
        round_trips(place)
        mistakes(place)
        if len(sys.argv) > 1:
            program, text = Program(sys.argv[1], place), make_text(place / "text.txt")
            decoder(program, place, text)
            extension(program, place, text)
        else:
            print("the program was not given: what it computes is not compared")
    print(f"{len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
