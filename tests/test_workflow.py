"""The workflow on a tiny configuration, really run: what reruns, what does not, and what survives a SIGKILL.

The repository is copied, so that its code can be changed; `python -m ancdiff` and the Snakefile take the package of the
copy. Where a dry run tells enough, it is one.
"""

import ast
import base64
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from made_compounds import write_archive
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from ancdiff import workflow
from ancdiff.artifacts import read_ensemble
from ancdiff.config import Config, Section, load_config, parse_config
from ancdiff.corridor import PRETRAINED, Layout, models, without_seed

REPOSITORY = Path(__file__).resolve().parent.parent
TINY = "tests/tiny.yaml"
# Without the one for compounds, and the one for alignment by paths.
PEPTIDE_STAGES = tuple(stage for stage in workflow.SECTIONS if stage not in ("generate", "weigh"))
FOLLOWING_ALIGN = {"sample": 1, "score": 1, "evaluate": 1, "report": 1, "all": 1}
# One thread for training, as sums over several threads may differ in their last digit.
RUN = ("--cores", "2", "--set-threads", "pretrain=1")


@dataclass(frozen=True)
class Project:
    """A copy of the repository in which the workflow runs."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}

    @property
    def results(self) -> Path:
        return self.folder / "results" / "tiny"

    def snakemake(self, *arguments: str, config: str | Path = TINY) -> subprocess.CompletedProcess[str]:
        """Run Snakemake to its end, both streams in one."""
        return subprocess.run(
            [sys.executable, "-m", "snakemake", *RUN, "--configfile", str(config), *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=900,
        )

    def finish(self, *arguments: str, config: str | Path = TINY) -> str:
        """Run and insist that it ends well."""
        ran = self.snakemake(*arguments, config=config)
        assert ran.returncode == 0, ran.stdout
        return ran.stdout

    def planned(self, *arguments: str, config: str | Path = TINY) -> dict[str, int]:
        """How many jobs of each rule a run would start now."""
        ran = self.snakemake("--dry-run", *arguments, config=config)
        assert ran.returncode == 0, ran.stdout
        if "Nothing to be done" in ran.stdout:
            return {}
        table = ran.stdout.split("Job stats:")[1].split("total")[0].splitlines()[3:]
        return {name: int(count) for name, count in (line.split() for line in table if line.strip())}

    def copy_to(self, folder: Path) -> "Project":
        """The same project, results and Snakemake's records included, for a test that changes them."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)


