"""The command line: every stage is a command, settings come from one place, and problems end with a message."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ancdiff import cli
from ancdiff.config import Config
from ancdiff.errors import AncdiffError, ConfigError, InputError, StageError
from ancdiff.workflow import SECTIONS


def ancdiff(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, in a process of its own."""
    command = [sys.executable, "-m", "ancdiff", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, check=False)


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["ancdiff", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text("run: {name: tiny}\nsystems: {ala: {sequence: ACE-ALA-NME}}\nsimulate: {source: run}\n")
    return path


def test_help_names_every_stage_in_order(monkeypatch, capsys) -> None:
    assert main(monkeypatch, "--help") == 0
    words = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ") and line.split()]
    assert [word for word in words if word in SECTIONS] == list(SECTIONS)


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; sys.argv = ['ancdiff', 'score', '--help']\n"
        "from ancdiff import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'openmm', 'mdtraj', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("stage", SECTIONS)
def test_every_stage_takes_settings_config_and_threads(monkeypatch, capsys, stage: str) -> None:
    assert main(monkeypatch, stage, "--help") == 0
    shown = capsys.readouterr().out
    for option in ("--settings", "--config", "--threads"):
        assert option in shown


def test_settings_default_to_the_package() -> None:
    settings = cli.stage_settings("score", None, None)
    assert settings.score == Config().score
    with pytest.raises(ConfigError, match="not handed the section 'align'"):
        _ = settings.align


def test_settings_from_json_and_from_a_file_are_the_same(tiny: Path) -> None:
    from_file = cli.stage_settings("dataset", None, tiny)
    text = json.dumps({name: value for name, value in from_file.as_dict().items()})
    assert cli.stage_settings("dataset", text, None).as_dict() == from_file.as_dict()
    assert set(from_file.as_dict()) == set(SECTIONS["dataset"])


@pytest.mark.parametrize(
    ("settings", "config", "what"),
    [
        ("{}", Path("x.yaml"), "both given"),
        ("{", None, "not valid JSON"),
        ("[1]", None, "a JSON object of sections"),
        ('{"score": {"relaxx": "none"}}', None, "did you mean 'relax'"),
        (None, Path("not-there.yaml"), "no such configuration file"),
    ],
)
def test_wrong_settings_are_named(settings: str | None, config: Path | None, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        cli.stage_settings("score", settings, config)


def test_settings_can_come_from_stdin(tmp_path: Path) -> None:
    ran = ancdiff("dataset", "--settings", "-", "--results", str(tmp_path), text='{"dataset": {"max_bond": 1}}')
    assert ran.returncode == ConfigError.exit_code
    assert "dataset.max_bond: unknown key; did you mean 'max_bond_stretch'?" in ran.stderr


@pytest.mark.parametrize("kind", [ConfigError, InputError, AncdiffError])
def test_a_mendable_problem_ends_with_its_message_and_code(monkeypatch, capsys, tiny: Path, kind) -> None:
    def fail(*_: object) -> None:
        raise kind("it is broken", where="here", fix="mend it")

    monkeypatch.setattr(cli, "check_systems", fail)
    assert main(monkeypatch, "check", "--config", str(tiny)) == kind.exit_code
    assert capsys.readouterr().err == "ancdiff: it is broken\n  where: here\n  do:    mend it\n"


def test_any_other_exception_keeps_its_traceback(monkeypatch, tiny: Path) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "check_systems", fail)
    monkeypatch.setattr(sys, "argv", ["ancdiff", "check", "--config", str(tiny)])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_check_shows_models_and_systems(monkeypatch, capsys, tiny: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["ancdiff", "check", "--config", str(tiny)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    shown = capsys.readouterr().out
    assert "ACE-ALA-NME" in shown
    assert "pretrain, eba_round1" in shown


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("systems: {}", "there is no system"),
        ("systems: {a: {sequence: ACE-ALA-NME, split: test}}\nsimulate: {source: run}", "no system to train on"),
        ("systems: {a: {topology: no.pdb, training: [no.xtc]}}", "there is no such file: no.pdb, no.xtc"),
        ("systems: {nothing: {sequence: ACE-TRP-NME}}", "there is no bundled MD"),
        (
            "systems: {ala: {sequence: ACE-ALA-NME}}\nforcefield: {xml: [amber14/protein.ff14SB.xml, my.xml]}",
            "no such force-field file: my.xml",
        ),
    ],
)
def test_check_finds_what_would_stop_the_run(monkeypatch, capsys, tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert main(monkeypatch, "check", "--config", str(path)) in (ConfigError.exit_code, InputError.exit_code)
    assert what in capsys.readouterr().err


def test_score_by_hand_overrides_settings_and_prints_a_summary(monkeypatch, capsys, tmp_path: Path) -> None:
    from ancdiff import artifacts, score

    handed = {}

    def run(settings, **options) -> None:
        handed.update(options, settings=settings, threads_seen=os.environ["OMP_NUM_THREADS"])

    monkeypatch.setattr(score, "run", run)
    monkeypatch.setattr(score, "summary", lambda table, record, kelvin: f"summary of {table}, {record} at {kelvin} K")
    monkeypatch.setattr(artifacts, "read_table", lambda path: path.name)
    monkeypatch.setattr(artifacts, "read_json", lambda path: {"scored": path.name})
    for variable in cli._THREAD_VARIABLES:
        monkeypatch.setenv(variable, "1")
    files = ["--topology", "x.pdb", "--conformers", "y.xtc", "--output", str(tmp_path / "energies.parquet")]
    assert main(monkeypatch, "score", *files, "--relax", "none", "--platform", "CPU", "--threads", "3") == 0
    assert handed["settings"].score.relax == "none"
    assert handed["settings"].forcefield.platform == "CPU"
    assert handed["settings"].forcefield.solvent == Config().forcefield.solvent
    assert (handed["topology"], handed["conformers"]) == (Path("x.pdb"), Path("y.xtc"))
    assert (handed["threads"], handed["threads_seen"], handed["max_conformers"]) == (3, "3", None)
    assert "summary of energies.parquet, energies.json at 300.0 K" in capsys.readouterr().out


def test_several_molecules_in_one_job_do_not_stop_each_other(monkeypatch, capsys, tmp_path: Path) -> None:
    from ancdiff import artifacts, score

    made = []

    def run(settings, *, output, topology, **options) -> None:
        if topology.name == "bad.pdb":
            raise InputError("no such residue", where="bad.pdb")
        made.append(output.name)

    monkeypatch.setattr(score, "run", run)
    monkeypatch.setattr(score, "summary", lambda table, record, kelvin: "fine")
    monkeypatch.setattr(artifacts, "read_table", lambda path: None)
    monkeypatch.setattr(artifacts, "read_json", lambda path: {"scored": None})
    for variable in cli._THREAD_VARIABLES:
        monkeypatch.setenv(variable, "1")
    files = [
        word
        for name in ("a", "bad", "c")
        for word in ("--topology", f"{name}.pdb", "--conformers", f"{name}.dcd", "--output", f"{name}.parquet")
    ]
    assert main(monkeypatch, "score", *files) == StageError.exit_code
    assert made == ["a.parquet", "c.parquet"]
    shown = capsys.readouterr()
    assert "bad.parquet was not made: no such residue" in shown.err
    assert "1 of 3 molecules could not be scored" in shown.err
    assert main(monkeypatch, "score", *files, "--output", "d.parquet") == ConfigError.exit_code


def test_sample_by_hand_sets_the_number_of_conformers(monkeypatch, tmp_path: Path) -> None:
    from ancdiff import sample

    handed = {}
    monkeypatch.setattr(sample, "run", lambda settings, **options: handed.update(options, settings=settings))
    for variable in cli._THREAD_VARIABLES:
        monkeypatch.setenv(variable, "1")
    files = ["--model", "m.safetensors", "--topology", "t.pdb", "--output", "c.dcd"]
    assert main(monkeypatch, "sample", *files, "--seed", "5", "--conformers", "7") == 0
    assert (handed["settings"].sample.conformers, handed["seed"]) == (7, 5)
    assert handed["settings"].sample.steps == Config().sample.steps


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("align", "--model", "eba_round1_seed7", "--seed", "5"), "the model's name says seed 7, not 5"),
        (("align", "--model", "pretrain", "--seed", "5"), "this stage does not make the model 'pretrain'"),
        (("align", "--model", "eba", "--seed", "5"), "'eba' is not a model's name"),
        (("pretrain", "--model", "eba_round1", "--seed", "5"), "this stage does not make the model 'eba_round1'"),
        (("pretrain", "--model", "pretrain_seed1", "--seed", "2"), "the model's name says seed 1, not 2"),
    ],
)
def test_a_model_that_a_stage_cannot_make_is_refused(
    monkeypatch, capsys, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    for variable in cli._THREAD_VARIABLES:
        monkeypatch.setenv(variable, "1")
    assert main(monkeypatch, *arguments, "--results", str(tmp_path)) == ConfigError.exit_code
    assert said in capsys.readouterr().err


def test_pretrain_by_hand_needs_a_seed_and_hands_it_on(monkeypatch, capsys, tmp_path: Path) -> None:
    from ancdiff import pretrain

    handed = {}
    monkeypatch.setattr(pretrain, "run", lambda settings, **options: handed.update(options))
    for variable in cli._THREAD_VARIABLES:
        monkeypatch.setenv(variable, "1")
    assert main(monkeypatch, "pretrain", "--results", str(tmp_path)) == 2
    assert "--seed" in capsys.readouterr().err
    assert main(monkeypatch, "pretrain", "--results", str(tmp_path), "--seed", "9") == 0
    assert (handed["model"], handed["seed"]) == ("pretrain", 9)


def test_a_wrong_value_by_hand_is_a_named_problem(monkeypatch, capsys) -> None:
    files = ["--topology", "x.pdb", "--conformers", "y.xtc", "--output", "e.parquet"]
    assert main(monkeypatch, "score", *files, "--relax", "everything") == ConfigError.exit_code
    assert "score.relax" in capsys.readouterr().err
