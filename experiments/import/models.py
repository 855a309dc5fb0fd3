"""The architectures: what config.json means in Longhaul's model section, and the names of tensors.

A family gives, for a folder, `settings` (the model section, without attention), `attention` (text),
and `names`: {their name: our name}. Two of ours may lie in one of theirs: POSITION is the table of
positions with its unused rows in front.
"""

from safetensors_folder import Tensor, Folder, fail, need

import json

import numpy as np

POSITION = "position"  # theirs: rows of embedding.unused_position, then of embedding.position
UNUSED, TABLE = "embedding.unused_position.weight", "embedding.position.weight"
GLOBAL = ("query_global", "key_global", "value_global")


def value(config, key, default=None):
    """A number or word of config.json that must be there unless it has a default."""
    if key not in config and default is None:
        fail(f"config.json has no '{key}'")
    got = config.get(key, default)
    return default if got is None else got


def expect(config, key, allowed, default):
    got = config.get(key, default)
    need(got in allowed, f"config.json: '{key}' is {json.dumps(got)}; supported: "
         + " or ".join(json.dumps(a) for a in allowed))


def both(names, theirs, ours):
    for part in ("weight", "bias"):
        names[f"{theirs}.{part}"] = f"{ours}.{part}"


# --- RoBERTa and Longformer ----------------------------------------------------------------------


