"""What the scripts share that make reference data of single attention layers.

A file of cases has one group per case (all datasets contiguous, little-endian float64 unless said
otherwise):

    attribute config          YAML text, NUL-terminated: model and data of an experiment file
    in/q [B, N, H, D], in/k, in/v [B, N, G, D]     queries, keys, values
    in/seed [B, N, H, D]      gradient of the output; zero at padding
    in/x [B, N, E]            input of the block, where the mechanism projects it again
    in/relative_u, in/relative_v [H D], in/relative_weight [H D, E]     where positions are relative
    in/valid [B] int64        positions that exist, where there is padding
    parameters/<name>         weights of the mechanism, by Longhaul's names
    out [B, N, H, D]          the layer's output; rows of padding mean nothing
    gradients/<name>          of sum(out * seed): q, k, v, x, relative_*, and every parameter that
                              is learned

Random numbers come from numpy's PCG64 and torch's generator, one seed per case; one thread; float64.
"""

import pathlib
import sys

import h5py
import numpy as np
import torch

MAX_FILE_BYTES = 2 * 1024 * 1024


def check(condition, message):
    if not condition:
        raise SystemExit(f"{pathlib.Path(sys.argv[0]).name}: {message}")


def folder():
    """Where the files go: the first argument, else the folder of the scripts."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.set_default_dtype(torch.float64)
    return pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent


def config(length, batch, attention, kind="encoder", heads=4, kv_heads=None, head_width=8,
           width=32, **more):
    """Text of an experiment file with one layer; attention: text within its braces."""
    model = {"kind": kind, "vocab": 8, "layers": 1, "width": width, "heads": heads,
             "kv_heads": kv_heads or heads, "head_width": head_width, "mlp_width": 16} | more
    text = ", ".join(f"{key}: {value}" for key, value in model.items())
    return (f"model: {{{text},\n        attention: {{{attention}}}}}\n"
            f"data: {{length: {length}, batch: {batch}}}\n")


def leaf(array):
    return torch.tensor(np.asarray(array), dtype=torch.float64).requires_grad_()


class Cases:
    """A file of cases, one after another."""

    def __init__(self, path):
        self.path, self.file = path, h5py.File(path, "w")

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.file.close()
        if kind is None:
            size = self.path.stat().st_size
            check(size <= MAX_FILE_BYTES, f"{self.path} has {size} bytes")
            print(f"{self.path.name}: {size} bytes")

    def add(self, name, text, inputs, parameters, out, gradients):
        """inputs, parameters, gradients: dictionaries of arrays or tensors."""
        group = self.file.create_group(name)
        data = text.encode("ascii")
        group.attrs.create("config", data, dtype=f"S{len(data) + 1}")
        tables = {"in": inputs, "parameters": parameters, "gradients": gradients}
        for folder_name, table in tables.items():
            part = group.create_group(folder_name)
            for key, value in table.items():
                part.create_dataset(key, data=plain(value))
        group.create_dataset("out", data=plain(out))

    def run(self, name, text, leaves, forward, parameters=(), fixed=None, given=None):
        """Case of a function of leaves: forward(leaves) -> out [B, N, H, D].

        parameters: names of the leaves that are weights; fixed: weights that are not learned;
        given: other inputs; the seed is drawn here and is zero where given["valid"] ends."""
        given = dict(given or {})
        rng = np.random.default_rng(sum(map(ord, name)))
        out = forward(leaves)
        seed = rng.standard_normal(tuple(out.shape))
        for b, rows in enumerate(given.get("valid", [])):
            seed[b, rows:] = 0.0
        tensors = list(leaves.values())
        grads = torch.autograd.grad((out * torch.tensor(seed)).sum(), tensors, allow_unused=True)
        grads = {key: torch.zeros_like(t) if g is None else g
                 for (key, t), g in zip(leaves.items(), grads)}
        for key, value in list(grads.items()) + [("out", out)]:
            check(bool(torch.isfinite(value).all()), f"{name}: {key} is not finite")
        inputs = given | {"seed": seed} | {k: t for k, t in leaves.items() if k not in parameters}
        weights = dict(fixed or {}) | {k: leaves[k] for k in parameters}
        self.add(name, text, inputs, weights, out, grads)


def plain(value):
    return value.detach().numpy().copy() if isinstance(value, torch.Tensor) else np.asarray(value)


def qkv(rng, batch, length, heads, kv_heads, width, scale=1.0):
    """Leaves q [B, N, H, D] and k, v [B, N, G, D], normal times scale."""
    return {name: leaf(scale * rng.standard_normal((batch, length, count, width)))
            for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))}


def soft(q, k, v, visible, extra=0.0):
    """Dense attention from the definition. visible: boolean, broadcast to [B, H, N, N]; extra: added
    to q.k before the division by sqrt(D)."""
    repeat = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(repeat, dim=2) for x in (k, v))
    score = (torch.einsum("bihd,bjhd->bhij", q, k) + extra) / q.shape[-1] ** 0.5
    score = score.masked_fill(~visible, float("-inf"))
    return torch.einsum("bhij,bjhd->bihd", score.softmax(dim=-1), v)


def band(length, window, causal, stride=1):
    """[N, N]: keys i + o * stride, |o| <= window; causal: o <= 0."""
    distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
    mask = (distance.abs() <= window * stride) & (distance % stride == 0)
    return mask & (distance >= 0) if causal else mask
