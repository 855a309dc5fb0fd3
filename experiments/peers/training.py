"""The whole training step: Longhaul's decoder beside the same decoder in PyTorch."""

import functools

import ours
import theirs
import transformer

LENGTH, WINDOW, BLOCK, SEED = 8192, 512, 128, 11
MODEL = {"kind": "decoder", "layers": 12, "width": 512, "heads": 8, "mlp": "gelu", "mlp_width": 2048,
         "norm": "pre", "norm_kind": "layer", "position": "rotary", "tie_embeddings": True,
         "vocab": 256}
# label, attention, torch.compile, share of the rounds (the plain mask costs many times the work)
VARIANTS = [("PyTorch eager, window in blocks", "blocks", False, True),
            ("PyTorch torch.compile, window in blocks", "blocks", True, True),
            ("PyTorch eager, window as a mask", "mask", False, False)]
OTHER = "not the same computation"
LOSS, NORM = 2e-6, 2e-4  # relative, of float


def prepare(place, model):
    """The text and the checkpoint that both sides start from; returns the job of ours.train."""
    parameters = transformer.initial(transformer.Transformer(model, LENGTH, lambda: None), SEED)
    experiment = ours.yaml(model, {"mechanism": "sliding_window", "window": WINDOW})
    ours.write_checkpoint(place / "step.h5", parameters, experiment)
    text = place / "step.txt"
    ours.write_text(text, 12 * LENGTH + 1)
    return {"name": "step", "experiment": experiment, "task": "text", "text": text,
            "length": LENGTH, "optimizer": transformer.OPTIMIZER}


def specs(model, text):
    return [(label, {"peer": "step", "model": model, "n": LENGTH, "window": WINDOW, "block": BLOCK,
                     "attention": attention, "compile": compiled, "text": str(text), "seed": SEED},
             often) for label, attention, compiled, often in VARIANTS]


def same(metrics, answer):
    """Do losses and norms of the first steps agree? A sentence."""
    def furthest(mine, other):
        return max(abs(a - b) / abs(a) for a, b in zip(mine, other))

    loss = furthest([m["loss"] for m in metrics], answer["loss"])
    norm = furthest([m["grad_norm"] for m in metrics], answer["norm"])
    count = min(len(metrics), len(answer["loss"]))
    return loss <= LOSS and norm <= NORM, \
        f"{count} step{'s' if count > 1 else ''} from the same weights: loss within {loss:.0e}, " \
        f"gradient norm {norm:.0e}"


class Turns:
    """Blocks of steps in turn. A run of ours begins with a first step, which is not counted."""

    def __init__(self, program, place, job, threads):
        self.train = functools.partial(ours.train, program, place, job, threads)
        self.first = self.train(2)
        self.mine = []

    def own(self, steps):
        metrics = self.train(steps + 1)
        self.mine += [m["step_s"] for m in metrics[1:]]

    def other(self, worker, steps):
        """Their answer to the first samples of ours."""
        samples = [m["samples"][0] for m in self.first]
        return worker.ask({"do": "step", "samples": (samples * steps)[:steps]})


def start(turns, specs_wanted, options, say):
    """{label: (worker, how its first steps compare)}; those that cannot run: {label: reason}."""
    workers, failed = {}, {}
    for label, spec in specs_wanted:
        try:
            worker = theirs.Worker(spec, options.threads, SEED, quick=not options.plain)
            good, text = same(turns.first, turns.other(worker, len(turns.first)))
            say(f"{label}: {text}")
            if good:
                workers[label] = (worker, text)
            else:
                worker.close()
                failed[label] = f"{OTHER}: {text}"
        except theirs.Unable as reason:
            failed[label] = str(reason)
    return workers, failed


def once(turns, spec, options):
    """One step, its first: (seconds, how it compares)."""
    worker = theirs.Worker(spec, options.threads, SEED, quick=not options.plain)
    try:
        answer = turns.other(worker, 1)
    finally:
        worker.close()
    good, text = same(turns.first, answer)
    if not good:
        raise theirs.Unable(f"{OTHER}: {text}")
    return answer["seconds"], f"one step, its first; {text}"


def alternate(turns, workers, blocks):
    """{label: seconds of each step}; ours are in turns."""
    seconds = {label: [] for label in workers}
    for steps in blocks:
        turns.own(steps)
        for label, (worker, _) in workers.items():
            seconds[label] += turns.other(worker, steps)["seconds"]
    for worker, _ in workers.values():
        worker.close()
    return seconds


def measure(program, place, options, tools):
    """Rows of the table. tools: compare.py's functions row, absent, memory_of, say and say_row."""
    model = MODEL | ({"layers": 3} if options.quick else {})
    title = f"step, {model['layers']} layers"
    job = prepare(place, model)
    turns = Turns(program, place, job, options.threads)
    wanted = list(specs(model, job["text"]))
    workers, failed = start(turns, [w[:2] for w in wanted if w[2]], options, tools.say)
    seconds = alternate(turns, workers, (2, 1) if options.quick else (4, 3))
    rows = []
    for label, spec, often in wanted:
        try:
            if label in failed:
                raise theirs.Unable(failed[label])
            taken, note = (seconds[label], workers[label][1]) if often else \
                once(turns, spec, options)
            memory = tools.memory_of(spec, options.threads)
            rows.append(tools.row(title, label, [(None, s) for s in turns.mine[:len(taken)]],
                                  [(None, s) for s in taken],
                                  (turns.first[-1]["peak_bytes"], memory["peak"]), note))
        except theirs.Unable as reason:
            rows.append(tools.absent(title, label, str(reason)))
        tools.say_row(rows[-1])
    return rows