def changed(folder: Path, section: str, **keys: object) -> Path:
    """The tiny configuration with some keys of a section changed, as a file of its own."""
    raw = yaml.safe_load((REPOSITORY / TINY).read_text())
    raw[section] = raw.get(section, {}) | keys
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def copy_repository(folder: Path) -> Project:
    """The repository's files, without results and environments; the bundled MD is linked."""
    left_out = shutil.ignore_patterns(
        ".git", ".venv", ".snakemake", ".*_cache", "__pycache__", "results", "data", "*.egg-info"
    )
    shutil.copytree(REPOSITORY, folder, ignore=left_out)
    if (REPOSITORY / "data").is_dir():
        (folder / "data").symlink_to(REPOSITORY / "data")
    return Project(folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose tiny run has ended; tests leave it as it is."""
    project = copy_repository(tmp_path_factory.mktemp("finished") / "ancdiff")
    project.finish()
    return project


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project without results, in which nothing is run."""
    return copy_repository(tmp_path_factory.mktemp("bare") / "ancdiff")


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    """A project without results."""
    return copy_repository(tmp_path / "ancdiff")


def digests(folder: Path, patterns: tuple[str, ...] = ("*",)) -> dict[str, str]:
    """SHA-256 of the files below a folder, hidden ones left out."""
    found = {}
    for path in (path for pattern in patterns for path in folder.rglob(pattern)):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            found[str(relative)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


# ---------------------------------------------------------------------------------------------- what a run leaves


def test_a_run_ends_with_its_report_and_leaves_no_hidden_work(finished: Project) -> None:
    page = (finished.results / "report.html").read_text(encoding="utf-8")
    assert "A tiny run" in page
    assert not list(finished.results.rglob(".work/*"))
    for stage in PEPTIDE_STAGES:
        assert list((finished.results / "benchmarks").glob(f"{stage}*")), f"no benchmark of {stage}"
        assert list((finished.results / "logs").glob(f"{stage}*")), f"no log of {stage}"


def test_a_second_run_has_nothing_to_do(finished: Project) -> None:
    assert "Nothing to be done" in finished.finish()


def test_a_set_of_compounds_goes_its_own_way_and_ends_with_its_report(tmp_path: Path) -> None:
    project = copy_repository(tmp_path / "ancdiff")
    write_archive(project.folder)
    config = "tests/tiny-compounds.yaml"
    # Two sets of compounds: the main one, and one to compare.
    rules = {"all": 1, "dataset": 1, "pretrain": 1, "generate": 2, "evaluate": 1, "report": 1}
    assert project.planned(config=config) == rules
    project.finish(config=config)
    assert "A tiny set of compounds" in (project.folder / "results/tiny_compounds/report.html").read_text()
    assert project.planned(config=config) == {}


def test_snakemake_report_works(finished: Project, tmp_path: Path) -> None:
    finished.finish("--report", str(tmp_path / "snakemake.html"))
    assert "report.html" in (tmp_path / "snakemake.html").read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------------------- what reruns


def test_changed_alignment_reruns_align_and_what_follows_only(finished: Project, tmp_path: Path) -> None:
    assert finished.planned(config=changed(tmp_path, "align", steps=7)) == {"align": 1} | FOLLOWING_ALIGN


@pytest.mark.parametrize(
    ("section", "key", "value", "untouched"),
    [
        ("simulate", "seed", 8, ""),
        ("dataset", "max_bond_stretch", 0.4, "simulate"),
        ("pretrain", "steps", 160, "simulate dataset"),
        ("sample", "steps", 9, "simulate dataset pretrain"),
        ("score", "max_iterations", 60, "simulate dataset pretrain"),
        ("evaluate", "seed", 8, "simulate dataset pretrain sample score align"),
        ("report", "title", "Another title", "simulate dataset pretrain sample score align evaluate"),
    ],
)
def test_a_changed_setting_reruns_its_stage_and_what_follows_only(
    finished: Project, tmp_path: Path, section: str, key: str, value: object, untouched: str
) -> None:
    planned = finished.planned(config=changed(tmp_path, section, **{key: value}))
    assert set(planned) == {*PEPTIDE_STAGES, "all"} - set(untouched.split())


def test_alignment_by_paths_weighs_the_frames_of_the_md_once_for_all_lines(finished: Project, tmp_path: Path) -> None:
    path = changed(tmp_path, "sample", solver="ancestral", eta=1.0, log_density="path", log_density_probes=1)
    raw = yaml.safe_load(path.read_text())
    raw["diffusion"] = {"superpose": False}
    raw["align"] |= {"objectives": ["eba", "eba_long"], "variants": {"eba_long": {"steps": 12}}, "replay_models": 1}
    raw["align"] |= {"anchor_update": "bridge", "anchor_energy": "path"}
    path.write_text(yaml.safe_dump(raw))
    planned = finished.planned(config=path)
    assert (planned["weigh"], planned["align"]) == (1, 2)
    corridor = workflow.Corridor(parse_config(raw))
    assert [Path(name).name for name in corridor.sampled_densities()] == ["log_density.parquet", "posteriors.json"]


def test_another_round_keeps_what_does_not_depend_on_it(finished: Project, tmp_path: Path) -> None:
    planned = finished.planned(config=changed(tmp_path, "align", rounds=2))
    assert not {"simulate", "dataset", "pretrain"} & set(planned)
    assert planned["align"] == 2


def test_another_seed_reruns_only_what_belongs_to_it(finished: Project, tmp_path: Path) -> None:
    project = finished.copy_to(tmp_path / "seeds")
    per_seed = {"pretrain": 1, "sample": 2, "score": 2, "align": 1}
    last = {"evaluate": 1, "report": 1, "all": 1}
    # From one seed to two, models get names of their own: they are made anew, the MD and its energies are kept.
    two = changed(tmp_path, "run", seeds=[1, 2])
    assert project.planned(config=two) == {rule: 2 * jobs for rule, jobs in per_seed.items()} | last
    # As if the two had been run: the one seed's files under both seeds' names, and Snakemake's record of them.
    for model in models(load_config(two)):
        copy_model(Layout(project.results), without_seed(model), model)
    project.finish("--touch", config=two)
    assert project.planned(config=two) == {}
    for seeds in ([1, 2, 3], [2, 3]):
        assert project.planned(config=changed(tmp_path, "run", seeds=seeds)) == per_seed | last
    assert project.planned(config=changed(tmp_path, "run", seeds=[2, 1])) == last


def test_the_run_over_seeds_has_every_model_once_for_each_seed(bare: Project) -> None:
    path = "configs/peptides-seeds.yaml"
    config = load_config(REPOSITORY / path)
    seeds, systems = len(config.run.seeds), len(config.systems)
    aligned = seeds * config.align.rounds * len(config.align.objectives)
    planned = bare.planned(config=path)
    assert seeds >= 3
    assert (planned["pretrain"], planned["align"]) == (seeds, aligned)
    assert planned["sample"] == (seeds + aligned) * systems
    assert planned["score"] == planned["sample"] + 2 * systems
    assert planned["simulate"] == 2 * systems
    assert config.systems == load_config(REPOSITORY / "config.yaml").systems


def test_an_overlay_gives_another_run_three_seeds_and_changes_nothing_else(bare: Project) -> None:
    alone = bare.planned(config="configs/alanine.yaml")
    three = bare.planned("--configfile", "configs/alanine.yaml", "configs/overlays/three-seeds.yaml")
    md_scored = 2  # training and reference, once for all seeds
    assert three["score"] - md_scored == 3 * (alone["score"] - md_scored)
    for stage in ("simulate", "dataset", "evaluate", "report"):
        assert three[stage] == alone[stage]
    for stage in ("pretrain", "weigh", "sample", "align"):
        assert three[stage] == 3 * alone[stage]


def copy_model(layout: Layout, source: str, target: str) -> None:
    """A model with its samples and their energies under another name."""
    for one, other in (
        (layout.model(source).parent, layout.model(target).parent),
        (layout.ensemble(source, "ala").parent, layout.ensemble(target, "ala").parent),
        (layout.energies(source, "ala").parent, layout.energies(target, "ala").parent),
    ):
        shutil.copytree(one, other, ignore=shutil.ignore_patterns("seed*"))


def edit(path: Path, change: Callable[[str], str]) -> Callable[[], None]:
    """Change a file; returns what puts it back, modification time included."""
    before, stat = path.read_text(encoding="utf-8"), path.stat()
    after = change(before)
    assert after != before
    path.write_text(after, encoding="utf-8")

    def undo() -> None:
        path.write_text(before, encoding="utf-8")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    return undo


def with_a_number_changed(source: str) -> str:
    """The code with the first number inside one of its functions raised by one."""
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    number = next(
        node
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Constant) and type(node.value) in (int, float)
    )
    lines = source.splitlines(keepends=True)
    line = lines[number.lineno - 1].encode()
    assert number.end_col_offset is not None
    changed = line[: number.col_offset] + str(number.value + 1).encode() + line[number.end_col_offset :]
    lines[number.lineno - 1] = changed.decode()
    return "".join(lines)


def test_a_changed_number_in_the_code_of_score_reruns_score_and_what_follows_only(finished: Project) -> None:
    undo = edit(finished.folder / "ancdiff" / "score.py", with_a_number_changed)
    planned = finished.planned()
    undo()
    assert planned == {"score": 4, "align": 1} | FOLLOWING_ALIGN | {"score": 4}
    assert finished.planned() == {}


def test_a_changed_number_in_the_code_of_pretrain_leaves_the_data_alone(finished: Project) -> None:
    undo = edit(finished.folder / "ancdiff" / "pretrain.py", with_a_number_changed)
    planned = finished.planned()
    undo()
    assert "pretrain" in planned
    assert not {"simulate", "dataset"} & set(planned)


def test_a_changed_template_reruns_the_report_only(finished: Project) -> None:
    undo = edit(finished.folder / "ancdiff" / "report" / "report.css", lambda text: text + "\nbody { color: teal; }\n")
    planned = finished.planned()
    undo()
    assert planned == {"report": 1, "all": 1}


def test_comments_and_docstrings_rerun_nothing(finished: Project) -> None:
    undo = []
    for path in (finished.folder / "ancdiff").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        body = ast.parse(source).body
        if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            undo.append(edit(path, lambda text: text.replace('"""', '"""Said in other words. ', 1) + "\n# a comment\n"))
    assert len(undo) > 10
    planned = finished.planned()
    for put_back in undo:
        put_back()
    assert planned == {}


def test_touched_files_rerun_nothing(finished: Project) -> None:
    for folder in ("results", "ancdiff", "workflow"):
        for path in (finished.folder / folder).rglob("*"):
            if path.is_file():
                path.touch()
    for name in ("Snakefile", TINY):
        (finished.folder / name).touch()
    assert finished.planned() == {}


def test_what_an_interrupted_run_made_anew_still_reruns_what_follows(finished: Project, tmp_path: Path) -> None:
    """The next invocation sees by contents that stages after the interruption are out of date."""
    project = finished.copy_to(tmp_path / "interrupted")
    config = changed(tmp_path, "simulate", seed=8)
    project.finish("--until", "dataset", config=config)
    planned = project.planned(config=config)
    assert not {"simulate", "dataset"} & set(planned)
    assert {"pretrain", "sample", "score", "align", "evaluate", "report"} <= set(planned)


# ---------------------------------------------------------------------------------------------- SIGKILL


def start(project: Project, log: Path) -> subprocess.Popen[bytes]:
    """Start the run in a process group of its own, one job at a time."""
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", TINY],
            cwd=project.folder,
            env=project.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def kill_in(project: Project, stage: str, log: Path) -> None:
    """SIGKILL the run and all its jobs while a job of a stage is at work."""
    running = start(project, log)
    logs = project.results / "logs"
    before = set(logs.glob(f"{stage}/**/*.log")) | set(logs.glob(f"{stage}.log"))
    for path in before:  # an earlier, finished job of the stage
        os.utime(path, (0, 0))
    try:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            assert running.poll() is None, f"the run ended before {stage} was killed:\n{log.read_text()}"
            current = [*logs.glob(f"{stage}/**/*.log"), *logs.glob(f"{stage}.log")]
            if any(path.stat().st_mtime > 0 for path in current) and at_work(project, stage):
                break
            time.sleep(0.02)
        else:
            pytest.fail(f"{stage} did not start:\n{log.read_text()}")
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def at_work(project: Project, stage: str) -> bool:
    """Training is killed when it has begun, pretraining when it has a checkpoint to go on from; others at once."""
    sign = {"pretrain": "pretrain/.work/*/checkpoint.safetensors", "align": "align/*/.work/*/lock"}.get(stage)
    return sign is None or any(project.results.glob(sign))


def test_a_run_killed_in_each_stage_goes_on_and_loses_nothing(
    fresh: Project, finished: Project, tmp_path: Path
) -> None:
    kept: dict[str, str] = {}
    for number, stage in enumerate(PEPTIDE_STAGES):
        kill_in(fresh, stage, tmp_path / f"{number}-{stage}.log")
        done = finished_outputs(fresh)
        assert kept.items() <= done.items(), f"a finished file was lost or changed when {stage} was killed"
        kept = done
        recovered = subprocess.run(
            [sys.executable, "workflow/recover.py", "--configfile", TINY],
            cwd=fresh.folder,
            env=fresh.environment | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert recovered.returncode == 0, recovered.stderr
        assert "unlocking" in recovered.stderr
    fresh.finish()
    assert kept.items() <= finished_outputs(fresh).items()
    # Broken eight times, and still the same conformers, models and split as in one go.
    exact = ("*.safetensors", "split.parquet", "weights.parquet")
    assert digests(fresh.results, exact) == digests(finished.results, exact)
    trajectories = sorted(path.relative_to(finished.results) for path in finished.results.rglob("*.dcd"))
    assert len(trajectories) == 8  # MD, simulated and checked; of two models the samples and the way to one of them
    for path in trajectories:  # not by their bytes: a DCD has the time of writing in its header
        positions = [read_ensemble(results / path).positions_nm for results in (fresh.results, finished.results)]
        np.testing.assert_array_equal(*positions)
    assert fresh.planned() == {}


def finished_outputs(project: Project) -> dict[str, str]:
    """Digests of the files that Snakemake counts as finished: recorded, and not marked as incomplete."""
    records = project.folder / ".snakemake"
    recorded, incomplete = (
        {base64.urlsafe_b64decode(path.name).decode() for path in (records / folder).iterdir()}
        for folder in ("metadata", "incomplete")
    )
    whole = digests(project.results)
    names = {str(Path(name).relative_to("results/tiny")) for name in recorded - incomplete}
    assert names <= {*whole, "report/figures"}, "a file that counts as finished is not there"
    return {name: whole[name] for name in names & whole.keys()}


# ---------------------------------------------------------------------------------------------- what stops a run


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("scoer: {relax: none}", ["scoer: unknown key; did you mean 'score'?"]),
        ("score: {relaks: none}", ["score.relaks: unknown key; did you mean 'relax'?"]),
        ("forcefield: {temperature_kelvin: 300 K}", ["forcefield.temperature_kelvin", "'300 K'"]),
        ("forcefield: {temperature_kelvin: 27}", ["forcefield.temperature_kelvin", "27"]),
        ("systems: {a: {sequence: ACE-AAL-NME}}", ["residue 2 of 'ACE-AAL-NME'", "did you mean"]),
        ("systems: {a: {topology: not/there.pdb, training: [not/there.xtc]}}", ["no such file: not/there.pdb"]),
        ("run: {name: ../elsewhere}", ["run.name"]),
        ("systems: {}", ["there is no system"]),
    ],
)
def test_a_wrong_configuration_stops_before_the_first_job(
    bare: Project, tmp_path: Path, text: str, messages: list[str]
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("run: {name: wrong}\n" + text if not text.startswith("run:") else text)
    ran = bare.snakemake(config=path)
    assert ran.returncode != 0
    for message in (*messages, "  where: ", "  do:    "):
        assert message in ran.stdout
    assert "Traceback" not in ran.stdout
    assert not (bare.folder / "results" / "wrong").exists()


def test_own_trajectories_are_checked_and_need_no_simulation(finished: Project, tmp_path: Path) -> None:
    simulated = Layout(finished.results).simulated("ala", "training")
    own = {"topology": str(simulated.parent / "topology.pdb"), "training": [str(simulated)]}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"run": {"name": "own"}, "systems": {"mine": own}, "align": {"rounds": 1}}))
    planned = finished.planned(config=path)
    assert "simulate" not in planned
    # training MD, the pretrained model, eba and none; no reference was handed in
    assert planned["score"] == 4


