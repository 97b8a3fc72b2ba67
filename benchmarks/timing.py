"""What the benchmarks share: the time of a call, the memory at its peak, and their options."""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch


def seconds_of(work: Callable[[], object], *, at_least: float) -> float:
    """Seconds of one call: the best of as many as fit the time, at least two, after one to warm up."""
    work()
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 2 or time.perf_counter() - started < at_least:
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def forget_peak_memory() -> None:
    """Let the peak of this process's memory begin anew, at what it holds now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mib() -> float:
    """Largest resident memory of this process (Linux; `ru_maxrss` would begin with that of the one that started it)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def options_of(description: str, *, seconds: float) -> argparse.Namespace:
    """``--seconds`` and ``--threads`` of the command line; sets the number of threads and says it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--seconds", type=float, default=seconds, help=f"time for each measurement (default: {seconds:g})"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="default: all cores")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, torch {torch.__version__}, sizes of config.yaml")
    return options
