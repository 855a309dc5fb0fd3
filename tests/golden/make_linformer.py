"""Reference data for `linformer`: two public packages in float64 -> linformer.h5.

How to run: as make_models.py (packages pinned in requirements.txt, Python 3.11), see cases.py.

linformer_pytorch (tatp22): its MHAttention and Linformer make the projections E and F for every way
of sharing, learned or as a convolution; its heads get q, k and v as they are. The biases of its
learned projections are set to zero (Longhaul has none), those of its convolutions stay. Its
input_mask zeroes padded keys and values.

linformer (lucidrains): a shorter input than the projections were made for (their first rows are
used), and one key/value head for all query heads. Its linear maps around attention are replaced by
the given q, k, v and by the identity.

Mean pooling and numbers of landmarks per head: no package has them; `landmarks` below is the
definition (Wang et al. 2020, section 4).
"""

import numpy as np
import torch
from linformer import LinformerSelfAttention
from linformer_pytorch.linformer_pytorch import Linformer

import cases

BATCH, HEADS, DEPTH = 2, 3, 8
LAYER = "layer.0.attention.landmarks"


def tatp22(length, k, sharing, method, seed):
    """Heads of one layer of the package, all biases of learned projections zero."""
    torch.manual_seed(seed)
    model = Linformer(length, HEADS * DEPTH, k, nhead=HEADS, depth=1, dropout=0.0, dropout_ff=0.0,
                      parameter_sharing=sharing, method=method)
    heads = model.seq[0].fn.heads
    if method == "learnable":
        for head in heads:
            head.E.bias.data.zero_()
            head.F.bias.data.zero_()
    return heads


def shared(heads, sharing, method):
    """Longhaul's names -> function of the package's parameters or of their gradients."""
    def join(part):
        return lambda get: torch.cat([get(getattr(h, part).weight).T for h in heads], dim=1)

    def one(part, tensor="weight"):
        if method == "convolution":
            return lambda get: get(getattr(getattr(heads[0], part), tensor))
        return lambda get: get(getattr(heads[0], part).weight).T

    if sharing == "none":
        return {f"{LAYER}.key.weight": join("E"), f"{LAYER}.value.weight": join("F")}
    base = "attention.landmarks" if sharing == "layerwise" else LAYER
    parts = {".key": "E", ".value": "F"} if sharing == "headwise" else {"": "E"}
    if sharing != "headwise":
        cases.check(all(h.E is heads[0].E and h.F is heads[0].E for h in heads), "not shared")
    names = {f"{base}{name}.weight": one(part) for name, part in parts.items()}
    if method == "convolution":
        names |= {f"{base}{name}.bias": one(part, "bias") for name, part in parts.items()}
    return names


def add_tatp22(file, name, length, k, sharing, method="learnable", valid=None):
    seed = sum(map(ord, name))
    heads = tatp22(length, k, sharing, method, seed)
    leaves = cases.qkv(np.random.default_rng(seed), BATCH, length, HEADS, HEADS, DEPTH)
    mask = {}
    if valid is not None:
        mask["input_mask"] = torch.arange(length)[None, :] < torch.tensor(valid)[:, None]
    # The heads mask in place: they get copies.
    out = torch.stack([head(*(leaves[x][:, :, h].clone() for x in "qkv"), **mask)
                       for h, head in enumerate(heads)], dim=2)
    upstream = np.random.default_rng(seed + 1).standard_normal(tuple(out.shape))
    for b, rows in enumerate(valid or []):
        upstream[b, rows:] = 0.0
    (out * torch.tensor(upstream)).sum().backward()
    names = shared(heads, sharing, method)
    projection = "conv" if method == "convolution" else "learned"
    text = cases.config(length, BATCH, f"mechanism: linformer, k: {k}, sharing: {sharing}, "
                        f"projection: {projection}", heads=HEADS, head_width=DEPTH)
    given = {} if valid is None else {"valid": np.array(valid, dtype="<i8")}
    file.add(name, text, given | leaves | {"seed": upstream},
             {n: f(lambda p: p) for n, f in names.items()}, out,
             {n: t.grad for n, t in leaves.items()} |
             {n: f(lambda p: p.grad) for n, f in names.items()})


