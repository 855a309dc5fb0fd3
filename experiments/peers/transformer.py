"""Longhaul's decoder and encoder in PyTorch, as one would write them for speed; what attends is
given. Parameters have Longhaul's names, so that a checkpoint can start both from the same values.

Equations: pre-norm blocks, exact GELU, rotary positions over pairs (i, i + D/2) or a learned table,
tied embeddings, mean cross entropy in nats, AdamW that decays what has two dimensions, clipping.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

NORM_EPS = 1e-5
OPTIMIZER = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0}


def rotary_tables(length, width):
    half = width // 2
    rate = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * rate
    return torch.cos(angle).float(), torch.sin(angle).float()


def rotate(x, cos, sin):
    """x [B, H, N, D]."""
    low, high = x.chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


class Block(nn.Module):
    def __init__(self, m, attend):
        super().__init__()
        width, self.heads, self.attend = m["width"], m["heads"], attend
        attention = {n: nn.Linear(width, width) for n in ("query", "key", "value", "output")}
        self.attention = nn.ModuleDict({"norm": nn.LayerNorm(width, NORM_EPS)} | attention)
        self.mlp = nn.ModuleDict({"norm": nn.LayerNorm(width, NORM_EPS),
                                  "up": nn.Linear(width, m["mlp_width"]),
                                  "down": nn.Linear(m["mlp_width"], width)})

    def forward(self, x, cos=None, sin=None):
        a = self.attention
        y = a["norm"](x)
        q, k, v = (a[n](y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for n in ("query", "key", "value"))
        if cos is not None:
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        x = x + a["output"](self.attend(q, k, v).transpose(1, 2).flatten(2))
        m = self.mlp
        return x + m["down"](F.gelu(m["up"](m["norm"](x))))


class Transformer(nn.Module):
    """m: the section `model` of an experiment file. make(): what attends in a layer, a function or
    module of q, k, v [B, H, N, D] that gives [B, H, N, D]."""

    def __init__(self, m, length, make):
        super().__init__()
        self.rotary = m["position"] == "rotary"
        self.embedding = nn.ModuleDict({"token": nn.Embedding(m["vocab"], m["width"])})
        if self.rotary:
            cos, sin = rotary_tables(length, m["width"] // m["heads"])
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)
        else:
            self.embedding["position"] = nn.Embedding(length, m["width"])
        self.layer = nn.ModuleList(Block(m, make()) for _ in range(m["layers"]))
        self.final = nn.ModuleDict({"norm": nn.LayerNorm(m["width"], NORM_EPS)})

    def forward(self, tokens, labels):
        """Mean nats over labels that are not -1."""
        x, tables = self.embedding["token"](tokens), ()
        if self.rotary:
            tables = (self.cos, self.sin)
        else:
            x = x + self.embedding["position"].weight[:tokens.shape[1]]
        for layer in self.layer:
            x = layer(x, *tables)
        logits = F.linear(self.final["norm"](x), self.embedding["token"].weight)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1)


def initial(model, seed):
    """Sets all parameters to a function of the seed and returns them {name: array}."""
    rng, out = np.random.default_rng(seed), {}
    for name, p in model.named_parameters():
        noise = rng.standard_normal(tuple(p.shape), dtype=np.float32)
        if p.ndim == 1:  # norms and biases: neither zero nor one, so that a lost one shows
            noise = 0.02 * noise + (1.0 if name.endswith("norm.weight") else 0.0)
        else:
            noise *= 0.02 if name.startswith("embedding") else p.shape[1] ** -0.5
        out[name] = noise.astype(np.float32)
        p.data.copy_(torch.from_numpy(out[name]))
    return out


class Trainer:
    """One optimiser step per call, as the trainer of Longhaul does it."""

    def __init__(self, model):
        self.model, o = model, OPTIMIZER
        params = list(model.parameters())
        groups = [{"params": [p for p in params if p.ndim >= 2], "weight_decay": o["weight_decay"]},
                  {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=o["lr"], betas=o["betas"], eps=o["eps"],
                                           fused=True)

    def step(self, tokens, labels):
        """(loss, norm of the gradient before clipping)"""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.model(tokens, labels)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), OPTIMIZER["clip"])
        self.optimizer.step()
        return loss.item(), norm.item()
