"""Hugging Face model folders to Longhaul checkpoints, and back.

    python3 huggingface.py to-longhaul FOLDER OUT.h5 [--length N] [--window W] [--global none|first]
                                                     [--head lm|class|pooler|none] [--classes C]
    python3 huggingface.py from-longhaul CHECKPOINT.h5 FOLDER [--like FOLDER_OR_CHECKPOINT]

Longformer, RoBERTa and Mistral, with config.json and safetensors. to-longhaul also writes OUT.yaml, an
experiment whose run.init is the checkpoint: add data.path. --length N makes a RoBERTa of 512 positions
a Longformer of N by copying its positions (Beltagy et al. 2020, section 5) with windows of W (512).
--classes C gives an encoder a new classifier, to be trained.

What the model of the experiment file does not use (another head, the global projections with --global
none) stays in the checkpoint for the way back, which restores every name and every bit. Checkpoints
that runs have written know nothing of Hugging Face: --like names the folder, or the imported
checkpoint, whose model they train. Needs numpy and h5py (requirements.txt).
"""

import argparse
import json
import pathlib
import sys

try:
    import h5py  # noqa: F401: checkpoint_file needs it
    import numpy as np
except ImportError as missing:
    sys.exit(f"huggingface.py: {missing.name} is not installed: "
             f"pip install -r {pathlib.Path(__file__).parent / 'requirements.txt'}")

import checkpoint_file
import models
from models import POSITION, TABLE, UNUSED
from safetensors_folder import Folder, Mistake, Tensor, narrowed, need, read_folder, widened, \
    write_folder


# --- the experiment file -------------------------------------------------------------------------


def word(x):
    if isinstance(x, bool):
        return str(x).lower()
    if isinstance(x, float):
        text = repr(x)
        return text if "." in text or "e" not in text else text.replace("e", ".0e")
    return str(x)


def quoted(text):
    """A string that YAML reads as it is, whatever it holds."""
    return json.dumps(text, ensure_ascii=False)


def experiment(family):
    lines = ["data:", f"  task: {family.task()}", f"  length: {family.length()}", "model:"]
    lines += [f"  {key}: {word(x)}" for key, x in family.settings().items()]
    return "\n".join(lines + [f"  attention: {family.attention()}"]) + "\n"


def write_experiment(path, source, checkpoint, text, head):
    more = {"lm": "Add what it learns from: --set data.path=...",
            "class": "Add what it learns from: --set data.task=... with one class for each sequence"}
    more = more.get(head, "Its head has no loss: longhaul plan takes it")
    head = (f"# Made from {source}. {more}\n"
            f"run: {{name: {quoted(path.stem)}, init: {quoted(str(checkpoint.resolve()))}}}\n")
    path.write_text(head + text)


# --- to Longhaul ---------------------------------------------------------------------------------


def parameters_of(folder, family):
    """({our name: array}, {their name: raw} that the model does not use)."""
    ours, left, names = {}, {}, family.names()
    for name, t in folder.tensors.items():
        mine = names.get(name)
        if mine is None:
            left[name] = t.raw
        elif mine == POSITION:
            ours[UNUSED] = widened(t.dtype, t.raw[:family.offset()])
            ours[TABLE] = widened(t.dtype, t.raw[family.offset():])
        elif mine in ours:
            same = np.array_equal(ours[mine], widened(t.dtype, t.raw))
            need(same, f"'{name}' should share its values with another tensor, and differs")
        else:
            ours[mine] = widened(t.dtype, t.raw)
    missing = set(names.values()) - set(ours) - {POSITION}
    need(not missing, f"the folder lacks tensors for {', '.join(sorted(missing))}")
    return ours, left


def to_longhaul(a):
    out = pathlib.Path(a.out)
    need(out.suffix == ".h5", f"'{out}': a checkpoint's name ends in .h5")
    folder = read_folder(a.folder)
    if a.length is not None:
        folder = models.extended(folder, a.length, a.window)
    if a.classes is not None:
        need(a.head in (None, "class"), f"--classes makes a new head class: leave out --head {a.head}")
        folder = models.with_classes(folder, a.classes)
    family = models.family(folder, a.head, a.far)
    ours, left = parameters_of(folder, family)
    record = folder.layout() | {"head": family.head, "far": a.far}
    text = experiment(family)
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint_file.write(out, ours, text, json.dumps(record), left)
    write_experiment(out.with_suffix(".yaml"), a.folder, out, text, family.head)
    count = sum(x.size for x in ours.values())
    print(f"{out}: {len(ours)} tensors, {count} parameters; {out.with_suffix('.yaml')}: the experiment")
    if left:
        print(f"not used by this model, kept for the way back: {', '.join(sorted(left))}")


