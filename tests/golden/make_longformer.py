"""Reference data for windows, dilation and global tokens (Beltagy et al. 2020).

How to run: as make_models.py (packages pinned in requirements.txt, Python 3.11).

longformer.h5: Hugging Face's LongformerModel in float64 (its two softmaxes ask for float32; they are
given float64 here) with random weights, windows that differ by layer, a length that is no multiple
of them and padding on the right. The file holds

    parameters/<name>         weights by Longhaul's names; linear maps are [out, in]
    <case>/                   none: no global token; same: the same ones in every sequence; task:
                              other ones, and other numbers of them, in each
        attribute config      YAML text, NUL-terminated
        tokens [B, N] int32, valid [B] int64
        global_count [B], global_position [B, max] int64     case task
        hidden [B, N, E]      states after the last layer; rows of padding mean nothing
        seed [B, N, E]        zero at padding
        gradients/<name>      of sum(hidden * seed)

Row p of embedding.position.weight is the package's row p + 2 (its first two rows are for padding)
plus its only token type; our window is half of its attention_window.

windows.h5: single layers (cases.py) that no package computes on a processor: causal windows,
dilation by head, global tokens in causal layers. They come from `layer` below: dense attention under
a mask, with rows of global tokens replaced (section 3.1). Causal: no row sees what comes after it.
"""

import contextlib

import h5py
import numpy as np
import torch
from transformers import LongformerConfig, LongformerModel

import cases

VOCAB, WIDTH, HEADS, LENGTH, PAD = 64, 32, 4, 50, 1
WINDOWS = [4, 8]


# --- Hugging Face -------------------------------------------------------------------------------


@contextlib.contextmanager
def softmax_in_float64():
    kept = torch.nn.functional.softmax
    torch.nn.functional.softmax = lambda x, dim, dtype=None: kept(x, dim=dim)
    try:
        yield
    finally:
        torch.nn.functional.softmax = kept


def build():
    config = LongformerConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=len(WINDOWS),
        num_attention_heads=HEADS, intermediate_size=64, attention_window=[2 * w for w in WINDOWS],
        max_position_embeddings=130, type_vocab_size=1, pad_token_id=PAD, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, layer_norm_eps=1e-5)
    model = LongformerModel(config, add_pooling_layer=False).double().eval()
    rng = np.random.default_rng(1)
    for name, p in model.named_parameters():  # nothing starts at zero or at one exactly
        noise = torch.tensor(rng.standard_normal(tuple(p.shape)))
        if "LayerNorm.weight" in name:
            p.data = 1.0 + 0.2 * noise
        elif name.endswith("bias"):
            p.data = 0.2 * noise
        elif "embeddings" in name:
            p.data = 0.3 * noise
        else:
            p.data = noise / p.shape[1] ** 0.5
    return model


def ours():
    """Our names -> the package's."""
    names = {"embedding.token.weight": "embeddings.word_embeddings.weight"}

    def both(mine, theirs):
        for part in ("weight", "bias"):
            names[f"{mine}.{part}"] = f"{theirs}.{part}"

    both("embedding.norm", "embeddings.LayerNorm")
    for i in range(len(WINDOWS)):
        layer, mine = f"encoder.layer.{i}", f"layer.{i}"
        for part in ("query", "key", "value", "query_global", "key_global", "value_global"):
            both(f"{mine}.attention.{part}", f"{layer}.attention.self.{part}")
        both(f"{mine}.attention.output", f"{layer}.attention.output.dense")
        both(f"{mine}.attention.norm", f"{layer}.attention.output.LayerNorm")
        both(f"{mine}.mlp.up", f"{layer}.intermediate.dense")
        both(f"{mine}.mlp.down", f"{layer}.output.dense")
        both(f"{mine}.mlp.norm", f"{layer}.output.LayerNorm")
    return names


def model_config(setting, batch):
    more = "" if setting == "none" else f", global: {setting}"
    return (f"model: {{kind: encoder, head: none, vocab: {VOCAB}, layers: {len(WINDOWS)}, "
            f"width: {WIDTH}, heads: {HEADS},\n        mlp: gelu, mlp_width: 64, norm: post, "
            f"norm_kind: layer, position: learned,\n        attention: {{mechanism: "
            f"sliding_window, window: {WINDOWS}{more}}}}}\n"
            f"data: {{length: {LENGTH}, batch: {batch}}}\n")


