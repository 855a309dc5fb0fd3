"""Hugging Face model folders: config.json with model.safetensors, or with several files and
model.safetensors.index.json.

A safetensors file is eight bytes (little-endian size of the header), a JSON header {name: {dtype,
shape, data_offsets}, "__metadata__": {...}}, and the tensors' bytes. Tensors are read where they are
used, as views of the mapped file.
"""

import json
import mmap
import pathlib

import numpy as np

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
         "I16": "<i2", "I8": "<i1", "U8": "<u1", "BOOL": "|b1"}


class Mistake(Exception):
    """A mistake in what was given: said in one line, without a trace."""


def fail(text):
    raise Mistake(text)


def need(condition, text):
    if not condition:
        fail(text)


# --- elements ------------------------------------------------------------------------------------


def widened(dtype, raw):
    """Stored elements as float32, or float64 where they are; exact."""
    if dtype == "BF16":
        return (raw.astype("<u4") << 16).view("<f4")
    need(dtype in ("F64", "F32", "F16"), f"a weight of type {dtype}: expected F32, F64, F16 or BF16")
    return raw if dtype in ("F64", "F32") else raw.astype("<f4")


def narrowed(dtype, values):
    """The inverse: (type, elements), in the wanted type if it holds the values exactly, else in the
    type that they have; doubles are rounded to it."""
    if dtype == "F64" or (dtype == "F32" and values.dtype.itemsize == 8):
        return dtype, values.astype(KINDS[dtype])
    values = values.astype("<f4")
    if dtype == "BF16":
        bits = np.ascontiguousarray(values).view("<u4")
        if not np.any(bits & 0xFFFF):
            return dtype, (bits >> 16).astype("<u2")
    if dtype == "F16":
        with np.errstate(over="ignore"):
            half = values.astype("<f2")
        if np.array_equal(half.astype("<f4").view("<u4"), np.ascontiguousarray(values).view("<u4")):
            return dtype, half
    return "F32", values


# --- a folder in memory --------------------------------------------------------------------------


class Tensor:
    """A tensor as stored: its type, and its raw elements (bf16 as uint16)."""

    def __init__(self, dtype, raw):
        self.dtype, self.raw = dtype, raw


class Folder:
    """config: text of config.json; files: {file name: {"metadata": {...} or None, "names": [...]}};
    index: metadata of the index, None where there is one file; tensors: {name: Tensor}."""

    def __init__(self, config, files, index, tensors):
        self.config_text, self.files, self.index, self.tensors = config, files, index, tensors
        try:
            self.config = json.loads(config)
        except ValueError as error:
            fail(f"{CONFIG} is no JSON: {error}")
        need(isinstance(self.config, dict), f"{CONFIG} is no object")

    def layout(self):
        """What restores names, order, types and files, without the tensors."""
        return {"config": self.config_text, "index": self.index, "files": self.files,
                "dtypes": {name: t.dtype for name, t in self.tensors.items()}}


def read_header(path, mapped):
    need(len(mapped) >= 8, f"'{path}' has {len(mapped)} bytes and is no safetensors file")
    size = int.from_bytes(mapped[:8], "little")
    need(0 < size <= len(mapped) - 8, f"'{path}' is no safetensors file, or is torn: its header "
         f"should have {size} bytes, and {len(mapped) - 8} follow")
    try:
        header = json.loads(mapped[8:8 + size])
    except ValueError as error:
        fail(f"the header of '{path}' is damaged: {error}")
    return header, 8 + size


def read_tensor(path, mapped, start, name, entry):
    dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    need(dtype in KINDS, f"'{path}': '{name}' has the unknown type {dtype}")
    kind = np.dtype(KINDS[dtype])
    need(end - begin == int(np.prod(shape, dtype=np.int64)) * kind.itemsize and
         start + end <= len(mapped), f"'{path}' is torn: '{name}' ends behind the file's end")
    count = (end - begin) // kind.itemsize
    return Tensor(dtype, np.frombuffer(mapped, kind, count, start + begin).reshape(shape))


def read_file(path):
    """(metadata, {name: Tensor}) in the order of the data."""
    try:
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        fail(f"cannot read '{path}': {error}")
    header, start = read_header(path, mapped)
    metadata = header.pop("__metadata__", None)
    names = sorted(header, key=lambda name: header[name]["data_offsets"])
    return metadata, {name: read_tensor(path, mapped, start, name, header[name]) for name in names}


def shard_names(folder):
    """The files of a folder, and the metadata of its index (None: it has one file)."""
    if (folder / SINGLE).exists():
        return [SINGLE], None
    if not (folder / INDEX).exists():
        other = " (pytorch_model.bin is a pickle: save the model again with save_pretrained(..., " \
            "safe_serialization=True))" if list(folder.glob("pytorch_model*.bin")) else ""
        fail(f"'{folder}' has neither {SINGLE} nor {INDEX}{other}")
    index = json.loads((folder / INDEX).read_text())
    return sorted(set(index["weight_map"].values())), index.get("metadata", {})


def read_folder(path):
    folder = pathlib.Path(path)
    need(folder.is_dir(), f"'{path}' is no folder: give the folder that holds {CONFIG}")
    need((folder / CONFIG).exists(), f"'{path}' has no {CONFIG}: is it a model folder?")
    names, index = shard_names(folder)
    files, tensors = {}, {}
    for name in names:
        metadata, part = read_file(folder / name)
        files[name] = {"metadata": metadata, "names": list(part)}
        tensors.update(part)
    return Folder((folder / CONFIG).read_text(), files, index, tensors)


# --- writing -------------------------------------------------------------------------------------


def write_file(path, metadata, tensors):
    header, at = {}, 0
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, t in tensors.items():
        header[name] = {"dtype": t.dtype, "shape": list(t.raw.shape),
                        "data_offsets": [at, at + t.raw.nbytes]}
        at += t.raw.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for t in tensors.values():
            file.write(np.ascontiguousarray(t.raw).tobytes())


def write_folder(path, folder):
    out = pathlib.Path(path)
    need(not (out / CONFIG).exists(), f"'{path}' already holds a model: give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    (out / CONFIG).write_text(folder.config_text)
    for name, part in folder.files.items():
        write_file(out / name, part["metadata"], {n: folder.tensors[n] for n in part["names"]})
    if folder.index is None:
        return
    places = {n: name for name, part in folder.files.items() for n in part["names"]}
    index = {"metadata": folder.index, "weight_map": dict(sorted(places.items()))}
    (out / INDEX).write_text(json.dumps(index, indent=2) + "\n")
