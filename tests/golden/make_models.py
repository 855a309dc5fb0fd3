"""Reference data for the decoder and encoder models, made by PyTorch in float64.

What: for each case below the script writes <case>.h5 with initial weights, ten batches, the loss
and every gradient of batch 0, and what ten AdamW steps do. Nothing here shares code with Longhaul:
attention is torch's scaled_dot_product_attention under a boolean mask, gradients are autograd's,
the update is torch.optim.AdamW.

How to run (versions pinned in requirements.txt; Python 3.11 made the files in the repository):

    python3 -m venv venv && venv/bin/pip install -r requirements.txt
    venv/bin/python make_models.py [FOLDER]        # FOLDER: default is the script's own

Random numbers come from numpy's PCG64, one seed per case, and torch runs on one thread: the same
versions on the same kind of processor give the same files.

A file holds (all datasets contiguous, little-endian; float64 unless said otherwise):

    attribute config     YAML text, NUL-terminated: model, optimizer and data of an experiment file
    tokens, labels       [10, B, N] int32, batch k is used by step k; label -1 is not predicted
    loss                 scalar: mean nats over the labels of batch 0 at the initial weights
    losses               [10] loss of batch k before update k; losses[0] = loss
    grad_norm            [10] global norm of all gradients before clipping
    parameters/<name>    initial weights; linear maps are [out, in]
    gradients/<name>     of `loss`, not clipped
    final/<name>         weights after the ten updates

The gradient of layer.L.attention.key.bias is zero but for rounding unless positions are rotary
(softmax does not see a shift of all scores of a row): compare it against the norm of all gradients.
AdamW divides that rounding by its own size, so in single precision final/...key.bias is noise of
up to about the learning rate (in double 1e-10); the losses do not depend on it.
"""

import pathlib
import sys

import h5py
import numpy as np
import torch
import torch.nn.functional as F

STEPS = 10
NORM_EPS = 1e-5
MAX_FILE_BYTES = 2 * 1024 * 1024


def case(seed, length, batch, clip, **model):
    return {"seed": seed, "length": length, "batch": batch, "clip": clip, "model": model}


# `clip` lies inside the range of the case's gradient norms, so that some steps are clipped and
# some are not (checked in train()).
CASES = {
    "decoder_window": case(
        1, 101, 2, 0.9, kind="decoder", vocab=97, layers=2, width=32, heads=4, kv_heads=4,
        head_width=8, mlp="gelu", mlp_width=128, norm="pre", norm_kind="layer", position="rotary",
        tie_embeddings=True, bias=True, attention={"mechanism": "sliding_window", "window": 16}),
    "decoder_full_gqa": case(
        2, 101, 2, 1.25, kind="decoder", vocab=97, layers=2, width=32, heads=4, kv_heads=2,
        head_width=10, mlp="swiglu", mlp_width=88, norm="pre", norm_kind="rms", position="rotary",
        tie_embeddings=False, bias=False, attention={"mechanism": "full"}),
    "decoder_window_post": case(
        3, 101, 2, 1.0, kind="decoder", vocab=97, layers=2, width=32, heads=4, kv_heads=1,
        head_width=8, mlp="relu", mlp_width=128, norm="post", norm_kind="layer",
        position="learned", tie_embeddings=True, bias=True,
        attention={"mechanism": "sliding_window", "window": 200}),
    "encoder_window": case(
        4, 101, 2, 1.9, kind="encoder", vocab=97, layers=2, width=32, heads=4, kv_heads=4,
        head_width=8, mlp="gelu", mlp_width=128, norm="pre", norm_kind="layer",
        position="sinusoidal", tie_embeddings=True, bias=True,
        attention={"mechanism": "sliding_window", "window": 9}),
    "encoder_full_post": case(
        5, 67, 3, 2.5, kind="encoder", vocab=97, layers=2, width=32, heads=2, kv_heads=2,
        head_width=16, mlp="gelu", mlp_width=96, norm="post", norm_kind="layer",
        position="learned", tie_embeddings=True, bias=True, attention={"mechanism": "full"}),
}


# --- the model ---------------------------------------------------------------------------------


