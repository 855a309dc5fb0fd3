"""One other implementation in a process of its own: compare.py starts it, writes one JSON object a
line and reads one for each.

    {"do": "time"}     -> {"forward": s, "backward": s or null, "gemm": GFLOP/s, "projections": ...}
    {"do": "step", "samples": [0, 1]}  -> {"seconds": [...], "loss": [...], "norm": [...]}
    {"do": "memory"}   -> {"peak": bytes}

The first line of its answer says {"ready": true}, or {"missing": package}, or {"failed": reason}.
Inputs are drawn anew for every measurement, and a 2048 x 2048 matrix product runs before it, which
says what the machine gives at this moment and drives the inputs out of the caches.
"""

import ctypes
import gc
import json
import sys
import time
import warnings

import numpy as np
import torch

import functions
import transformer

GEMM = 2048
EXACT = 1e-5  # largest difference between two exact attentions of normal inputs


def gemm_rate():
    a, b = torch.randn(GEMM, GEMM), torch.randn(GEMM, GEMM)
    begin = time.perf_counter()
    a @ b
    return 2.0 * GEMM**3 / (time.perf_counter() - begin) / 1e9


class Attention:
    """run(q, k, v) or run(x); leaves that get gradients; what is projection among it."""

    def __init__(self, spec):
        self.spec, self.module, self.backward, self.linears = spec, None, True, []
        n, h, causal = spec["n"], spec.get("window"), spec["causal"]
        width = spec["heads"] * spec["head_dim"]
        kind = spec["peer"]
        if kind == "sdpa":
            self.run = functions.full(causal)
        elif kind == "blocks":
            self.run = self.quickest_block(n, h, causal)
        elif kind == "flex":
            self.run, self.backward = functions.flex(n, h, causal), False
        elif kind == "local":
            self.run = functions.local(n, h, causal)
        elif kind == "performer":
            self.run = functions.performer(spec["head_dim"], spec["features"], causal)
        elif kind == "longformer":
            self.module = functions.longformer(width, spec["heads"], h)
            self.run = lambda x: functions.longformer_run(self.module, x)
            self.linears = [self.module.query, self.module.key, self.module.value]
        else:
            self.run = self.module = functions.linformer(width, spec["heads"], n, spec["k"])
            self.linears = [self.module.to_q, self.module.to_k, self.module.to_v,
                            self.module.to_out]

    def quickest_block(self, n, h, causal):
        """The size of block that takes the least time for both passes."""
        best = None
        for self.block in (64, 128, 256):
            self.run, seconds = functions.WindowBlocks(n, h, causal, self.block), []
            for _ in range(3):
                forward, backward = self.timed(self.run, self.inputs())
                seconds.append(forward + backward)
            if best is None or min(seconds) < best[0]:
                best = (min(seconds), self.run, self.block)
        self.block = best[2]
        return best[1]

    def inputs(self):
        """Fresh ones: x [1, N, heads * width], or q, k, v [1, heads, N, width], heads innermost in
        memory but one, as projections leave them."""
        s = self.spec
        if self.module is not None:
            return [torch.randn(1, s["n"], s["heads"] * s["head_dim"], requires_grad=True)]
        shape = (1, s["n"], s["heads"], s["head_dim"])
        return [torch.randn(shape).transpose(1, 2).requires_grad_(self.backward)
                for _ in range(3)]

    def timed(self, run, inputs):
        """(forward, backward or None) seconds."""
        for linear in self.module.parameters() if self.module is not None else []:
            linear.grad = None
        begin = time.perf_counter()
        out = run(*inputs)
        forward = time.perf_counter() - begin
        if not self.backward:
            return forward, None
        upstream = torch.randn_like(out)
        begin = time.perf_counter()
        out.backward(upstream)
        return forward, time.perf_counter() - begin

    def time(self):
        answer = {"gemm": gemm_rate()}
        answer["forward"], answer["backward"] = self.timed(self.run, self.inputs())
        if self.linears:
            forward = backward = 0.0
            for linear in self.linears:
                seconds = self.timed(linear, self.inputs())
                forward, backward = forward + seconds[0], backward + seconds[1]
            answer["projections"] = [forward, backward]
        return answer

    def warm(self):
        inputs = self.inputs()
        self.timed(self.run, inputs)
        if self.spec["peer"] == "flex":  # checks.py needs a backward pass
            n, h, causal = self.spec["n"], self.spec.get("window"), self.spec["causal"]
            other = functions.WindowBlocks(n, h, causal, 128) if h else functions.full(causal)
            off = (self.run(*inputs) - other(*inputs)).abs().max().item()
            if not off < EXACT:
                raise ArithmeticError(f"its output is {off:.0e} off that of SDPA")

    def once(self):
        """For the measurement of memory: a pass, and the bytes of gradients that it leaves."""
        inputs = self.inputs()
        leaves = inputs + (list(self.module.parameters()) if self.module is not None else [])
        upstream = torch.randn_like(inputs[0]) if self.backward else None
        yield
        out = self.run(*inputs)
        if upstream is not None:
            out.backward(upstream.reshape(out.shape))
        yield sum(x.grad.nbytes for x in leaves if x.grad is not None)