# ---------------------------------------------------------------------------------------------- profiles and files


def test_the_slurm_profile_passes_a_dry_run(bare: Project) -> None:
    planned = bare.planned("--workflow-profile", "workflow/profiles/slurm", "--forceall")
    assert planned["score"] == 4
    shown = bare.snakemake("--dry-run", "--forceall", "--workflow-profile", "workflow/profiles/slurm").stdout
    assert "slurm_partition=main" in shown


def test_every_rule_has_time_memory_and_cpus_on_slurm() -> None:
    profile = yaml.safe_load((REPOSITORY / "workflow/profiles/slurm/config.yaml").read_text())
    defaults = {entry.split("=")[0] for entry in profile["default-resources"]}
    assert {"mem_mb", "runtime", "slurm_partition"} <= defaults
    asked = {entry.split(":")[0] for entry in profile["set-resources"]}
    assert asked <= set(workflow.SECTIONS)
    assert {entry.split(":")[0] for entry in profile["set-resources"] if "gpu=1" in entry} == {
        "pretrain",
        "sample",
        "weigh",
        "align",
        "generate",
    }


CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def conda_packages() -> dict[str, str]:
    """Packages of the conda environment with their versions."""
    environment = yaml.safe_load((REPOSITORY / "envs" / "ancdiff.yaml").read_text())
    return dict(entry.split("=") for entry in environment["dependencies"])