def parameter_shapes(m, length):
    """Every parameter's dotted name and shape."""
    width, shapes = m["width"], {}

    def linear(name, n_out, n_in):
        shapes[name + ".weight"] = (n_out, n_in)
        if m["bias"]:
            shapes[name + ".bias"] = (n_out,)

    def norm(name):
        shapes[name + ".weight"] = (width,)
        if m["bias"] and m["norm_kind"] == "layer":
            shapes[name + ".bias"] = (width,)

    shapes["embedding.token.weight"] = (m["vocab"], width)
    if m["position"] == "learned":
        shapes["embedding.position.weight"] = (length, width)
    if m["norm"] == "post":
        norm("embedding.norm")
    for i in range(m["layers"]):
        attn, mlp = f"layer.{i}.attention", f"layer.{i}.mlp"
        norm(attn + ".norm")
        linear(attn + ".query", m["heads"] * m["head_width"], width)
        linear(attn + ".key", m["kv_heads"] * m["head_width"], width)
        linear(attn + ".value", m["kv_heads"] * m["head_width"], width)
        linear(attn + ".output", width, m["heads"] * m["head_width"])
        norm(mlp + ".norm")
        linear(mlp + ".up", m["mlp_width"], width)
        if m["mlp"] == "swiglu":
            linear(mlp + ".gate", m["mlp_width"], width)
        linear(mlp + ".down", width, m["mlp_width"])
    if m["norm"] == "pre":
        norm("final.norm")
    if not m["tie_embeddings"]:
        shapes["head.weight"] = (m["vocab"], width)
    return shapes


def initial_parameters(m, length, rng):
    """Nothing starts at zero or at one exactly: an omitted bias or norm weight must show."""
    params = {}
    for name, shape in parameter_shapes(m, length).items():
        noise = rng.standard_normal(shape)
        if name.endswith(".norm.weight"):
            value = 1.0 + 0.2 * noise
        elif name.endswith(".bias"):
            value = 0.2 * noise
        elif name.startswith("embedding."):
            value = 0.3 * noise
        else:
            value = noise / np.sqrt(shape[1])
        params[name] = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    return params


def visible(m, length):
    """Boolean [length, length]: may query i (row) see key j (column)?"""
    i, j = torch.arange(length)[:, None], torch.arange(length)[None, :]
    mask = torch.ones(length, length, dtype=torch.bool)
    if m["kind"] == "decoder":
        mask = mask & (j <= i)
    if m["attention"]["mechanism"] == "sliding_window":
        mask = mask & ((i - j).abs() <= m["attention"]["window"])
    return mask


def sinusoids(length, width):
    """Vaswani et al. 2017, section 3.5."""
    angle = torch.arange(length, dtype=torch.float64)[:, None] * torch.pow(
        torch.tensor(10000.0, dtype=torch.float64),
        -torch.arange(0, width, 2, dtype=torch.float64) / width)
    table = torch.empty(length, width, dtype=torch.float64)
    table[:, 0::2], table[:, 1::2] = torch.sin(angle), torch.cos(angle)
    return table


