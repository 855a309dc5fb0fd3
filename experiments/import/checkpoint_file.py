"""Longhaul's checkpoints (layout: io/checkpoint.h), written and read from Python.

The file is HDF5 behind a head of 512 bytes, which holds the size and a digest of the rest. Digests
and checksums are sums of a hash of (word, index) modulo 2^64, as io/digest.h defines them: of the
file's 8-byte words, and of the bits of a tensor's elements.
"""

import os
import pathlib

import h5py
import numpy as np

from safetensors_folder import fail, need

MAGIC, VERSION, HEAD, BLOCK = "longhaul checkpoint ", 1, 512, 1 << 20


def hashed(words, first):
    """Sum of the hashes of words (uint64) first, first + 1, ..."""
    index = np.arange(first + 1, first + 1 + len(words), dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = words * np.uint64(0xD6E8FEB86659FD93) + index * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return int((z ^ (z >> np.uint64(31))).sum(dtype=np.uint64))


def file_digest(path):
    digest, at = 0, 0
    with open(path, "rb") as file:
        file.seek(HEAD)
        while part := file.read(8 * BLOCK):
            words = np.frombuffer(part + bytes(-len(part) % 8), "<u8")
            digest += hashed(words, at)
            at += len(words)
    return digest % 2**64


def tensor_checksum(array):
    flat = np.ascontiguousarray(array).reshape(-1)
    bits = flat.view("<u4" if flat.dtype.itemsize == 4 else "<u8")
    total = sum(hashed(bits[i:i + BLOCK].astype("<u8"), i) for i in range(0, len(bits), BLOCK))
    return f"{total % 2**64:016x}"


def head_text(path):
    text = f"{MAGIC}{VERSION}\nbytes {os.path.getsize(path):020d}\ndigest {file_digest(path):016x}\n"
    return text.encode().ljust(HEAD, b"\0")


def put_text(place, name, text):
    data = text.encode()
    place.attrs.create(name, data, dtype=f"S{len(data) + 1}")


def put_string(file, name, text):
    data = text.encode()
    file.create_dataset(name, data=np.array(data, dtype=f"S{len(data) + 1}"))


def write(path, parameters, config, record, left):
    """parameters: {our name: float32 or float64 array}; config: experiment file as text; record, left:
    what the way back needs besides (text; {name: raw array}), which Longhaul does not look at."""
    beside = f"{path}.tmp"
    with h5py.File(beside, "w", userblock_size=HEAD) as file:
        wide = any(a.dtype.itemsize == 8 for a in parameters.values())
        for name, value in {"format_version": VERSION, "step": 0, "tokens": 0, "samples": 0,
                            "data_bytes": 0, "seed": 0, "ranks": 1, "data": 1, "sequence": 1,
                            "optimizer": 0}.items():
            file.attrs.create(name, np.int64(value))
        for name, text in {"program": "import", "layout": "contiguous",
                           "precision": "double" if wide else "float"}.items():
            put_text(file, name, text)
        put_string(file, "configuration", config)
        for name, array in parameters.items():
            data = file.create_dataset("parameters/" + name, data=array)
            put_text(data, "checksum", tensor_checksum(array))
        put_string(file, "huggingface/record", record)
        for name, array in left.items():
            file.create_dataset("huggingface/left/" + name, data=array)
        file.attrs.create("complete", np.int64(1))
    head = head_text(beside)
    with open(beside, "r+b") as file:
        file.write(head)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


class Checkpoint:
    """An open checkpoint, for reading; its digest was checked."""

    def __init__(self, path):
        need(pathlib.Path(path).is_file(), f"there is no file '{path}'")
        with open(path, "rb") as file:
            head = file.read(HEAD)
        need(head.startswith(MAGIC.encode()), f"'{path}' is not a Longhaul checkpoint")
        need(head == head_text(path), f"'{path}' is damaged: its digest or size is not what its "
             "beginning says")
        self.path, self.file = path, h5py.File(path, "r")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def names(self):
        return list(self.file["parameters"])

    def parameter(self, name):
        if name not in self.file["parameters"]:
            fail(f"'{self.path}' has no parameter '{name}': it is of another model")
        data = self.file["parameters"][name]
        array = data[()]
        need(data.attrs["checksum"].decode() == tensor_checksum(array),
             f"'{self.path}': the checksum of '{name}' is wrong: the file is damaged")
        return array

    def record(self):
        """Text, or None: a checkpoint that a run has written holds none."""
        return self.file["huggingface/record"][()].decode() if "huggingface" in self.file else None

    def left(self):
        group = self.file.get("huggingface/left", {})
        return {name: group[name][()] for name in group}