def test_the_conda_environment_has_the_versions_of_the_lock() -> None:
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    pins = [line.partition(" ;")[0] for line in lines if "==" in line and not line.startswith(("#", " "))]
    locked = dict(pin.split("==") for pin in pins)
    conda = conda_packages()
    python = conda.pop("python")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert Version(python) in SpecifierSet(project["requires-python"])
    for name, version in conda.items():
        pip_name = next((pip for pip, other in CONDA_NAMES.items() if other == name), name)
        # A conda version has no .post: "=1.11.1" matches 1.11.1 and what was repaired in its packaging.
        assert Version(locked[pip_name]).base_version == version, name


STAND_IN_FOR_CONDA = """#!/bin/sh
case "$*" in
    "info --json") echo '{"conda_prefix": "/nowhere", "platform": "linux-64"}' ;;
    "--version") echo "conda 25.1.0" ;;
    "config --get channel_priority --json") echo '{"get": {"channel_priority": "strict"}}' ;;
    *) echo "not expected in a dry run: conda $*" >&2; exit 1 ;;
esac
"""


def test_conda_passes_a_dry_run(bare: Project, tmp_path: Path) -> None:
    """With a stand-in that answers what Snakemake asks before it makes an environment."""
    conda = tmp_path / "conda"
    conda.write_text(STAND_IN_FOR_CONDA)
    conda.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        ran = bare.snakemake("--dry-run", "--sdm", "conda")
    assert ran.returncode == 0, ran.stdout
    assert ran.stdout.count("envs/ancdiff.yaml will be created") == 1  # one for all rules


