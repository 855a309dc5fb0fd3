"""Imported models, and what Hugging Face's own code computes with their weights.

How to run: as make_models.py (packages pinned in requirements.txt, Python 3.11).

For each case a small model with random weights is saved as a folder, experiments/import/huggingface.py
makes import_<case>.h5 of it (a Longhaul checkpoint, as tests read it), and import.h5 gets what the
package computes in float64 from the same float32 weights:

    <case>/tokens [B, N] int32, valid [B] int64
    <case>/labels [B, N] int32 (-1: not counted) or [B, 1], loss         heads lm and class; or
    <case>/seed, output       [B, N, E], or [B, 1, E] of a pooler; of sum(output * seed)
    <case>/gradients/<name>   by Longhaul's names

Where the package asks for float32 inside (softmax, RMS norm, rotary angles) it is given float64.
"""

import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile

import h5py
import numpy as np
import torch
import transformers
from transformers.models.mistral import modeling_mistral

import cases

IMPORT = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "import"
sys.path.insert(0, str(IMPORT))
import models  # noqa: E402
import safetensors_folder  # noqa: E402

LENGTH, VOCAB, PAD = 37, 40, 1
SMALL = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 24, "attn_implementation": "eager"}
BERT = SMALL | {"max_position_embeddings": LENGTH + PAD + 1, "pad_token_id": PAD,
                "type_vocab_size": 2, "hidden_dropout_prob": 0.0, "layer_norm_eps": 1e-2,
                "attention_probs_dropout_prob": 0.0}
LONG = BERT | {"attention_window": [4, 10]}
MISTRAL = SMALL | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
                   "sliding_window": 8, "max_position_embeddings": LENGTH, "rope_theta": 300.0,
                   "rms_norm_eps": 1e-2}

# name: class, config, global tokens
CASES = {
    "longformer": (transformers.LongformerModel, transformers.LongformerConfig(**LONG), "first"),
    "masked": (transformers.LongformerForMaskedLM, transformers.LongformerConfig(**LONG), "none"),
    "classes": (transformers.LongformerForSequenceClassification,
                transformers.LongformerConfig(**LONG, num_labels=3), "first"),
    "roberta": (transformers.RobertaForMaskedLM, transformers.RobertaConfig(**BERT), "none"),
    "mistral": (transformers.MistralModel, transformers.MistralConfig(**MISTRAL), "none"),
    "mistral_lm": (transformers.MistralForCausalLM, transformers.MistralConfig(**MISTRAL), "none"),
}


# --- the package in float64 ----------------------------------------------------------------------


def rms_norm(self, x):
    return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def rotary(self, x, position_ids):
    width = self.config.head_dim
    steps = torch.arange(0, width, 2, dtype=torch.float64) / width
    angles = position_ids[..., None].double() * self.config.rope_theta ** -steps
    both = torch.cat((angles, angles), dim=-1)
    return both.cos().to(x.dtype), both.sin().to(x.dtype)


@contextlib.contextmanager
def in_float64():
    kept = (torch.nn.functional.softmax, modeling_mistral.MistralRMSNorm.forward,
            modeling_mistral.MistralRotaryEmbedding.forward)

    def put(softmax, norm, angles):
        torch.nn.functional.softmax = softmax
        modeling_mistral.MistralRMSNorm.forward = norm
        modeling_mistral.MistralRotaryEmbedding.forward = angles

    put(lambda x, dim, dtype=None: kept[0](x, dim=dim), rms_norm, rotary)
    try:
        yield
    finally:
        put(*kept)


def build(kind, config):
    """Nothing starts at zero or at one exactly: what an importer forgets must show."""
    torch.manual_seed(1)
    model = kind(config).eval()
    rng = np.random.default_rng(7)
    for name, p in model.named_parameters():
        noise = torch.tensor(rng.standard_normal(tuple(p.shape)), dtype=torch.float32)
        if "norm" in name.lower() and name.endswith("weight"):
            p.data = 1.0 + 0.2 * noise
        elif p.dim() == 1:
            p.data = 0.2 * noise
        else:
            p.data = noise / (1.0 if "embed" in name else p.shape[1] ** 0.5)
    return model


# --- cases ---------------------------------------------------------------------------------------


