"""Longhaul beside other implementations: the same work, the same shapes and number of threads, in
the same minutes. Prints one table (markdown) on standard output, progress on standard error.

    pip install -r requirements.txt
    python3 compare.py PATH/TO/longhaul [--threads 1] [--quick] [--plain] [--only WORD] [--json FILE]

What is measured: forward, and forward + backward, of attention; whole training steps of a decoder.
Ours and each of theirs take turns, one measurement each, on fresh random inputs, 7 rounds after a
warm-up (--quick: 3, and a decoder of 3 layers). Times are medians; a ratio is the median over rounds
of theirs / ours, so above 1 means that ours is faster. Memory is measured apart. Before anything is
timed both sides train the same small model from the same weights and must agree on loss and
gradient; so must the steps that are timed. A package that is not installed is said to be missing.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time

try:
    import numpy  # noqa: F401
    import torch
except ImportError as absent:
    sys.exit(f"compare.py: {absent.name} is not installed: "
             f"pip install -r {pathlib.Path(__file__).parent / 'requirements.txt'}")

import checks
import ours
import theirs
import training

MIB = 1024 * 1024


def say(text):
    print(f"compare: {text}", file=sys.stderr, flush=True)


# --- attention -----------------------------------------------------------------------------------


def cases():
    """What is measured: our mechanism, and who does the same."""
    def case(title, mechanism, n, causal, peers, **settings):
        return {"title": title, "mechanism": mechanism, "n": n, "causal": causal, "heads": 2,
                "head_dim": 64, "peers": peers} | settings

    sdpa, flex = ("PyTorch SDPA", "sdpa"), ("FlexAttention, compiled", "flex")
    blocks = ("PyTorch SDPA over blocks", "blocks")
    local = ("local-attention", "local")
    performer = ("performer-pytorch FastAttention", "performer")
    return [
        case("full", "full", 8192, False, [sdpa, flex]),
        case("full, causal", "full", 8192, True, [sdpa, flex]),
        case("window 256", "sliding_window", 32768, False,
             [("HF LongformerSelfAttention", "longformer"), blocks, flex, local], window=256),
        case("window 256, causal", "sliding_window", 32768, True, [blocks, flex, local], window=256),
        case("window 512, causal", "sliding_window", 32768, True, [blocks], window=512),
        case("performer 256", "performer", 32768, False, [performer], features=256),
        case("performer 256, causal", "performer", 4096, True, [performer], features=256),
        case("linformer 256", "linformer", 32768, False, [("linformer", "linformer")], k=256),
    ]


def spec_of(case, kind):
    return {k: v for k, v in case.items() if k not in ("peers", "title", "mechanism")} | {"peer": kind}


def memory_of(spec, threads):
    try:
        return theirs.memory(spec, threads, 1)
    except (theirs.Unable, OSError) as failure:
        say(f"memory of {spec['peer']}: {failure}")
        return {"peak": None}


def row(title, peer, mine, other, memory, note):
    """mine, other: a list per round of (forward, forward + backward or None); a step has only the
    second. memory: (ours, theirs) in bytes."""
    def middle(values):
        return statistics.median(values) if None not in values else None

    result = {"case": title, "peer": peer, "note": note, "rounds": len(mine),
              "ours_peak_bytes": memory[0], "theirs_peak_bytes": memory[1]}
    for i, part in enumerate(("forward", "both")):
        pairs = [(a[i], b[i]) for a, b in zip(mine, other)]
        for who, side in (("ours", 0), ("theirs", 1)):
            result[f"{who}_{part}_s"] = middle([p[side] for p in pairs])
        missing = any(None in p for p in pairs)
        result[f"ratio_{part}"] = None if missing else middle([p[1] / p[0] for p in pairs])
    return result


def absent(title, peer, reason):
    return {"case": title, "peer": peer, "note": reason, "rounds": 0}


def peer_rows(case, label, mine, other, peak, memory):
    """One row; where projections are inside, one for the whole and one without them."""
    def times(answers, taken):
        return [(a["forward"] - taken * a["projections"][0],
                 a["backward"] and a["forward"] + a["backward"] - taken * sum(a["projections"]))
                for a in answers]

    memory = (peak, memory["peak"])
    if "projections" in other[0]:
        return [row(case["title"], label, mine, times(other, 1), memory,
                    "without its projections (timed alone, subtracted)"),
                row(case["title"], label + ", whole", mine, times(other, 0), memory,
                    "theirs with projections, ours without")]
    for a in other:
        a["projections"] = (0.0, 0.0)
    note = ("forward only (no backward pass on CPU), its memory too" if other[0]["backward"] is None
            else "")
    return [row(case["title"], label, mine, times(other, 0), memory, note)]


def start(case, options):
    """({label: worker}, rows of those that cannot run)."""
    workers, rows = {}, []
    for label, kind in case["peers"]:
        try:
            workers[label] = theirs.Worker(spec_of(case, kind), options.threads, 1,
                                           quick=not options.plain)
        except theirs.Unable as reason:
            rows.append(absent(case["title"], label, str(reason)))
    return workers, rows


def alternate(program, case, options, workers):
    """(what ours said in each round, {label: what theirs said}); a worker that dies is taken out of
    workers, and its label has the reason."""
    mine, other = [], {label: [] for label in workers}
    for i in range(options.rounds if workers else 0):
        mine.append(ours.attention(program, case, options.threads, i + 1))
        for label in list(workers):
            try:
                other[label].append(workers[label].ask({"do": "time"}))
            except theirs.Unable as reason:
                workers.pop(label).close()
                other[label] = str(reason)
    return mine, other


def measure(program, case, options):
    """The rows of one case, and both sides' rates of a matrix product."""
    workers, rows = start(case, options)
    said, other = alternate(program, case, options, workers)
    mine = [(a["forward_s"], a["forward_s"] + a["backward_s"]) for a in said]
    rates = {"ours": [a["gemm_gflops"] for a in said],
             "theirs": [a["gemm"] for label in workers for a in other[label]]}
    kinds = dict(case["peers"])
    rows += [absent(case["title"], label, x) for label, x in other.items() if isinstance(x, str)]
    for label, worker in workers.items():
        worker.close()
        memory = memory_of(spec_of(case, kinds[label]), options.threads)
        found = peer_rows(case, label, mine, other[label], said[0]["peak_bytes"], memory)
        if worker.answer["block"]:
            found[0]["note"] = f"blocks of {worker.answer['block']}, the quickest of 64, 128, 256"
        rows += found
    for r in rows:
        say_row(r)
    return rows, rates