def test_every_rule_has_the_conda_environment() -> None:
    """The environment has every direct dependency of the package, under conda's names."""
    packages = conda_packages()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[=<>\[; ]", entry)[0] for entry in project["dependencies"]} - {"snakemake"}
    assert packages.keys() == {CONDA_NAMES.get(name, name) for name in wanted} | {"python"}
    for stage in workflow.SECTIONS:
        assert '"../../envs/ancdiff.yaml"' in (REPOSITORY / "workflow" / "rules" / f"{stage}.smk").read_text()


def test_a_whole_file_is_a_whole_run(bare: Project) -> None:
    """Systems of config.yaml do not leak into another run."""
    assert bare.planned("--forceall")["simulate"] == 2  # the two MD data sets of the one system in tests/tiny.yaml


def test_the_snakefile_is_a_table_of_contents() -> None:
    lines = (REPOSITORY / "Snakefile").read_text().splitlines()
    assert len(lines) <= 30
    (stages,) = [line.split('"')[1].split() for line in lines if line.startswith("for stage in ")]
    assert stages == list(workflow.SECTIONS)


@pytest.mark.parametrize("stage", workflow.SECTIONS)
def test_a_rule_is_a_shell_line_with_header_log_benchmark_and_stamp(stage: str) -> None:
    text = (REPOSITORY / "workflow" / "rules" / f"{stage}.smk").read_text()
    assert text.startswith(f"# {stage}: ")
    assert "#   in   " in text
    assert "#   out  " in text
    assert "lambda" not in text
    assert text.count("\nrule ") == 1
    for part in (f"rule {stage}:\n", '    """', "log:", "benchmark:", f'RUN.code("{stage}")', "shell:", "conda:"):
        assert part in text
    assert f"python -m ancdiff {stage} " in text


def test_a_systems_change_does_not_simulate_the_others_again() -> None:
    class Wildcards:
        system = "ala"

    systems = {"ala": {"sequence": "ACE-ALA-NME"}}
    one = workflow.Corridor(Config.model_validate({"systems": systems}))
    two = workflow.Corridor(Config.model_validate({"systems": systems | {"gly": {"sequence": "ACE-GLY-NME"}}}))
    assert one.simulate_settings(Wildcards) == two.simulate_settings(Wildcards)
    assert one.settings("dataset") != two.settings("dataset")


def test_a_lines_change_does_not_train_the_others_again() -> None:
    def handed(line: str, **free: float) -> str:
        align = {"objectives": ["eba", "eba_free"], "variants": {"eba_free": free}}
        corridor = workflow.Corridor(parse_config({"systems": {"ala": {"sequence": "ACE-ALA-NME"}}, "align": align}))
        return corridor.align_settings(SimpleNamespace(model=f"{line}_round1"))

    assert handed("eba", anchor=0.0) == handed("eba", anchor=1.0)
    assert handed("eba_free", anchor=0.0) != handed("eba_free", anchor=1.0)


def test_jobs_ask_for_the_cores_that_they_use() -> None:
    raw = {
        "systems": {"ala": {"sequence": "ACE-ALA-NME"}, "dw": {"exact": {"potential": "double_well"}}},
        "simulate": {"source": "run"},
        "align": {
            "objectives": ["eba", "eba_free", "eba_exact"],
            "variants": {"eba_free": {"anchor": 0.0}, "eba_exact": {"anchor_energy": "exact"}},
        },
    }
    corridor = workflow.Corridor(parse_config(raw))
    aligned = {
        line: corridor.align_threads(SimpleNamespace(model=f"{line}_round1")) for line in raw["align"]["objectives"]
    }
    assert aligned == {"eba": 2, "eba_free": 1, "eba_exact": 1}
    jobs = [("ala", "reference"), ("ala", "training"), ("dw", "reference")]
    assert [corridor.simulate_threads(SimpleNamespace(system=s, md=md)) for s, md in jobs] == [2, 1, 1]
    copied = workflow.Corridor(parse_config(raw | {"simulate": {}}))
    assert copied.simulate_threads(SimpleNamespace(system="ala", md="reference")) == 1


def test_paths_take_two_cores_where_no_other_job_can() -> None:
    raw = {"systems": {"ala": {"sequence": "ACE-ALA-NME"}}, "align": {"objectives": ["eba", "none"]}}
    paths = raw | {"sample": {"solver": "ancestral", "log_density": "path"}, "diffusion": {"superpose": False}}

    def threads(model: str, config: dict) -> int:
        return workflow.Corridor(parse_config(config)).path_threads(SimpleNamespace(model=model, system="ala"))

    assert threads("pretrain", paths) == 2
    assert threads("pretrain", raw) == 1
    assert threads("eba_round1", paths) == 1  # beside it the control is sampled
    assert threads("eba_round1", paths | {"align": {"objectives": ["eba"]}}) == 2
    assert threads("pretrain_seed1", paths | {"run": {"seeds": [1, 2]}}) == 1
    assert threads("pretrain", paths | {"systems": raw["systems"] | {"gly": {"sequence": "ACE-GLY-NME"}}}) == 1


@pytest.mark.parametrize(
    ("update", "weighed"), [("new", [["pretrain"], []]), ("bridge", [["pretrain"], ["eba_round1"]])]
)
def test_a_round_by_paths_waits_for_the_weights_of_frames_that_it_needs(update: str, weighed: list[list[str]]) -> None:
    align = {"anchor_energy": "path", "anchor_update": update, "replay_models": 1, "objectives": ["eba", "none"]}
    corridor = workflow.Corridor(parse_config({"systems": {"ala": {"sequence": "ACE-ALA-NME"}}, "align": align}))

    def frames(model: str) -> list[str]:
        files = corridor.align_inputs(SimpleNamespace(model=model))["frames"]
        assert isinstance(files, list)
        return [path.parent.name for path in files]

    assert [frames(f"eba_round{r}") for r in (1, 2)] == weighed
    assert frames("none_round1") == []  # the control weighs nothing


def test_a_round_waits_for_the_samples_in_its_pool_alone() -> None:
    def pool(replay_models: int | None) -> list[str]:
        raw = {"systems": {"ala": {"sequence": "ACE-ALA-NME"}}, "align": {"replay_models": replay_models}}
        files = workflow.Corridor(parse_config(raw)).align_inputs(SimpleNamespace(model="eba_round3"))["energies"]
        assert isinstance(files, list)
        return [path.parent.name for path in files]

    assert pool(None) == ["training", "pretrain", "eba_round1", "eba_round2"]
    assert pool(2) == ["training", "eba_round1", "eba_round2"]


COMPOUNDS = {"small": {"compounds": {"source": "a.tar.bz2"}}}


@pytest.mark.parametrize("stage", ["evaluate", "report"])
def test_stages_read_the_sections_of_their_kind_of_run_and_no_others(stage: str) -> None:
    """A change of generation does not evaluate peptides again; one of alignment does not evaluate compounds again."""

    def read(systems: dict, **changes: dict) -> str:
        return workflow.corridor_of(Config.model_validate({"systems": systems} | changes)).settings(stage)

    peptides = {"ala": {"sequence": "ACE-ALA-NME"}}
    of_compounds = {"generate": {"evaluations": 11}, "diffusion": {"sigma_max": 77.0}}
    of_peptides = {"align": {"rounds": 7}, "forcefield": {"temperature_kelvin": 333.0}}
    assert read(peptides, **of_compounds) == read(peptides)
    assert read(COMPOUNDS, **of_peptides) == read(COMPOUNDS)
    assert read(peptides, **of_peptides) != read(peptides)
    assert read(COMPOUNDS, **of_compounds) != read(COMPOUNDS)


def test_seeds_of_samples_differ_and_stay() -> None:
    def seed(run_seed: int, model: str, system: str) -> int:
        config = Config.model_validate({"run": {"seeds": (run_seed,)}, "systems": {"ala": {"sequence": "ACE-ALA-NME"}}})
        return workflow.Corridor(config).sample_seed(type("Wildcards", (), {"model": model, "system": system}))

    seeds = [seed(r, m, s) for r in (1, 2) for m in (PRETRAINED, "eba_round1") for s in ("ala", "val")]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= value < 2**31 for value in seeds)
    # sha256("1/pretrain/ala") begins with these 31 bits: another run, machine or version draws the same samples
    assert seed(1, PRETRAINED, "ala") == int(hashlib.sha256(b"1/pretrain/ala").hexdigest()[:8], 16) // 2


