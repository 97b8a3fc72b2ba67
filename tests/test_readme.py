"""Every command that the README and the guides show is known here: tried, or covered by the test that is named."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CONTRIBUTING.md")

# What is quick is run as it stands; the exit code that a fresh clone should give.
TRIED = {
    "ancdiff --help": 0,
    "ancdiff score --help": 0,
    "ancdiff check --config configs/my-trajectories.yaml": 3,  # its paths are examples
}

# What is long, or changes the machine, is the subject of a test elsewhere.
COVERED = {
    "make run": "test_readme.py::test_make_knows_the_target",
    "make test": "test_readme.py::test_make_knows_the_target",
    "make lint": "test_readme.py::test_make_knows_the_target",
    "make bench": "test_readme.py::test_make_knows_the_target",
    "pip install -e .": "test_readme.py::test_an_editable_install_would_take_every_module",
    "snakemake --cores 8": "test_workflow.py::test_a_run_ends_with_its_report_and_leaves_no_hidden_work",
    "snakemake --cores 8 --sdm conda": "test_workflow.py::test_conda_passes_a_dry_run",
    "snakemake --workflow-profile workflow/profiles/slurm -n": (
        "test_workflow.py::test_the_slurm_profile_passes_a_dry_run"
    ),
    "snakemake --workflow-profile workflow/profiles/slurm": "test_workflow.py::test_the_slurm_profile_passes_a_dry_run",
    "snakemake --cores all --configfile configs/peptides-seeds.yaml": (
        "test_workflow.py::test_the_run_over_seeds_has_every_model_once_for_each_seed"
    ),
    "snakemake --cores all --configfile configs/alanine.yaml configs/overlays/three-seeds.yaml": (
        "test_workflow.py::test_an_overlay_gives_another_run_three_seeds_and_changes_nothing_else"
    ),
    "snakemake --cores all --configfile configs/my-trajectories.yaml": (
        "test_workflow.py::test_own_trajectories_are_checked_and_need_no_simulation"
    ),
    "ancdiff score --topology molecule.pdb --conformers conformers.xtc --output energies.parquet": (
        "test_cli.py::test_score_by_hand_overrides_settings_and_prints_a_summary"
    ),
    "ancdiff score --topology mol.sdf --conformers mol.xyz --output energies.parquet --small-molecule mmff94": (
        "test_chemistry.py::test_score_by_hand_has_a_row_for_each_record"
    ),
    "snakemake -n": "test_workflow.py::test_a_second_run_has_nothing_to_do",
    "snakemake --report snakemake-report.html": "test_workflow.py::test_snakemake_report_works",
    "snakemake --unlock": "test_workflow.py::test_a_run_killed_in_each_stage_goes_on_and_loses_nothing",
}


def shown_commands(page: str) -> list[str]:
    """Commands in the shell blocks of a page."""
    blocks = re.findall(r"```bash\n(.*?)```", (REPOSITORY / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_every_command_is_known_and_no_other() -> None:
    shown = {command for page in PAGES for command in shown_commands(page)}
    assert len(shown) > 10
    assert shown == TRIED.keys() | COVERED.keys()


@pytest.mark.parametrize("test", sorted(set(COVERED.values())))
def test_the_covering_test_is_there(test: str) -> None:
    file, name = test.split("::")
    assert f"\ndef {name}(" in (REPOSITORY / "tests" / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("command", TRIED)
def test_a_quick_command_does_what_is_said(command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "ancdiff"
    ran = subprocess.run(
        [sys.executable, "-m", "ancdiff", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert ran.returncode == TRIED[command], ran.stderr
    if ran.returncode:
        assert "md/my_peptide.pdb" in ran.stderr


@pytest.mark.parametrize("target", ["run", "test", "lint", "bench"])
def test_make_knows_the_target(target: str) -> None:
    ran = subprocess.run(["make", "-n", target], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert {"run": "snakemake --cores all", "test": "pytest", "lint": "lint-imports", "bench": "bench.py"}[
        target
    ] in ran.stdout


def test_an_editable_install_would_take_every_module() -> None:
    from setuptools import find_packages

    found = find_packages(str(REPOSITORY), include=["ancdiff", "ancdiff.*"])
    modules = {path.parent.relative_to(REPOSITORY) for path in (REPOSITORY / "ancdiff").rglob("*.py")}
    assert {name.replace(".", "/") for name in found} == {str(folder) for folder in modules}


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in REPOSITORY.glob("docs/*.md"))]
)
def test_links_within_the_repository_lead_somewhere(page: str) -> None:
    source = REPOSITORY / page
    for target in re.findall(r"\]\(([^)#\s]+)\)", source.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (source.parent / target).exists(), f"{page} points to {target}"


def test_the_architecture_names_every_room() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    for path in (REPOSITORY / "ancdiff").iterdir():
        if path.name.startswith(("__init__", "__pycache__", ".")):
            continue
        assert (f"`{path.name}`" in text) or (f"`{path.name}/`" in text), (
            f"{path.name} has no place in docs/architecture.md"
        )


def test_pins_fit_the_declared_bounds() -> None:
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    declared = [Requirement(line) for line in (*project["dependencies"], *extras)]
    pinned = {}
    for line in (REPOSITORY / "requirements.lock").read_text().splitlines():
        if line and not line.startswith((" ", "#")):
            requirement = Requirement(line)
            (specifier,) = requirement.specifier
            assert specifier.operator == "=="
            assert "+" not in specifier.version, f"{line}: a local version is not to be had everywhere"
            pinned[requirement.name.lower()] = specifier.version
    for requirement in declared:
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), requirement
    direct = [line for line in (REPOSITORY / "requirements.in").read_text().splitlines() if line and line[0] != "#"]
    assert all("#" in line for line in direct), "every pin has its reason"
    names = {Requirement(line.split("#")[0]).name.lower() for line in direct}
    assert {requirement.name.lower() for requirement in declared} <= names
