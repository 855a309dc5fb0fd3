"""Do both sides compute the same? One training step of a small model, once by the program and once
in PyTorch with what attends taken from the other implementation, from the same weights on the same
tokens: loss and norm of the gradient must agree. The encoder learns masked bytes; which they are is
a function of the seed (Philox), computed here a second time.
"""

import math

import numpy as np
import torch
from torch import nn

import functions
import ours
import transformer

LENGTH, WINDOW, FEATURES, LANDMARKS, SEED, MASK = 512, 64, 48, 32, 1, 0.15
SMALL = {"layers": 2, "width": 64, "heads": 2, "mlp": "gelu", "mlp_width": 96, "norm": "pre",
         "norm_kind": "layer", "tie_embeddings": True}
LOSS, NORM = 1e-6, 2e-5  # relative; seen 1e-7 and 8e-7, a window of one less gives 5e-5 and 8e-4
STREAM_MASK = 4          # core/random.h


# --- hidden bytes --------------------------------------------------------------------------------


def philox(stream, index):
    """Philox4x32-10 of a seed below 2^32; index [n] uint64 -> [4, n] uint64 holding 32 bits each."""
    low = np.uint64(0xFFFFFFFF)
    c = [index & low, index >> np.uint64(32), np.full_like(index, stream & 0xFFFFFFFF),
         np.full_like(index, stream >> 32)]
    key = [SEED, 0]
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(b >> np.uint64(32)) ^ c[1] ^ np.uint64(key[0]), b & low,
             (a >> np.uint64(32)) ^ c[3] ^ np.uint64(key[1]), a & low]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return np.stack(c)


def uniform(stream, index):
    words = philox(stream, index // np.uint64(2))
    odd = index % np.uint64(2) == 1
    low, high = np.where(odd, words[2], words[0]), np.where(odd, words[3], words[1])
    return ((high << np.uint64(32) | low) >> np.uint64(11) | np.uint64(1)).astype(float) * 2.0**-53


def masked(text):
    """(tokens, labels) of the first window drawn: 80 % the mask 256, 10 % a random byte, 10 % stay."""
    k = np.arange(len(text), dtype=np.uint64)
    choose, replace = (STREAM_MASK << 32), (STREAM_MASK << 32) + 1
    hidden = uniform(choose, k) < MASK
    how = uniform(replace, np.uint64(2) * k)
    other = philox(replace, (np.uint64(8) * k + np.uint64(7)) // np.uint64(4))[3] % np.uint64(256)
    shown = np.where(how < 0.8, 256, np.where(how < 0.9, other.astype(np.int64), text))
    return np.where(hidden, shown, text), np.where(hidden, text, -1)


# --- what attends --------------------------------------------------------------------------------


class Given(nn.Module):
    """Stands for a linear map: gives what it was told."""

    def forward(self, _):
        return self.value


def longformer():
    module = functions.longformer(SMALL["width"], SMALL["heads"], WINDOW)
    module.query, module.key, module.value = Given(), Given(), Given()

    def attend(q, k, v):
        for given, x in zip((module.query, module.key, module.value), (q, k, v)):
            given.value = x.transpose(1, 2).flatten(2).transpose(0, 1)  # it has positions first
        out = functions.longformer_run(module, torch.zeros(1, LENGTH, SMALL["width"]))
        return out.unflatten(-1, (SMALL["heads"], -1)).transpose(1, 2)
    return attend


class Linformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = functions.linformer(SMALL["width"], SMALL["heads"], LENGTH, LANDMARKS)
        self.inner.to_q, self.inner.to_k, self.inner.to_v = Given(), Given(), Given()
        self.inner.to_out = nn.Identity()

    def forward(self, q, k, v):
        for given, x in zip((self.inner.to_q, self.inner.to_k, self.inner.to_v), (q, k, v)):
            given.value = x.transpose(1, 2).flatten(2)
        out = self.inner(torch.zeros(1, LENGTH, SMALL["width"]))
        return out.unflatten(-1, (SMALL["heads"], -1)).transpose(1, 2)


def cases():
    """(who, causal, attention settings of ours, what attends in a layer of theirs)"""
    window = {"mechanism": "sliding_window", "window": WINDOW}
    performer = {"mechanism": "performer", "features": FEATURES}
    for causal in (False, True):
        yield "SDPA", causal, {"mechanism": "full"}, lambda: functions.full(causal)
        yield "SDPA over blocks", causal, window, \
            lambda: functions.WindowBlocks(LENGTH, WINDOW, causal, 64)
        yield "local-attention", causal, window, lambda: functions.local(LENGTH, WINDOW, causal)
        yield "performer-pytorch", causal, performer, \
            lambda: functions.performer(SMALL["width"] // SMALL["heads"], FEATURES, causal)
    yield "LongformerSelfAttention", False, window, longformer
    yield "linformer", False, {"mechanism": "linformer", "k": LANDMARKS}, Linformer


RENAMED = {"attend.inner.proj_k": "attention.landmarks.key.weight",
           "attend.inner.proj_v": "attention.landmarks.value.weight",
           "attend.projection_matrix": "attention.projection"}


def named(arrays):
    """With Longhaul's names."""
    out = {}
    for name, array in arrays.items():
        for theirs, mine in RENAMED.items():
            name = name.replace(theirs, mine)
        out[name] = array
    return out


def compare(program, place, number, causal, settings, make):
    """(relative difference of the loss, of the norm of the gradient)"""
    model = SMALL | ({"kind": "decoder", "vocab": 256, "position": "rotary"} if causal else
                     {"kind": "encoder", "vocab": 257, "position": "learned"})
    torch.manual_seed(number)
    net = transformer.Transformer(model, LENGTH, make)
    arrays = transformer.initial(net, number)
    arrays |= {n: b.numpy() for n, b in net.named_buffers() if n.endswith("projection_matrix")}
    name, text = f"check-{number}", place / "check.txt"
    experiment = ours.yaml(model, settings)
    ours.write_checkpoint(place / f"{name}.h5", named(arrays), experiment)
    ours.write_text(text, 4 * LENGTH + 1)
    job = {"name": name, "experiment": experiment, "task": "text" if causal else "masked_text",
           "text": text, "length": LENGTH, "optimizer": transformer.OPTIMIZER}
    metrics = ours.train(program, place, job, 1, 1)[0]
    part = np.fromfile(text, dtype=np.uint8).astype(np.int64)[metrics["samples"][0] * LENGTH:]
    tokens, labels = (part[:LENGTH], part[1:LENGTH + 1]) if causal else masked(part[:LENGTH])
    loss, norm = transformer.Trainer(net).step(*(torch.from_numpy(x)[None] for x in (tokens, labels)))
    return abs(loss / metrics["loss"] - 1.0), abs(norm / metrics["grad_norm"] - 1.0)


def run(program, place, say):
    """A list of {peer, causal, mechanism, loss, norm, same}; packages that are missing are left out."""
    results = []
    for number, (who, causal, settings, make) in enumerate(cases()):
        try:
            loss, norm = compare(program, place, number, causal, settings, make)
        except ImportError:
            continue
        good = loss <= LOSS and norm <= NORM and math.isfinite(loss + norm)
        results.append({"peer": who, "causal": causal, "mechanism": settings["mechanism"],
                        "loss": loss, "norm": norm, "same": good})
        say(f"check: {settings['mechanism']}{', causal' if causal else ''}, {who}: loss within "
            f"{loss:.0e}, gradient norm {norm:.0e}{'' if good else ': NOT THE SAME'}")
    return results
