"""Longhaul's side: the program is run, and what it prints is read."""

import json
import pathlib
import subprocess
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "import"))


class Failed(Exception):
    """The program ended with an error, said in one line."""


def run(words):
    """Its standard output."""
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise Failed(f"{' '.join(map(str, words[:3]))}: {lines[-1]}")
    return done.stdout


def attention(program, case, threads, seed):
    """One object of `longhaul bench attention`: one measured repeat after its warm-up."""
    words = [program, "bench", "attention", "--mechanism", case["mechanism"], "--n", case["n"],
             "--heads", case["heads"], "--head-dim", case["head_dim"], "--threads", threads,
             "--repeats", 1, "--seed", seed, "--causal", int(case["causal"])]
    for setting in ("window", "features", "k"):
        if setting in case:
            words += ["--set", f"{setting}={case[setting]}"]
    return json.loads(run(words))


def yaml(model, attention_settings):
    lines = [f"  {key}: {str(value).lower()}" for key, value in model.items()]
    inner = ", ".join(f"{key}: {value}" for key, value in attention_settings.items())
    return "\n".join(["model:"] + lines + [f"  attention: {{{inner}}}"]) + "\n"


def write_text(path, size):
    """Bytes that are worth learning: 40 of them, some more frequent than others."""
    rng = np.random.default_rng(5)
    chance = 1.0 / np.arange(1, 41)
    letters = rng.choice(40, size, p=chance / chance.sum())
    path.write_bytes((letters + 65).astype(np.uint8).tobytes())


def write_checkpoint(path, parameters, experiment):
    import checkpoint_file
    checkpoint_file.write(path, parameters, experiment, "{}", {})


def train(program, place, job, threads, steps):
    """Metrics of the first steps: a list of objects. job: {experiment, task, length, optimizer}."""
    number = sum(1 for _ in place.glob("run-*"))
    file = place / f"experiment-{job['name']}.yaml"
    o = job["optimizer"]
    file.write_text(
        f"run: {{name: run-{number}, seed: 1, output: {place}, init: {place / job['name']}.h5}}\n"
        f"data: {{task: {job['task']}, path: {job['text']}, length: {job['length']}, batch: 1, "
        f"valid_fraction: 0}}\n{job['experiment']}"
        f"optimizer: {{kind: adamw, lr: {o['lr']:.1e}, betas: [{o['betas'][0]}, {o['betas'][1]}], "
        f"eps: {o['eps']:.1e}, weight_decay: {o['weight_decay']}, clip: {o['clip']}}}\n"
        f"schedule: {{kind: constant, warmup: 0, steps: {steps}}}\n"
        "train: {log_every: 1, eval_every: 0, recompute: none}\n"
        f"checkpoint: {{every: 0}}\ndevice: {{threads: {threads}}}\n")
    run([program, "train", file])
    metrics = (place / f"run-{number}" / "metrics.jsonl").read_text().splitlines()
    return [m for m in map(json.loads, metrics) if m["event"] == "train"]