def batch(name, decoder):
    rng = np.random.default_rng(sum(map(ord, name)))
    valid = [LENGTH, LENGTH] if decoder else [LENGTH, 23]
    tokens = rng.integers(PAD + 1, VOCAB, (2, LENGTH))
    mask = np.zeros((2, LENGTH), dtype=np.int64)
    for b, rows in enumerate(valid):
        tokens[b, rows:], mask[b, :rows] = PAD, 1
    return rng, tokens, mask, valid


def labels_of(rng, tokens, mask, name, model):
    if "SequenceClassification" in type(model).__name__:
        return np.array([[2], [0]])
    if name == "mistral_lm":  # the next token; the package shifts its labels itself
        return np.concatenate([tokens[:, 1:], np.full((len(tokens), 1), -1)], axis=1)
    return np.where((rng.random(tokens.shape) < 0.3) & (mask == 1), tokens, -1)


def loss_of(model, given, labels, name):
    """Mean over labels of the package's logits (its own loss may be of float32)."""
    theirs = given["input_ids"] if name == "mistral_lm" else torch.tensor(labels).squeeze(1)
    out = model(**given, labels=torch.where(theirs < 0, -100, theirs))
    loss = torch.nn.functional.cross_entropy(out.logits.reshape(-1, out.logits.shape[-1]),
                                             torch.tensor(labels).reshape(-1), ignore_index=-1)
    cases.check(torch.allclose(loss.float(), out.loss.float(), rtol=1e-5), f"{name}: another loss")
    return loss


def compute(name, model, far, arrays):
    """Adds batch, labels or seed, and results; leaves gradients in the model."""
    rng, tokens, mask, valid = batch(name, name.startswith("mistral"))
    arrays |= {"tokens": tokens.astype("<i4"), "valid": np.array(valid, dtype="<i8")}
    given = {"input_ids": torch.tensor(tokens)}
    if not name.startswith("mistral"):
        given["attention_mask"] = torch.tensor(mask)
    if far == "first":
        given["global_attention_mask"] = torch.tensor(np.eye(1, LENGTH, dtype=np.int64)).repeat(2, 1)
    if "For" in type(model).__name__:
        labels = labels_of(rng, tokens, mask, name, model)
        loss = loss_of(model, given, labels, name)
        arrays |= {"labels": labels.astype("<i4"), "loss": loss.item()}
        loss.backward()
        return loss
    out = model(**given)
    y = out.pooler_output[:, None] if "pooler_output" in out else out.last_hidden_state
    seed = rng.standard_normal(tuple(y.shape))
    (y * torch.tensor(seed)).sum().backward()
    arrays |= {"seed": seed, "output": y.detach().numpy()}
    return y


def gradients(model, family, arrays):
    params = dict(model.named_parameters())
    for theirs, ours in family.names().items():
        if theirs not in params:
            continue  # a second name of a shared weight
        grad = params[theirs].grad
        grad = (torch.zeros_like(params[theirs]) if grad is None else grad).numpy()
        if ours == models.POSITION:
            arrays["gradients/" + models.UNUSED] = grad[:family.offset()]
            arrays["gradients/" + models.TABLE] = grad[family.offset():]
        else:
            arrays["gradients/" + ours] = grad


def add(file, name, folder):
    kind, config, far = CASES[name]
    model = build(kind, config)
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        subprocess.run([sys.executable, IMPORT / "huggingface.py", "to-longhaul", place,
                        folder / f"import_{name}.h5", "--global", far], check=True)
        (folder / f"import_{name}.yaml").unlink()
        family = models.family(safetensors_folder.read_folder(place), None, far)
        single = compute(name, model, far, {})
        model = kind.from_pretrained(place, attn_implementation="eager").double().eval()
    arrays = {}
    with in_float64():
        result = compute(name, model, far, arrays)
    cases.check(result.dtype == torch.float64, f"{name}: not in float64")
    cases.check(torch.allclose(result.float(), single, rtol=1e-3, atol=1e-4),
                f"{name}: float64 and the package as it is differ")
    gradients(model, family, arrays)
    for key, value in arrays.items():
        file.create_dataset(f"{name}/{key}", data=value)


def main():
    folder = cases.folder()
    torch.set_default_dtype(torch.float32)
    transformers.logging.set_verbosity_error()
    with h5py.File(folder / "import.h5", "w") as file:
        for name in CASES:
            add(file, name, folder)
    for path in sorted(folder.glob("import*.h5")):
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