class Encoder:
    """RobertaModel, LongformerModel and their heads for masked words and for classes."""

    def __init__(self, folder, head, far, tied):
        self.config, self.far, self.given_tied = folder.config, far, tied
        self.kind = folder.config["model_type"]
        self.long = self.kind == "longformer"
        self.names_there = folder.tensors
        prefix = self.kind + "."
        self.prefix = prefix if any(n.startswith(prefix) for n in folder.tensors) else ""
        self.head = head or self.head_of()
        self.check()

    def head_of(self):
        if "lm_head.dense.weight" in self.names_there:
            return "lm"
        if "classifier.out_proj.weight" in self.names_there:
            return "class"
        return "pooler" if self.prefix + "pooler.dense.weight" in self.names_there else "none"

    def check(self):
        c = self.config
        expect(c, "hidden_act", ["gelu"], "gelu")
        expect(c, "position_embedding_type", ["absolute"], "absolute")
        expect(c, "is_decoder", [False], False)
        expect(c, "add_cross_attention", [False], False)
        need(self.head in ("lm", "class", "pooler", "none"), f"--head {self.head}: expected lm, class, "
             "pooler or none")
        for theirs in self.head_names():
            optional = theirs in ("lm_head.decoder.weight", "lm_head.decoder.bias")
            need(optional or theirs in self.names_there, f"the folder has no '{theirs}', which the "
                 f"head {self.head} needs: give another --head")

    def offset(self):
        return value(self.config, "pad_token_id", 1) + 1

    def positions(self):
        return value(self.config, "max_position_embeddings") - self.offset()

    def tied(self):
        """The decoder's weight, where it is stored, is the embedding's."""
        if self.given_tied is not None:
            return self.given_tied
        own = self.names_there.get("lm_head.decoder.weight")
        table = self.names_there[self.prefix + "embeddings.word_embeddings.weight"]
        return own is None or np.array_equal(own.raw, table.raw)

    def settings(self):
        c = self.config
        out = {"kind": "encoder", "head": self.head, "vocab": value(c, "vocab_size"),
               "layers": value(c, "num_hidden_layers"), "width": value(c, "hidden_size"),
               "heads": value(c, "num_attention_heads"), "mlp": "gelu",
               "mlp_width": value(c, "intermediate_size"), "norm": "post", "norm_kind": "layer",
               "norm_eps": value(c, "layer_norm_eps", 1e-12), "position": "learned",
               "max_length": self.positions(), "position_offset": self.offset(),
               "token_types": value(c, "type_vocab_size", 2), "bias": True,
               "dropout": value(c, "hidden_dropout_prob", 0.1)}
        if self.head == "lm":
            out |= {"head_transform": True, "tie_embeddings": self.tied()}
        if self.head == "class":
            out |= {"pool": "first", "pooler": True,
                    "classes": len(self.names_there["classifier.out_proj.bias"].raw)}
        return out

    def windows(self):
        w = value(self.config, "attention_window", 512)
        w = w if isinstance(w, list) else [w] * value(self.config, "num_hidden_layers")
        need(all(x % 2 == 0 and x > 0 for x in w), f"config.json: 'attention_window' is {w}; "
             "expected even numbers")
        return [x // 2 for x in w]

    def attention(self):
        if not self.long:
            return "{mechanism: full}"
        w = self.windows()
        w = w[0] if len(set(w)) == 1 else w
        return f"{{mechanism: sliding_window, window: {w}, global: {self.far}}}"

    def head_names(self):
        names = {}
        if self.head == "lm":
            both(names, "lm_head.dense", "head.transform")
            both(names, "lm_head.layer_norm", "head.norm")
            names["lm_head.bias"] = names["lm_head.decoder.bias"] = "head.bias"
            tied = self.tied()
            names["lm_head.decoder.weight"] = "embedding.token.weight" if tied else "head.weight"
        if self.head == "class":
            both(names, "classifier.dense", "head.pooler")
            both(names, "classifier.out_proj", "head.classifier")
        if self.head == "pooler":
            both(names, self.prefix + "pooler.dense", "head.pooler")
        return names

    def layer_names(self, names, i):
        theirs, ours = f"{self.prefix}encoder.layer.{i}", f"layer.{i}"
        far = GLOBAL if self.long and self.far != "none" else ()
        for part in ("query", "key", "value") + far:
            both(names, f"{theirs}.attention.self.{part}", f"{ours}.attention.{part}")
        both(names, f"{theirs}.attention.output.dense", f"{ours}.attention.output")
        both(names, f"{theirs}.attention.output.LayerNorm", f"{ours}.attention.norm")
        both(names, f"{theirs}.intermediate.dense", f"{ours}.mlp.up")
        both(names, f"{theirs}.output.dense", f"{ours}.mlp.down")
        both(names, f"{theirs}.output.LayerNorm", f"{ours}.mlp.norm")

    def names(self):
        at = self.prefix + "embeddings."
        names = {at + "word_embeddings.weight": "embedding.token.weight",
                 at + "position_embeddings.weight": POSITION,
                 at + "token_type_embeddings.weight": "embedding.token_type.weight"}
        both(names, at + "LayerNorm", "embedding.norm")
        for i in range(value(self.config, "num_hidden_layers")):
            self.layer_names(names, i)
        return names | self.head_names()

    def task(self):
        return "masked_text"

    def length(self):
        return self.positions()


# --- Mistral -------------------------------------------------------------------------------------


class Mistral:
    """MistralModel and MistralForCausalLM."""

    def __init__(self, folder, head, far, tied):
        del far, tied
        self.config, self.names_there = folder.config, folder.tensors
        c = self.config
        expect(c, "hidden_act", ["silu"], "silu")
        expect(c, "rope_scaling", [None], None)
        rope = c.get("rope_parameters") or {}
        expect(rope, "rope_type", ["default"], "default")
        self.base = rope.get("rope_theta", c.get("rope_theta", 10000.0))
        self.prefix = "model." if any(n.startswith("model.") for n in folder.tensors) else ""
        self.tied = bool(c.get("tie_word_embeddings", False))
        has = self.tied and "ForCausalLM" in str(c.get("architectures"))
        self.head = head or ("lm" if has or "lm_head.weight" in folder.tensors else "none")
        need(self.head in ("lm", "none"), f"--head {self.head}: a decoder has lm or none")

    def settings(self):
        c = self.config
        heads, width = value(c, "num_attention_heads"), value(c, "hidden_size")
        return {"kind": "decoder", "head": self.head, "vocab": value(c, "vocab_size"),
                "layers": value(c, "num_hidden_layers"), "width": width, "heads": heads,
                "kv_heads": value(c, "num_key_value_heads", heads),
                "head_width": value(c, "head_dim", width // heads), "mlp": "swiglu",
                "mlp_width": value(c, "intermediate_size"), "norm": "pre", "norm_kind": "rms",
                "norm_eps": value(c, "rms_norm_eps", 1e-6), "position": "rotary",
                "rotary_base": self.base, "tie_embeddings": self.tied, "bias": False,
                "dropout": 0.0}

    def attention(self):
        window = self.config.get("sliding_window")
        if window is None:
            return "{mechanism: full}"
        return f"{{mechanism: sliding_window, window: {window - 1}}}"

    def names(self):
        p = self.prefix
        names = {p + "embed_tokens.weight": "embedding.token.weight",
                 p + "norm.weight": "final.norm.weight"}
        for i in range(value(self.config, "num_hidden_layers")):
            theirs, ours = f"{p}layers.{i}", f"layer.{i}"
            for part, mine in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "output")):
                names[f"{theirs}.self_attn.{part}_proj.weight"] = f"{ours}.attention.{mine}.weight"
            for part in ("gate", "up", "down"):
                names[f"{theirs}.mlp.{part}_proj.weight"] = f"{ours}.mlp.{part}.weight"
            names[f"{theirs}.input_layernorm.weight"] = f"{ours}.attention.norm.weight"
            names[f"{theirs}.post_attention_layernorm.weight"] = f"{ours}.mlp.norm.weight"
        if self.head == "lm":
            names["lm_head.weight"] = "embedding.token.weight" if self.tied else "head.weight"
        return names

    def offset(self):
        return 0

    def task(self):
        return "text"

    def length(self):
        return min(value(self.config, "max_position_embeddings", 4096), 8192)