def rotate(x):
    """Rotary positions (Su et al. 2021) on [B, heads, N, D]; the pairs are (i, i + D/2)."""
    length, half = x.shape[-2], x.shape[-1] // 2
    rate = torch.pow(torch.tensor(10000.0, dtype=torch.float64),
                     -torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * rate
    cos, sin = torch.cos(angle), torch.sin(angle)
    low, high = x[..., :half], x[..., half:]
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


def attend(q, k, v, mask):
    """q [B, H, N, D], k and v [B, G, N, D]; query head h uses key head h // (H/G)."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class Model:
    def __init__(self, m, params):
        self.m, self.params = m, params

    def linear(self, name, x):
        return F.linear(x, self.params[name + ".weight"], self.params.get(name + ".bias"))

    def norm(self, name, x):
        weight = self.params[name + ".weight"]
        if self.m["norm_kind"] == "rms":
            return F.rms_norm(x, x.shape[-1:], weight, NORM_EPS)
        return F.layer_norm(x, x.shape[-1:], weight, self.params.get(name + ".bias"), NORM_EPS)

    def attention(self, name, x):
        batch, length, _ = x.shape
        split = lambda y: y.view(batch, length, -1, self.m["head_width"]).transpose(1, 2)
        q, k, v = (split(self.linear(f"{name}.{part}", x)) for part in ("query", "key", "value"))
        if self.m["position"] == "rotary":
            q, k = rotate(q), rotate(k)
        y = attend(q, k, v, visible(self.m, length))
        return self.linear(name + ".output", y.transpose(1, 2).reshape(batch, length, -1))

    def mlp(self, name, x):
        up = self.linear(name + ".up", x)
        if self.m["mlp"] == "swiglu":
            hidden = F.silu(self.linear(name + ".gate", x)) * up
        else:
            hidden = F.gelu(up) if self.m["mlp"] == "gelu" else F.relu(up)
        return self.linear(name + ".down", hidden)

    def logits(self, tokens):
        m, p = self.m, self.params
        x = p["embedding.token.weight"][tokens]
        if m["position"] == "learned":
            x = x + p["embedding.position.weight"]
        if m["position"] == "sinusoidal":
            x = x + sinusoids(tokens.shape[1], m["width"])
        if m["norm"] == "post":
            x = self.norm("embedding.norm", x)
        for i in range(m["layers"]):
            for part, block in ((f"layer.{i}.attention", self.attention),
                                (f"layer.{i}.mlp", self.mlp)):
                if m["norm"] == "pre":
                    x = x + block(part, self.norm(part + ".norm", x))
                else:
                    x = self.norm(part + ".norm", x + block(part, x))
        if m["norm"] == "pre":
            x = self.norm("final.norm", x)
        return x @ p["embedding.token.weight" if m["tie_embeddings"] else "head.weight"].T

    def loss(self, tokens, labels):
        logits = self.logits(tokens)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1)


# --- data, training, files ---------------------------------------------------------------------


def batches(c, name, rng):
    """tokens, labels [STEPS, B, N]. Decoders predict the next token; encoders a masked one."""
    shape = (STEPS, c["batch"], c["length"])
    if c["model"]["kind"] == "decoder":
        text = rng.integers(0, c["model"]["vocab"], shape[:2] + (c["length"] + 1,))
        return torch.tensor(text[..., :-1]), torch.tensor(text[..., 1:])
    original = rng.integers(0, c["model"]["vocab"], shape)
    hidden = rng.random(shape) < 0.15
    if name == "encoder_full_post":  # one row of every batch has no label at all
        for step in range(STEPS):
            hidden[step, (step + 1) % c["batch"]] = False
    tokens = np.where(hidden, 0, original)  # token 0 plays the mask
    return torch.tensor(tokens), torch.tensor(np.where(hidden, original, -1))


def optimizer_settings(c):
    return {"kind": "adamw", "lr": 1.0e-2, "betas": [0.9, 0.95], "eps": 1.0e-8,
            "weight_decay": 0.1, "clip": c["clip"]}


def train(model, tokens, labels, o):
    """Ten AdamW steps; returns (losses, norms before clipping, gradients of the first step)."""
    params = model.params
    groups = [{"params": [p for p in params.values() if p.ndim >= 2],
               "weight_decay": o["weight_decay"]},
              {"params": [p for p in params.values() if p.ndim < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=o["lr"], betas=tuple(o["betas"]), eps=o["eps"],
                                  foreach=False)
    losses, norms, first = [], [], None
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model.loss(tokens[step], labels[step])
        loss.backward()
        if first is None:
            first = {name: p.grad.clone() for name, p in params.items()}
        norm = sum(float((p.grad**2).sum()) for p in params.values()) ** 0.5
        # By hand: torch's clip_grad_norm_ divides by norm + 1e-6.
        for p in params.values():
            p.grad.mul_(min(1.0, o["clip"] / norm))
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm)
    clipped = sum(norm > o["clip"] for norm in norms)
    check(0 < clipped < STEPS, f"clip {o['clip']} must act in some steps only, norms {norms}")
    return losses, norms, first


def yaml_text(c):
    def text(value):
        if isinstance(value, dict):
            return "{" + ", ".join(f"{k}: {text(v)}" for k, v in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(text, value)) + "]"
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float) and "e" in repr(value):
            return f"{value:.1e}"  # YAML 1.1 wants the point: 1.0e-08
        return str(value)

    parts = {"model": c["model"], "optimizer": optimizer_settings(c),
             "data": {"length": c["length"], "batch": c["batch"]}}
    return "".join(f"{key}: {text(value)}\n" for key, value in parts.items())


def write(path, c, arrays):
    with h5py.File(path, "w") as f:
        text = yaml_text(c).encode("ascii")
        f.attrs.create("config", text, dtype=f"S{len(text) + 1}")  # one more: the closing NUL
        for name, value in arrays.items():
            f.create_dataset(name, data=value)
    check(path.stat().st_size <= MAX_FILE_BYTES, f"{path} is larger than {MAX_FILE_BYTES} bytes")


def make(name, c, folder):
    rng = np.random.default_rng(c["seed"])
    params = initial_parameters(c["model"], c["length"], rng)
    tokens, labels = batches(c, name, rng)
    model = Model(c["model"], params)
    check_gradients(model, tokens[0], labels[0])
    arrays = {"tokens": tokens.numpy().astype("<i4"), "labels": labels.numpy().astype("<i4")}
    for key, p in params.items():
        arrays["parameters/" + key] = p.detach().numpy().copy()
    losses, norms, first = train(model, tokens, labels, optimizer_settings(c))
    arrays |= {"loss": np.float64(losses[0]), "losses": np.array(losses),
               "grad_norm": np.array(norms)}
    arrays |= {"gradients/" + key: g.numpy() for key, g in first.items()}
    arrays |= {"final/" + key: p.detach().numpy() for key, p in params.items()}
    path = folder / f"{name}.h5"
    write(path, c, arrays)
    print(f"{path.name}: {path.stat().st_size} bytes, loss {losses[0]:.15g}, after ten steps "
          f"{losses[-1]:.15g}, norms {min(norms):.4g} to {max(norms):.4g}, clipped "
          f"{sum(n > c['clip'] for n in norms)}")


# --- self-checks -------------------------------------------------------------------------------


def check(condition, message):
    if not condition:
        raise SystemExit("make_models.py: " + message)


def check_attention(m, length):
    """attend() under visible() against a softmax written out from the definition."""
    rng = np.random.default_rng(7)
    heads, groups, depth, kind = m["heads"], m["kv_heads"], m["head_width"], m["kind"]
    reach = m["attention"].get("window", length)
    q = rng.standard_normal((2, heads, length, depth))
    k, v = (rng.standard_normal((2, groups, length, depth)) for _ in range(2))
    want = np.zeros_like(q)
    for b, h, i in np.ndindex(2, heads, length):
        g = h // (heads // groups)
        last = i if kind == "decoder" else min(length - 1, i + reach)
        keys = range(max(0, i - reach), last + 1)
        weights = np.exp([q[b, h, i] @ k[b, g, j] / np.sqrt(depth) for j in keys])
        want[b, h, i] = sum(w * v[b, g, j] for w, j in zip(weights, keys)) / weights.sum()
    got = attend(*map(torch.tensor, (q, k, v)), visible(m, length)).numpy()
    check(np.abs(got - want).max() < 1e-12, f"attention differs from its definition for {m}")


def check_gradients(model, tokens, labels):
    """Autograd against central differences: two entries of every parameter."""
    step, rng = 1e-5, np.random.default_rng(8)
    names = list(model.params)
    grads = torch.autograd.grad(model.loss(tokens, labels), [model.params[n] for n in names])
    for name, grad in zip(names, grads):
        flat = model.params[name].detach().view(-1)
        largest = int(grad.abs().argmax())
        for index in (largest, int(rng.integers(flat.numel()))):
            kept, side = flat[index].item(), []
            for sign in (1, -1):
                flat[index] = kept + sign * step
                with torch.no_grad():
                    side.append(model.loss(tokens, labels).item())
            flat[index] = kept
            want, got = (side[0] - side[1]) / (2 * step), grad.view(-1)[index].item()
            check(abs(want - got) <= 1e-6 * abs(got) + 1e-9,
                  f"gradient of {name}[{index}] is {got}, differences say {want}")


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__).resolve()
    folder = folder if folder.is_dir() else folder.parent
    for c in CASES.values():
        check_attention(c["model"], 13)
    check_attention(CASES["decoder_window"]["model"], 21)  # longer than the window
    for name, c in CASES.items():
        make(name, c, folder)


if __name__ == "__main__":
    main()
