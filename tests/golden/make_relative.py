"""Reference data for relative positions (Dai et al. 2019) -> relative.h5.

How to run: as make_models.py (packages pinned in requirements.txt, Python 3.11), see cases.py.

Causal cases: RelPartialLearnableMultiHeadAttn of Hugging Face's Transformer-XL, without memory, in
float64 (its masked scores pass through Tensor.float, which is the identity here). Its map to q, k
and v is replaced by the given ones; the output is what goes into its output projection.

The package's shift of the scores is only right below the diagonal, so bidirectional cases, and those
with fewer key heads or with dilation, come from `relative` below, the definition: score (i, j) is
(q_i + u) k_j + (q_i + v) W R_(i-j), R_t = [sin t w_a | cos t w_a], w_a = 10000^(-2a/E). `relative`
is checked against the package.
"""

import contextlib

import numpy as np
import torch
from transformers.models.deprecated.transfo_xl.modeling_transfo_xl import (
    PositionalEmbedding, RelPartialLearnableMultiHeadAttn)

import cases

BATCH, HEADS, DEPTH, WIDTH = 2, 3, 8, 20


@contextlib.contextmanager
def no_float32():
    kept = torch.Tensor.float
    torch.Tensor.float = lambda self: self
    try:
        yield
    finally:
        torch.Tensor.float = kept


class Given(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, _):
        return self.value


def package(x, visible):
    """visible [N, N]. Shapes of the package: [N, B, ...]."""
    layer = RelPartialLearnableMultiHeadAttn(HEADS, WIDTH, DEPTH, dropout=0.0)
    given = torch.cat([x[name].flatten(2) for name in "qkv"], dim=-1).transpose(0, 1)
    layer.qkv_net = Given(given)
    for name, value in (("r_w_bias", x["relative_u"]), ("r_r_bias", x["relative_v"])):
        del layer._parameters[name]
        setattr(layer, name, value.view(HEADS, DEPTH))
    del layer.r_net._parameters["weight"]
    layer.r_net.weight = x["relative_weight"]
    seen = []
    layer.o_net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    length = x["q"].shape[1]
    table = PositionalEmbedding(WIDTH)(torch.arange(length - 1.0, -1.0, -1.0))
    with no_float32():
        layer(torch.zeros(length, BATCH, WIDTH), table, attn_mask=(~visible).long()[:, :, None])
    return seen[0].transpose(0, 1).reshape(BATCH, length, HEADS, DEPTH)


def relative(x, visible):
    """visible: broadcast to [B, H, N, N]."""
    q, k, length = x["q"], x["k"], x["q"].shape[1]
    u, v, weight = x["relative_u"], x["relative_v"], x["relative_weight"]
    rate = 10000.0 ** (-torch.arange(0, WIDTH, 2) / WIDTH)
    angle = torch.arange(1 - length, length)[:, None] * rate  # row t + N - 1 is distance t
    r = (torch.cat([angle.sin(), angle.cos()], -1) @ weight.T).view(-1, HEADS, DEPTH)
    distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
    by_position = r[distance + length - 1]  # [N, N, H, D]
    extra = torch.einsum("bihd,ijhd->bhij", q + v.view(HEADS, DEPTH), by_position)
    return cases.soft(q + u.view(HEADS, DEPTH), k, x["v"], visible, extra)


def add(file, name, length, attention, visible, function, causal, kv_heads=HEADS):
    rng = np.random.default_rng(sum(map(ord, name)))
    x = cases.qkv(rng, BATCH, length, HEADS, kv_heads, DEPTH)
    x |= {"relative_u": cases.leaf(0.5 * rng.standard_normal(HEADS * DEPTH)),
          "relative_v": cases.leaf(0.5 * rng.standard_normal(HEADS * DEPTH)),
          "relative_weight": cases.leaf(rng.standard_normal((HEADS * DEPTH, WIDTH)) / 4.0)}
    if function is package:
        gap = (package(x, visible) - relative(x, visible)).abs().max()
        cases.check(gap < 1e-13, f"{name}: definition and package differ by {gap}")
    text = cases.config(length, BATCH, attention, kind="decoder" if causal else "encoder",
                        heads=HEADS, kv_heads=kv_heads, head_width=DEPTH, width=WIDTH,
                        position="relative")
    file.run(name, text, x, lambda leaves: function(leaves, visible))


def main():
    with cases.Cases(cases.folder() / "relative.h5") as file:
        window = "mechanism: sliding_window, window: "
        add(file, "causal_full", 37, "mechanism: full", cases.band(37, 37, True), package, True)
        add(file, "causal_window", 41, window + "6", cases.band(41, 6, True), package, True)
        add(file, "full", 35, "mechanism: full", cases.band(35, 35, False), relative, False)
        add(file, "window", 37, window + "5", cases.band(37, 5, False), relative, False)
        add(file, "window_one_kv_head", 37, window + "5", cases.band(37, 5, False), relative, False,
            kv_heads=1)
        dilated = torch.stack([cases.band(39, 4, True, r) for r in (1, 2, 3)])
        add(file, "causal_dilated", 39, window + "4, dilation: [[1, 2, 3]]", dilated, relative, True)


if __name__ == "__main__":
    main()