FAMILIES = {"longformer": Encoder, "roberta": Encoder, "mistral": Mistral}


def family(folder, head=None, far="first", tied=None):
    """head, tied: None is what the folder's tensors say."""
    kind = folder.config.get("model_type")
    need(kind in FAMILIES, f"config.json: 'model_type' is {json.dumps(kind)}; supported: "
         + ", ".join(sorted(FAMILIES)))
    return FAMILIES[kind](folder, head, far, tied)


# --- more positions ------------------------------------------------------------------------------


def longer_table(table, unused, length):
    """The learned rows again and again behind each other (Beltagy et al. 2020, section 5)."""
    learned = table[unused:]
    times = -(-length // len(learned))
    return np.concatenate([table[:unused]] + [learned] * times)[:unused + length]


def longer_config(config, length, window, unused):
    out = {k: v for k, v in config.items() if k not in ("position_embedding_type", "use_cache",
                                                        "classifier_dropout")}
    out["model_type"] = "longformer"
    out["architectures"] = [a.replace("Roberta", "Longformer")
                            for a in config.get("architectures") or ["RobertaModel"]]
    if config["model_type"] == "roberta":
        out["attention_window"] = [window] * config["num_hidden_layers"]
    out["max_position_embeddings"] = unused + length
    return out


def extended(folder, length, window):
    """A RoBERTa or Longformer with `length` positions, as a Longformer: positions copied, global
    projections as copies of the others, windows of `window` (Hugging Face's: both sides together)."""
    kind = folder.config.get("model_type")
    need(kind in ("roberta", "longformer"), f"--length: a model of type {json.dumps(kind)} has no table "
         "of positions; set data.length in the experiment file")
    old = family(folder)
    need(length >= old.positions(), f"--length {length}: the model has {old.positions()} positions "
         "already; a shorter data.length needs no other checkpoint")
    tensors = {}
    for name, t in folder.tensors.items():
        new = "longformer." + name[8:] if name.startswith("roberta.") else name
        if name.endswith("embeddings.position_ids"):
            continue  # a counter, not a weight
        if name.endswith("position_embeddings.weight"):
            t = Tensor(t.dtype, longer_table(t.raw, old.offset(), length))
        tensors[new] = t
        for part in ("query", "key", "value"):
            if f"attention.self.{part}." in new and kind == "roberta":
                tensors[new.replace(f".{part}.", f".{part}_global.")] = t
    config = longer_config(folder.config, length, window, old.offset())
    files = {"model.safetensors": {"metadata": {"format": "pt"}, "names": sorted(tensors)}}
    return Folder(json.dumps(config, indent=2, sort_keys=True) + "\n", files, None, tensors)