# --- from Longhaul -------------------------------------------------------------------------------


def record_of(checkpoint, like):
    """The record of how a folder was laid out, and what its model left out."""
    if like is not None and pathlib.Path(like).is_dir():
        folder = read_folder(like)
        record = folder.layout() | {"head": None, "far": "first"}
        return record, {name: t.raw for name, t in folder.tensors.items()}
    if like is not None:
        with checkpoint_file.Checkpoint(like) as other:
            need(other.record() is not None, f"--like: '{like}' was not made by to-longhaul")
            return json.loads(other.record()), other.left()
    need(checkpoint.record() is not None, f"'{checkpoint.path}' does not say which model it was: give "
         "--like FOLDER, or --like the checkpoint that to-longhaul made")
    return json.loads(checkpoint.record()), checkpoint.left()


def skeleton(record, left):
    """The folder as far as names, types and files go; its tensors are those left out."""
    names = [n for part in record["files"].values() for n in part["names"]]
    empty = np.zeros(1, dtype=np.float32)
    tensors = {n: Tensor(record["dtypes"][n], left.get(n, empty)) for n in names}
    return Folder(record["config"], record["files"], record["index"], tensors)


def fetch(checkpoint, family, mine):
    if mine != POSITION:
        return checkpoint.parameter(mine)
    return np.concatenate([checkpoint.parameter(UNUSED), checkpoint.parameter(TABLE)]) \
        if family.offset() > 0 else checkpoint.parameter(TABLE)


def restore(checkpoint, folder, family):
    """Fills the folder's tensors; returns those that could not keep their type."""
    names, wider = family.names(), []
    for name, t in folder.tensors.items():
        if name not in names:
            continue
        dtype, raw = narrowed(t.dtype, fetch(checkpoint, family, names[name]))
        if dtype != t.dtype:
            wider.append(name)
        folder.tensors[name] = Tensor(dtype, raw)
    return wider


def check_all_used(checkpoint, family):
    known = set(family.names().values()) | {UNUSED, TABLE}
    more = sorted(set(checkpoint.names()) - known)
    need(not more, f"'{checkpoint.path}' has parameters that the folder has no place for: "
         + ", ".join(more))


def from_longhaul(a):
    with checkpoint_file.Checkpoint(a.checkpoint) as checkpoint:
        record, left = record_of(checkpoint, a.like)
        folder = skeleton(record, left)
        far = record["far"]
        if a.like is not None:  # the run may have another choice of global tokens
            far = "first" if any("_global" in n for n in checkpoint.names()) else "none"
        tied = "head.weight" not in checkpoint.names()
        family = models.family(folder, record["head"], far, tied)
        check_all_used(checkpoint, family)
        wider = restore(checkpoint, folder, family)
        write_folder(a.folder, folder)
    print(f"{a.folder}: {len(folder.tensors)} tensors")
    if wider:
        print(f"{len(wider)} of them are F32 now, since their type does not hold what was learned")


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     epilog="See the beginning of this file.")
    commands = parser.add_subparsers(dest="command", required=True)
    to = commands.add_parser("to-longhaul", help="a model folder becomes a checkpoint")
    to.add_argument("folder")
    to.add_argument("out")
    to.add_argument("--length", type=int, help="positions of a RoBERTa made longer by copying")
    to.add_argument("--window", type=int, default=512, help="its attention_window (default: 512)")
    to.add_argument("--global", dest="far", choices=["none", "first"], default="first",
                    help="global tokens of a Longformer (default: first)")
    to.add_argument("--head", choices=["lm", "class", "pooler", "none"],
                    help="default: the one that the folder has")
    to.add_argument("--classes", type=int, help="an encoder gets a new classifier of so many classes")
    back = commands.add_parser("from-longhaul", help="a checkpoint becomes a model folder")
    back.add_argument("checkpoint")
    back.add_argument("folder")
    back.add_argument("--like", help="the folder, or the imported checkpoint, of the same model")
    a = parser.parse_args(words)
    try:
        (to_longhaul if a.command == "to-longhaul" else from_longhaul)(a)
    except Mistake as error:
        print(f"huggingface.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