# --- the report ----------------------------------------------------------------------------------


def seconds(x):
    return "-" if x is None else f"{x:.4f}" if x < 1 else f"{x:.2f}"


def ratio(x):
    return "-" if x is None else f"{x:.2f}"


def mebibytes(x):
    return "-" if x is None else f"{x / MIB:.1f}"


def say_row(r):
    if r["rounds"] == 0:
        say(f"{r['case']}, {r['peer']}: {r['note']}")
        return
    say(f"{r['case']}, {r['peer']}: ratio forward {ratio(r.get('ratio_forward'))}, forward + backward "
        f"{ratio(r.get('ratio_both'))}, MiB {mebibytes(r.get('ours_peak_bytes'))} and "
        f"{mebibytes(r.get('theirs_peak_bytes'))}")


def table(rows):
    print("| case | theirs | ours f s | theirs f s | ratio f | ours f+b s | theirs f+b s | ratio f+b "
          "| ours MiB | theirs MiB | note |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        cells = [r["case"], r["peer"]]
        for part in ("forward", "both"):
            cells += [seconds(r.get(f"ours_{part}_s")), seconds(r.get(f"theirs_{part}_s")),
                      ratio(r.get(f"ratio_{part}"))]
        cells += [mebibytes(r.get("ours_peak_bytes")), mebibytes(r.get("theirs_peak_bytes")),
                  r["note"]]
        print("| " + " | ".join(cells) + " |")


def wanted_ratio(r):
    if r["case"].startswith("step"):
        return 0.9
    return 5.0 if r["peer"].startswith("HF ") else 1.0


def summary(rows):
    """Where somebody else is faster or smaller than is wanted of us."""
    lines = []
    for r in rows:
        name, step = f"- {r['case']}, {r['peer']}", r["case"].startswith("step")
        if r["rounds"] == 0:
            lines.append(f"{name}: not measured: {r['note']}")
        for part, word in (("forward", "forward"), ("both", "forward + backward")):
            value = r.get(f"ratio_{part}")
            if value is not None and value < wanted_ratio(r):
                lines.append(f"{name}: {'step' if step else word} {value:.2f}, "
                             f"{wanted_ratio(r)} wanted")
        mine, other = r.get("ours_peak_bytes"), r.get("theirs_peak_bytes")
        alike = step or r.get("theirs_both_s") is not None  # our peak is that of both passes
        if alike and other is not None and other < mine:
            lines.append(f"{name}: theirs needs less memory")
    print("\n".join(lines) if lines else
          "Wanted and met: attention at least as fast as each, 5 times Longformer's; the step 0.9; "
          "memory no larger.")


def processor():
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return next(x.split(":", 1)[1].strip() for x in file if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def rates_line(rates):
    parts = [f"{who} {statistics.median(x):.0f} ({min(x):.0f} to {max(x):.0f})"
             for who, x in rates.items() if x]
    return "matrix product 2048-cubed, GFLOP/s: " + ", ".join(parts) if parts else ""


def machine(options):
    return {"processor": processor(), "cpus": os.cpu_count(), "torch": torch.__version__,
            "torch_capability": torch.backends.cpu.get_cpu_capability(),
            "python": platform.python_version(), "threads": options.threads,
            "rounds": options.rounds, "plain": options.plain, "load": os.getloadavg()[0]}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the program longhaul, of a release build")
    parser.add_argument("--threads", type=int, default=1, help="of both sides (1)")
    parser.add_argument("--quick", action="store_true", help="3 rounds, a step of 3 layers")
    parser.add_argument("--rounds", type=int, default=0, help="of attention (7; --quick: 3)")
    parser.add_argument("--only", metavar="WORD", help="cases whose name has it; 'step': the step")
    parser.add_argument("--plain", action="store_true",
                        help="their processes without the settings of memory in theirs.py")
    parser.add_argument("--json", metavar="FILE", help="also as one JSON object")
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 7)
    options.program = pathlib.Path(options.program).resolve()
    if not options.program.is_file():
        parser.error(f"there is no program '{options.program}'")
    return options


def main():
    options, begin = arguments(), time.monotonic()
    wanted = [c for c in cases() if options.only is None or options.only in c["title"]]
    rows, rates = [], {"ours": [], "theirs": []}
    try:
        with tempfile.TemporaryDirectory(prefix="longhaul-peers-") as place:
            place = pathlib.Path(place)
            checked = checks.run(options.program, place, say)
            for case in wanted:
                say(f"{case['title']}, n {case['n']}")
                found, case_rates = measure(options.program, case, options)
                rows += found
                for who, values in case_rates.items():
                    rates[who] += values
            if options.only is None or options.only in "step":
                say("training step")
                rows += training.measure(options.program, place, options, sys.modules[__name__])
    except ours.Failed as failure:
        sys.exit(f"compare.py: {failure}")
    about = machine(options)
    print(f"{about['processor']}, {about['cpus']} processors, {options.threads} thread(s), float32; "
          f"torch {about['torch']} ({about['torch_capability']}); {options.rounds} rounds; "
          f"load {about['load']:.1f}; {time.monotonic() - begin:.0f} s. {rates_line(rates)}\n")
    table(rows)
    print()
    wrong = [c for c in checked if not c["same"]]
    for c in wrong:
        print(f"- {c['mechanism']}, {c['peer']}: NOT THE SAME COMPUTATION: loss {c['loss']:.0e}, "
              f"gradient {c['norm']:.0e}")
    summary(rows)
    if options.json is not None:
        pathlib.Path(options.json).write_text(json.dumps(
            {"machine": about, "gemm_gflops": rates, "checks": checked, "rows": rows}) + "\n")
    return 1 if wrong or any(r["note"].startswith(training.OTHER) for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
