"""Clear up after a workflow that was killed in this folder, so that the next one can start. `make run` calls it.

SIGKILL leaves two things behind: Snakemake's lock on the folder, and jobs that go on with nobody to collect their
results. Where a Snakemake still runs in this folder, nothing is touched. Without /proc it does nothing but unlock.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path


def processes_here() -> dict[int, list[str]]:
    """Command line of each process, other than this one and its parents, whose working folder is this one."""
    here, mine, found = Path.cwd().resolve(), {os.getpid(), os.getppid()}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int(entry.name) not in mine and (entry / "cwd").resolve(strict=True) == here:
                found[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended, or belongs to somebody else
            continue
    return found


def is_snakemake(words: list[str]) -> bool:
    """Whether a command line is Snakemake's own (and not that of a shell or editor that mentions it)."""
    return any(Path(word).name == "snakemake" for word in words[:3])


def is_job(words: list[str]) -> bool:
    """Whether a command line is a stage that a rule has started."""
    return words[1:3] == ["-m", "ancdiff"] and "--settings" in words


def main() -> None:
    if not Path(".snakemake/locks").is_dir() or not any(Path(".snakemake/locks").iterdir()):
        return
    running = processes_here()
    if any(is_snakemake(words) for words in running.values()):
        return  # Snakemake itself says that the folder is locked
    for pid in [pid for pid, words in running.items() if is_job(words)]:
        print(f"a job of the run that was cut short is still there: ending process {pid}", file=sys.stderr)
        os.kill(pid, signal.SIGTERM)
    print("the last run was cut short: unlocking this folder", file=sys.stderr)
    subprocess.run(["snakemake", "--unlock", "--quiet", "all", *sys.argv[1:]], check=True)


if __name__ == "__main__":
    main()
