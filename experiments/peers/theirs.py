"""Their side: processes of worker.py, one for each implementation."""

import json
import os
import pathlib
import subprocess
import sys

WORKER = pathlib.Path(__file__).resolve().parent / "worker.py"
# Freed memory is kept, and asked for in huge pages as Longhaul does it: faster for them, not always
# smaller, so processes in which memory is measured go without.
QUICK = {"THP_MEM_ALLOC_ENABLE": "1", "MALLOC_MMAP_MAX_": "0",
         "MALLOC_TRIM_THRESHOLD_": "100000000000"}


class Unable(Exception):
    """It cannot run; the reason."""


class Worker:
    """An implementation, loaded and warm. spec: what worker.py's classes read."""

    def __init__(self, spec, threads, seed, quick=True):
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads),
                                    "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen([sys.executable, str(WORKER)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                        env=environment | (QUICK if quick else {}))
        self.answer = self.ask(spec | {"threads": threads, "seed": seed})
        if "ready" not in self.answer:
            self.close()
            missing = self.answer.get("missing")
            raise Unable(f"{missing} is not installed" if missing else self.answer["failed"])

    def ask(self, order):
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self.process.wait()
            raise Unable(f"its process ended with code {code}" + (" (memory?)" if code == -9 else ""))
        return json.loads(line)

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # it is dead already
        self.process.wait()
        self.process.stdout.close()


def memory(spec, threads, seed):
    """Peaks of one pass in a process of its own."""
    worker = Worker(spec, threads, seed, quick=False)
    try:
        return worker.ask({"do": "memory"})
    finally:
        worker.close()