class Given(torch.nn.Module):
    """Stands for a linear map: gives what it was told."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, _):
        return self.value


def add_lucidrains(file, name, length, max_length, k, one_kv_head):
    seed = sum(map(ord, name))
    torch.manual_seed(seed)
    kv_heads = 1 if one_kv_head else HEADS
    leaves = cases.qkv(np.random.default_rng(seed), BATCH, length, HEADS, kv_heads, DEPTH)
    layer = LinformerSelfAttention(HEADS * DEPTH, max_length, k=k, heads=HEADS,
                                   one_kv_head=one_kv_head)
    leaves |= {f"{LAYER}.key.weight": layer.proj_k, f"{LAYER}.value.weight": layer.proj_v}

    def forward(x):
        layer.to_q, layer.to_k, layer.to_v = (Given(x[n].flatten(2)) for n in "qkv")
        layer.to_out = torch.nn.Identity()
        return layer(torch.zeros(BATCH, length, HEADS * DEPTH)).view(BATCH, length, HEADS, DEPTH)

    text = cases.config(length, BATCH, f"mechanism: linformer, k: {k}, sharing: headwise",
                        heads=HEADS, kv_heads=kv_heads, head_width=DEPTH, max_length=max_length)
    file.run(name, text, leaves, forward, parameters=[n for n in leaves if n.startswith(LAYER)])


def landmarks(q, k, v, keys, values):
    """Heads with projections of their own, keys[h] and values[h] [N, k_h]."""
    out = []
    for h, (e, f) in enumerate(zip(keys, values)):
        bars = [torch.einsum("bnd,nk->bkd", x[:, :, h], m) for x, m in ((k, e), (v, f))]
        score = torch.einsum("bnd,bkd->bnk", q[:, :, h], bars[0]) / q.shape[-1] ** 0.5
        out.append(score.softmax(-1) @ bars[1])
    return torch.stack(out, dim=2)


def add_mean(file, name, length, k):
    mean = torch.zeros(length, k)
    for r in range(k):
        first, end = r * length // k, (r + 1) * length // k
        mean[first:end, r] = 1.0 / (end - first)
    leaves = cases.qkv(np.random.default_rng(length), BATCH, length, HEADS, HEADS, DEPTH)
    text = cases.config(length, BATCH, f"mechanism: linformer, k: {k}, projection: mean",
                        heads=HEADS, head_width=DEPTH)
    file.run(name, text, leaves,
             lambda x: landmarks(x["q"], x["k"], x["v"], [mean] * HEADS, [mean] * HEADS))


def add_per_head(file, name, length, counts):
    rng = np.random.default_rng(length)
    leaves = cases.qkv(rng, BATCH, length, HEADS, HEADS, DEPTH)
    names = [f"{LAYER}.key.weight", f"{LAYER}.value.weight"]
    for n in names:
        leaves[n] = cases.leaf(rng.standard_normal((length, sum(counts))) / length ** 0.5)
    text = cases.config(length, BATCH, f"mechanism: linformer, k: [{counts}], sharing: none",
                        heads=HEADS, head_width=DEPTH)
    file.run(name, text, leaves,
             lambda x: landmarks(x["q"], x["k"], x["v"],
                                 *(x[n].split(counts, dim=1) for n in names)), parameters=names)


def main():
    with cases.Cases(cases.folder() / "linformer.h5") as file:
        for sharing in ("none", "headwise", "kv", "layerwise"):
            add_tatp22(file, sharing, 37, 6, sharing)
        add_tatp22(file, "padded", 37, 6, "headwise", valid=[37, 14])
        add_tatp22(file, "convolution", 36, 6, "headwise", "convolution")
        add_tatp22(file, "convolution_kv", 35, 5, "kv", "convolution", valid=[35, 13])
        add_lucidrains(file, "package_b", 40, 40, 7, False)
        add_lucidrains(file, "shorter", 23, 40, 7, False)
        add_lucidrains(file, "one_kv_head", 29, 29, 7, True)
        add_mean(file, "mean", 36, 6)
        add_mean(file, "mean_uneven", 37, 6)
        add_per_head(file, "per_head", 33, [5, 5, 3])


if __name__ == "__main__":
    main()