def add_model(file, name, model, setting, valid, positions):
    """positions: global tokens of each sequence."""
    rng, batch = np.random.default_rng(sum(map(ord, name))), len(valid)
    tokens = rng.integers(PAD + 1, VOCAB, (batch, LENGTH))
    seed = rng.standard_normal((batch, LENGTH, WIDTH))
    mask, far = np.zeros((2, batch, LENGTH), dtype=np.int64)
    for b, rows in enumerate(valid):
        tokens[b, rows:], seed[b, rows:], mask[b, :rows] = PAD, 0.0, 1
        far[b, positions[b]] = 1
    model.zero_grad()
    with softmax_in_float64():
        hidden = model(torch.tensor(tokens), attention_mask=torch.tensor(mask),
                       global_attention_mask=torch.tensor(far) if far.any() else None)[0]
        (hidden * torch.tensor(seed)).sum().backward()
    cases.check(hidden.dtype == torch.float64, "not in float64")
    group = file.create_group(name)
    text = model_config(setting, batch).encode("ascii")
    group.attrs.create("config", text, dtype=f"S{len(text) + 1}")
    arrays = {"tokens": tokens.astype("<i4"), "valid": np.array(valid, dtype="<i8"), "seed": seed,
              "hidden": hidden.detach().numpy()}
    if setting == "task":
        most = max(map(len, positions))
        arrays["global_count"] = np.array([len(p) for p in positions], dtype="<i8")
        arrays["global_position"] = np.array([p + [0] * (most - len(p)) for p in positions],
                                             dtype="<i8")
    params = dict(model.named_parameters())
    for mine, theirs in ours().items():
        if setting != "none" or "_global" not in mine:
            arrays["gradients/" + mine] = params[theirs].grad.numpy()
    table = params["embeddings.position_embeddings.weight"].grad
    arrays["gradients/embedding.position.weight"] = table[2:2 + LENGTH].numpy()
    cases.check(table[2 + LENGTH:].abs().max() == 0.0, "positions beyond the length were used")
    for key, value in arrays.items():
        group.create_dataset(key, data=value)


def make_models(path):
    model = build()
    with h5py.File(path, "w") as file:
        params = dict(model.named_parameters())
        for mine, theirs in ours().items():
            file.create_dataset("parameters/" + mine, data=params[theirs].detach().numpy())
        table = (params["embeddings.position_embeddings.weight"][2:2 + LENGTH]
                 + params["embeddings.token_type_embeddings.weight"][0])
        file.create_dataset("parameters/embedding.position.weight", data=table.detach().numpy())
        add_model(file, "none", model, "none", [LENGTH, 31], [[], []])
        add_model(file, "same", model, "[0, 17, 40]", [LENGTH, 44], [[0, 17, 40]] * 2)
        add_model(file, "task", model, "task", [LENGTH, 31, 44], [[0], [3, 20, 29], []])
    size = path.stat().st_size
    cases.check(size <= cases.MAX_FILE_BYTES, f"{path} has {size} bytes")
    print(f"{path.name}: {size} bytes")


# --- single layers ------------------------------------------------------------------------------


def layer(x, visible, positions, causal, projections):
    """visible [H or 1, N, N]; positions: global tokens, whose columns everybody sees and whose rows
    see everybody by projections of their own."""
    length = x["q"].shape[1]
    past = torch.arange(length)[:, None] >= torch.arange(length)[None, :]
    legal = past if causal else torch.ones_like(past)
    mask = visible.clone()
    mask[:, :, positions] = True
    out = cases.soft(x["q"], x["k"], x["v"], mask & legal)
    if not positions:
        return out
    q, k, v = (torch.nn.functional.linear(x["x"], x[name + ".weight"], x[name + ".bias"])
               .unflatten(-1, (-1, x["q"].shape[-1])) for name in projections)
    rows = cases.soft(q, k, v, legal)
    chosen = torch.zeros(length, dtype=torch.bool)
    chosen[positions] = True
    return torch.where(chosen[None, :, None, None], rows, out)


def add_layer(file, name, length, window, strides=(1,), positions=(), causal=False, kv_heads=HEADS,
              words=None):
    depth, width, batch = 8, 20, 2
    rng = np.random.default_rng(sum(map(ord, name)))
    x = cases.qkv(rng, batch, length, HEADS, kv_heads, depth)
    projections = [f"layer.0.attention.{part}_global" for part in ("query", "key", "value")]
    if positions:
        x["x"] = cases.leaf(rng.standard_normal((batch, length, width)))
        for p, count in zip(projections, (HEADS, kv_heads, kv_heads)):
            x[p + ".weight"] = cases.leaf(rng.standard_normal((count * depth, width)) / width**0.5)
            x[p + ".bias"] = cases.leaf(0.2 * rng.standard_normal(count * depth))
    settings = f"mechanism: sliding_window, window: {window}"
    if len(strides) > 1:
        settings += f", dilation: [{list(strides)}]"
    if positions:
        settings += f", global: {words or list(positions)}"
    text = cases.config(length, batch, settings, kind="decoder" if causal else "encoder",
                        heads=HEADS, kv_heads=kv_heads, head_width=depth, width=width, bias="true")
    visible = torch.stack([cases.band(length, window, causal, r) for r in strides])
    file.run(name, text, x, lambda leaves: layer(leaves, visible, list(positions), causal,
                                                 projections),
             parameters=[n for n in x if n.startswith("layer.")])


def make_layers(path):
    with cases.Cases(path) as file:
        add_layer(file, "window", 37, 5)
        add_layer(file, "causal_window", 41, 6, causal=True, kv_heads=2)
        add_layer(file, "dilated", 47, 3, (1, 1, 2, 5))
        add_layer(file, "causal_dilated", 43, 4, (1, 2, 3, 3), causal=True)
        add_layer(file, "global", 39, 4, positions=(0, 11, 30))
        add_layer(file, "causal_global", 39, 4, positions=(0, 11, 30), causal=True, kv_heads=2)
        add_layer(file, "dilated_global", 45, 3, (1, 2, 2, 4), (0,), words="first")
        add_layer(file, "causal_dilated_global", 45, 3, (1, 2, 2, 4), (7, 8, 44), causal=True)


def main():
    folder = cases.folder()
    make_models(folder / "longformer.h5")
    make_layers(folder / "windows.h5")


if __name__ == "__main__":
    main()
