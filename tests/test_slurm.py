"""The SLURM profile against a real SLURM: one node, raised in a folder for this test and ended with it.

Nothing of it is installed here; where SLURM's daemons are on the machine (Debian: slurmctld, slurmd, slurm-client,
munge) and the test runs as root, it runs. A cluster that the machine belongs to is not touched.
"""

import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from ancdiff.artifacts import read_table

REPOSITORY = Path(__file__).resolve().parent.parent
SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "srun", "sinfo")


def obstacle() -> str:
    """Why no SLURM can be raised here; empty where it can."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=SYSTEM_PATH) is None]
    if missing:
        return f"SLURM is not installed: no {', '.join(missing)}"
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        return "Snakemake's SLURM plugin is not installed (pip install ancdiff[slurm])"
    return "" if os.geteuid() == 0 else "SLURM's daemons are started by root"


pytestmark = pytest.mark.skipif(bool(obstacle()), reason=obstacle())

CONFIGURATION = """
ClusterName=ancdiff
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/finished.txt
MinJobAge=300
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=20000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Cluster:
    """A running single-node SLURM."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        # A wrapper of srun comes first on PATH (see docs/troubleshooting.md: the plugin drops SLURM_CONF before srun).
        path = os.pathsep.join([str(self.folder / "bin"), SYSTEM_PATH])
        return os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def ask(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False).stdout

    def finished(self) -> list[dict[str, str]]:
        """What SLURM wrote about each job that ended."""
        path = self.folder / "finished.txt"
        lines = path.read_text().splitlines() if path.is_file() else []
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    folder = tmp_path / "slurm"
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir(parents=True)
    started = Cluster(folder)
    text = CONFIGURATION.format(
        host=socket.gethostname(), folder=folder, controller_port=free_port(), node_port=free_port()
    )
    (folder / "slurm.conf").write_text(text)
    srun = shutil.which("srun", path=SYSTEM_PATH)
    (folder / "bin" / "srun").write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {srun} "$@"\n')
    (folder / "bin" / "srun").chmod(0o755)
    munge = folder / "munge"
    munge.mkdir(mode=0o700)
    (munge / "key").write_bytes(secrets.token_bytes(1024))
    (munge / "key").chmod(0o400)
    try:
        for command in (
            (
                # --force: the socket lies in a folder that only root can enter, and only root asks.
                *("munged", "--force", f"--socket={folder}/munge.socket", f"--key-file={munge}/key"),
                *(f"--pid-file={folder}/munged.pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed"),
            ),
            ("slurmctld", "-c", "-f", f"{folder}/slurm.conf"),
            ("slurmd", "-N", socket.gethostname(), "-f", f"{folder}/slurm.conf"),
        ):
            done = subprocess.run(command, env=started.environment, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"{command[0]} does not start here: {done.stderr.strip()}")
        deadline = time.monotonic() + 30
        while "idle" not in started.ask("sinfo", "--noheader", "--format=%T"):
            if time.monotonic() > deadline:
                pytest.skip(f"SLURM's node does not come up here: {(folder / 'slurmctld.log').read_text()[-500:]}")
            time.sleep(0.5)
        yield started
    finally:
        started.ask("scancel", "--user=root")
        for daemon in ("slurmd", "slurmctld", "munged"):
            pid = folder / f"{daemon}.pid"
            if pid.is_file():
                os.kill(int(pid.read_text()), signal.SIGTERM)


@pytest.mark.slow
def test_jobs_of_the_profile_run_on_slurm(cluster: Cluster, tmp_path: Path) -> None:
    """Three jobs, two of them side by side; with the profile's own time, memory and CPUs."""
    project = tmp_path / "ancdiff"
    left_out = shutil.ignore_patterns(".git", ".venv", ".snakemake", ".*_cache", "__pycache__", "results", "data")
    shutil.copytree(REPOSITORY, project, ignore=left_out)
    profile = project / "workflow" / "profiles" / "slurm" / "config.yaml"
    with_squeue = profile.read_text().replace("# slurm-status-command: squeue", "slurm-status-command: squeue")
    assert "\nslurm-status-command: squeue" in with_squeue  # what docs/troubleshooting.md tells without accounting
    profile.write_text(with_squeue)
    raw = yaml.safe_load((REPOSITORY / "tests" / "tiny.yaml").read_text())
    raw["simulate"]["training"] |= {"replicas": 2, "replica_ps": 2.0}
    raw["simulate"]["reference"] |= {"replica_ns": 0.004}
    (project / "short.yaml").write_text(yaml.safe_dump(raw))
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", "workflow/profiles/slurm"]
    command += ["--configfile", "short.yaml", "--until", "dataset"]
    # No need to wait for a slow scheduler or file system.
    command += ["--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "5"]
    ran = subprocess.run(
        command,
        cwd=project,
        env=cluster.environment | {"PYTHONPATH": str(project)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stdout
    split = read_table(project / "results" / "tiny" / "dataset" / "split.parquet")
    assert set(split["md"]) == {"training", "reference"}
    jobs = cluster.finished()
    assert [job["JobState"] for job in jobs] == ["COMPLETED"] * 3
    asked = sorted((job["TimeLimit"], job["Tres"].split(",")[:2]) for job in jobs)
    assert asked == [("1440", ["cpu=1", "mem=2000M"])] * 2 + [("60", ["cpu=1", "mem=8000M"])]
