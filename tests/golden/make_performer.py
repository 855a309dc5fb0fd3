"""Reference data for `performer`: performer_pytorch.FastAttention in float64 -> performer.h5.

How to run: as make_models.py (packages pinned in requirements.txt, Python 3.11), see cases.py.

The package's class computes softmax and generalized kernels, causal or not; its causal path is its
own causal_linear_attention_noncuda (the fast one needs CUDA). Its projection matrix is stored, so
nothing has to draw the same numbers. Padded sequences are given to it cut to their length: it masks
only V, so that padding would count in the denominator.

Hyperbolic and trigonometric features have no public class: `paper` below is the definition of
Choromanski et al. 2021 (Lemma 1 and section 2.3), without epsilon and stabiliser, which cancel.
"""

import numpy as np
import torch
from performer_pytorch import FastAttention
from performer_pytorch.performer_pytorch import (causal_linear_attention_noncuda,
                                                 gaussian_orthogonal_random_matrix,
                                                 linear_attention)

import cases

BATCH, LENGTH, HEADS, DEPTH, FEATURES = 2, 37, 2, 8, 20
PARAMETER = "layer.0.attention.projection"


def swapped(function, leaves):
    """The package has heads before positions."""
    q, k, v = (leaves[name].transpose(1, 2) for name in "qkv")
    return function(q, k, v).transpose(1, 2)


def package(projection, causal, kernel_fn=None):
    attention = FastAttention(DEPTH, FEATURES, causal=causal,
                              generalized_attention=kernel_fn is not None, kernel_fn=kernel_fn)
    attention.projection_matrix.copy_(projection)
    if causal:
        cases.check(attention.causal_linear_fn is causal_linear_attention_noncuda,
                    "another causal path than the published one without CUDA")
    return attention


def cut(attention, valid):
    """Each sequence by itself and cut; rows of padding are zeros."""
    def forward(q, k, v):
        out = torch.zeros_like(q)
        for b, rows in enumerate(valid):
            out[b, :, :rows] = attention(*(x[b:b + 1, :, :rows] for x in (q, k, v)))[0]
        return out
    return forward


def paper(projection, estimator):
    """linear_attention over features written out from the definition."""
    def features(x):
        x = x * DEPTH ** -0.25
        u, h = x @ projection.T, (x * x).sum(-1, keepdim=True) / 2
        if estimator == "hyperbolic":
            return torch.cat([torch.exp(u - h), torch.exp(-u - h)], -1)
        return torch.exp(h) * torch.cat([torch.cos(u), torch.sin(u)], -1)
    return lambda q, k, v: linear_attention(features(q), features(k), v)


def main():
    kernels = {
        "softmax": None, "relu": torch.nn.ReLU(), "exp": torch.exp,
        "elu": lambda x: torch.nn.functional.elu(x) + 1.0,
        "square": lambda x: x * x * (x > 0), "sigmoid": torch.sigmoid,
    }
    with cases.Cases(cases.folder() / "performer.h5") as file:
        def add(name, settings, make, causal=False, scale=1.0, scaling=0, valid=None):
            seed = sum(map(ord, name))
            torch.manual_seed(seed)
            projection = gaussian_orthogonal_random_matrix(FEATURES, DEPTH, scaling=scaling)
            leaves = cases.qkv(np.random.default_rng(seed), BATCH, LENGTH, HEADS, HEADS, DEPTH,
                               scale)
            function = make(projection)
            if valid is not None:
                function = cut(function, valid)
            text = cases.config(LENGTH, BATCH, f"mechanism: performer, features: {FEATURES}, "
                                + settings, kind="decoder" if causal else "encoder",
                                heads=HEADS, head_width=DEPTH)
            file.run(name, text, leaves, lambda x: swapped(function, x),
                     fixed={PARAMETER: projection},
                     given={} if valid is None else {"valid": np.array(valid, dtype="<i8")})

        for causal in (False, True):
            form = "causal" if causal else "bidirectional"
            for kernel, kernel_fn in kernels.items():
                add(f"{kernel}_{form}", f"kernel: {kernel}",
                    lambda w: package(w, causal, kernel_fn), causal)
            add(f"large_{form}", "kernel: softmax", lambda w: package(w, causal), causal, scale=3.0)
            add(f"padded_{form}", "kernel: softmax", lambda w: package(w, causal), causal,
                valid=[LENGTH, 11])
        add("smreg_bidirectional", "kernel: softmax, row_norm: sqrt", lambda w: package(w, False),
            scaling=1)
        for estimator in ("hyperbolic", "trig"):
            add(f"{estimator}_bidirectional",
                f"kernel: softmax, estimator: {estimator}, epsilon: 0",
                lambda w: paper(w, estimator), scale=0.5)


if __name__ == "__main__":
    main()