# ---------------------------------------------------------------------------------------------- configurations


def leaves(section: type[Section], prefix: str = "") -> dict[str, object]:
    """Every key of the configuration with its default, systems left out."""
    found: dict[str, object] = {}
    for name, field in section.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, Section):
            found |= leaves(type(default), f"{prefix}{name}.")
        elif f"{prefix}{name}" != "systems":
            found[f"{prefix}{name}"] = list(default) if isinstance(default, tuple) else default
    return found


def test_config_yaml_documents_every_key_with_its_default() -> None:
    raw = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    flat: dict[str, object] = {}

    def walk(content: dict[str, object], prefix: str) -> None:
        for key, value in content.items():
            if isinstance(value, dict) and value:
                walk(value, f"{prefix}{key}.")
            else:
                flat[prefix + key] = value

    walk({key: value for key, value in raw.items() if key != "systems"}, "")
    assert flat == leaves(Config)


def test_the_default_run_has_the_systems_it_promises() -> None:
    sequences = [system.sequence for system in load_config(REPOSITORY / "config.yaml").systems.values()]
    assert len(sequences) >= 5
    assert {"ACE-ALA-NME", "ACE-VAL-NME", "ACE-SER-NME", "ACE-ALA-ALA-ALA-ALA-NME"} <= set(sequences)


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("configs/*.yaml")), ids=lambda path: path.stem)
def test_every_other_configuration_holds_and_has_a_name_of_its_own(path: Path) -> None:
    assert load_config(path).run.name == path.stem.replace("-", "_")
