"""What attends, in other implementations: functions of q, k, v [B, H, N, D], and two modules that
have their projections inside. h: positions seen on a side, as Longhaul counts a window."""

import torch
import torch.nn.functional as F


def full(causal):
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def band_mask(rows, columns, shift, h, causal):
    """0 or -inf, [rows, columns]: row i stands at column i + shift."""
    away = torch.arange(columns)[None, :] - torch.arange(rows)[:, None] - shift
    hidden = (away < -h) | (away > (0 if causal else h))
    return torch.zeros(rows, columns).masked_fill_(hidden, float("-inf"))


class WindowMask:
    """scaled_dot_product_attention under a dense mask: the plain way."""

    def __init__(self, length, h, causal):
        self.mask = band_mask(length, length, 0, h, causal)

    def __call__(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)


class WindowBlocks:
    """The same over blocks of queries, each with the keys in reach of it: views, no copies. The first
    h rows (and, if not causal, the last h) are edges, calls of their own."""

    def __init__(self, length, h, causal, block):
        self.h, self.causal, self.block, self.keys = h, causal, block, block + (1 + (not causal)) * h
        self.inner = band_mask(block, self.keys, h, h, causal)
        inside = length - (1 + (not causal)) * h
        if inside <= 0 or inside % block:
            raise ValueError(f"{length} positions are not edges of {h} and blocks of {block}")
        if not causal:
            self.first = band_mask(h, 2 * h, 0, h, False)
            self.last = band_mask(h, 2 * h, h, h, False)

    def __call__(self, q, k, v):
        h, attend = self.h, F.scaled_dot_product_attention
        if self.causal:
            parts = [attend(q[:, :, :h], k[:, :, :h], v[:, :, :h], is_causal=True)]
            inner = q[:, :, h:]
        else:
            parts = [attend(q[:, :, :h], k[:, :, :2 * h], v[:, :, :2 * h], attn_mask=self.first)]
            inner = q[:, :, h:-h]
        blocks = inner.unflatten(2, (-1, self.block)).flatten(0, 1)
        reach = (x.unfold(2, self.keys, self.block).transpose(-1, -2).flatten(0, 1) for x in (k, v))
        out = attend(blocks, *reach, attn_mask=self.inner)
        parts.append(out.unflatten(0, q.shape[:2]).flatten(2, 3))
        if not self.causal:
            ends = (x[:, :, -2 * h:] for x in (k, v))
            parts.append(attend(q[:, :, -h:], *ends, attn_mask=self.last))
        return torch.cat(parts, dim=2)


def flex_mask(length, h, causal, size=128):
    """FlexAttention's BlockMask of a band, from its definition by blocks; create_block_mask would
    write out all length x length pairs. Every row sees itself, so no row is empty."""
    from torch.nn.attention.flex_attention import BlockMask
    least, most = -h, 0 if causal else h  # of key minus query

    def seen(_batch, _head, i, j):
        return (j - i >= least) & (j - i <= most)

    at = torch.arange(-(-length // size)) * size
    away = at[None, :] - at[:, None]
    touched = (away + size > least) & (away - size < most)
    whole = (away - size + 1 >= least) & (away + size - 1 <= most)
    lists = []
    for chosen in (touched & ~whole, whole):
        lists += [chosen.sum(-1, dtype=torch.int32)[None, None],
                  chosen.int().argsort(dim=-1, descending=True, stable=True).int()[None, None]]
    return BlockMask.from_kv_blocks(*lists, BLOCK_SIZE=size, mask_mod=seen,
                                    seq_lengths=(length, length))


def flex(length, h, causal):
    """FlexAttention, compiled. h None: full. It has no backward pass on CPU."""
    from torch.nn.attention.flex_attention import flex_attention
    mask = None
    if h is not None or causal:
        mask = flex_mask(length, length if h is None else h, causal)
    compiled = torch.compile(flex_attention)
    return lambda q, k, v: compiled(q, k, v, block_mask=mask)


def local(length, h, causal):
    """local-attention (lucidrains) with exact windows and without its rotary positions."""
    from local_attention import LocalAttention
    module = LocalAttention(window_size=h, causal=causal, look_backward=1,
                            look_forward=0 if causal else 1, exact_windowsize=True,
                            use_rotary_pos_emb=False)
    return module


def performer(width, features, causal):
    from performer_pytorch import FastAttention
    return FastAttention(width, features, causal=causal)


def longformer(width, heads, h):
    """The module; forward takes [B, N, width] and has the projections of q, k and v inside."""
    from transformers import LongformerConfig
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention
    config = LongformerConfig(hidden_size=width, num_attention_heads=heads, attention_window=[2 * h],
                              attention_probs_dropout_prob=0.0, num_hidden_layers=1)
    return LongformerSelfAttention(config, layer_id=0)


def longformer_run(module, x):
    mask = torch.zeros(x.shape[:2])
    return module(x, attention_mask=mask, is_index_masked=mask < 0, is_index_global_attn=mask > 0,
                  is_global_attn=False)[0]


def linformer(width, heads, length, k):
    from linformer import LinformerSelfAttention
    return LinformerSelfAttention(width, length, k=k, heads=heads)