class Step:
    """A training step of Longhaul's decoder."""

    def __init__(self, spec):
        m, n = spec["model"], spec["n"]
        attention = {"blocks": lambda: functions.WindowBlocks(n, spec["window"], True, spec["block"]),
                     "mask": lambda: functions.WindowMask(n, spec["window"], True)}
        attend = attention[spec["attention"]]()
        model = transformer.Transformer(m, n, lambda: attend)
        transformer.initial(model, spec["seed"])
        if spec["compile"]:
            for layer in model.layer:  # equal layers: compiled once
                layer.compile()
        self.spec, self.trainer = spec, transformer.Trainer(model)
        self.text = np.fromfile(spec["text"], dtype=np.uint8).astype(np.int64)

    def sample(self, number):
        n = self.spec["n"]
        part = torch.from_numpy(self.text[number * n:(number + 1) * n + 1])
        return part[None, :-1], part[None, 1:]

    def step(self, samples):
        answer = {"seconds": [], "loss": [], "norm": []}
        for number in samples:
            begin = time.perf_counter()
            loss, norm = self.trainer.step(*self.sample(number))
            answer["seconds"].append(time.perf_counter() - begin)
            answer["loss"].append(loss)
            answer["norm"].append(norm)
        return answer

    def warm(self):
        pass  # the first step is: its loss is compared

    def once(self):
        data = self.sample(0)
        self.trainer.optimizer.zero_grad(set_to_none=True)
        yield
        self.trainer.step(*data)
        yield sum(p.grad.nbytes for p in self.trainer.model.parameters())


# --- memory --------------------------------------------------------------------------------------


def status(field):
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def memory(peer):
    """The high-water mark of one pass over what was there before it, after an earlier pass; less the
    gradients that stay (of inputs and parameters)."""
    for _ in range(2):
        passing = peer.once()
        next(passing)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")  # VmHWM = VmRSS
        before = status("VmRSS")
        gradients = next(passing)
        peak = status("VmHWM") - before - gradients
        passing.close()
    return {"peak": peak}


# --- the conversation ----------------------------------------------------------------------------


def start(spec):
    torch.manual_seed(spec["seed"])
    torch.set_num_threads(spec["threads"])
    try:
        with torch.enable_grad():
            peer = Step(spec) if spec["peer"] == "step" else Attention(spec)
            peer.warm()
    except ImportError as missing:
        return None, {"missing": missing.name or str(missing)}
    except Exception as failure:  # whatever a package does: its row says so, the others run
        return None, {"failed": f"{type(failure).__name__}: {str(failure).splitlines()[0]}"}
    return peer, {"ready": True, "block": getattr(peer, "block", None)}


def main():
    answers = sys.stdout
    sys.stdout = sys.stderr  # packages print
    warnings.filterwarnings("ignore")
    peer, answer = start(json.loads(sys.stdin.readline()))
    print(json.dumps(answer), file=answers, flush=True)
    for line in sys.stdin if peer is not None else []:
        order = json.loads(line)
        if order["do"] == "time":
            answer = peer.time()
        elif order["do"] == "step":
            answer = peer.step(order["samples"])
        else:
            answer = memory(peer)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
