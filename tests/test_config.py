"""The configuration: what it refuses, and what it says when it refuses."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from ancdiff.config import Config, StageConfig, load_config, parse_config
from ancdiff.errors import AncdiffError, ConfigError, InputError, StageError
from ancdiff.preflight import check_systems

ALA = {"sequence": "ACE-ALA-NME"}


def refusal(raw: dict) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(raw)
    return str(caught.value)


def test_an_empty_configuration_has_every_default() -> None:
    assert parse_config({}) == Config()
    assert Config().forcefield.temperature_kelvin == 300.0


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"algin": {}}, "algin: unknown key; did you mean 'align'?"),
        ({"align": {"round": 3}}, "align.round: unknown key; did you mean 'rounds'?"),
        ({"simulate": {"training": {"replica": 3}}}, "training.replica: unknown key; did you mean 'replicas'?"),
        ({"align": {"temper": {"max_kelvins": 3}}}, "temper.max_kelvins: unknown key; did you mean 'max_kelvin'?"),
        ({"systems": {"ala": {**ALA, "sequense": "x"}}}, "systems.ala.sequense: unknown key; did you mean 'sequence'?"),
        ({"run": {"seed": 7}}, "run.seed: unknown key; did you mean 'seeds'?"),
        ({"run": {"zzz": 1}}, "run.zzz: unknown key; known here: name, seeds"),
    ],
)  # fmt: skip
def test_a_mistyped_key_is_named_with_the_nearest_known_one(raw: dict, said: str) -> None:
    assert said in refusal(raw)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        # wrong types: nothing is converted in silence
        ({"align": {"rounds": "3"}}, "align.rounds: Input should be a valid integer (given: '3')"),
        ({"align": {"rounds": 2.5}}, "align.rounds"),
        ({"align": {"rounds": True}}, "align.rounds"),
        ({"diffusion": {"superpose": 1}}, "diffusion.superpose"),
        ({"align": None}, "align"),
        # units and ranges: Celsius for kelvin, picoseconds for femtoseconds, per cent for a fraction
        ({"forcefield": {"temperature_kelvin": 27}}, "forcefield.temperature_kelvin: Input should be greater"),
        ({"forcefield": {"temperature_kelvin": "300 K"}}, "temperature_kelvin: Input should be a valid number"),
        ({"simulate": {"timestep_fs": 4000.0}}, "simulate.timestep_fs"),
        ({"dataset": {"validation_fraction": 10}}, "dataset.validation_fraction"),
        ({"pretrain": {"learning_rate": float("nan")}}, "pretrain.learning_rate: Input should be a finite number"),
        ({"align": {"objectives": []}}, "align.objectives"),
        ({"align": {"objectives": ["ppo"]}}, "align.objectives.0"),
        ({"align": {"group_size": 1}}, "align.group_size: Input should be greater than or equal to 2"),
        ({"align": {"antithetic": True, "noise_levels": 7}}, "'antithetic: true' needs even 'noise_levels'"),
        ({"align": {"temper": {"ladder_kelvin": [400.0, 900.0]}}}, "'ladder_kelvin' must fall"),
        ({"sample": {"log_density": "exact"}}, "set 'solver: rk4'"),
        ({"run": {"seeds": 7}}, "run.seeds: Input should be a valid array"),
        ({"run": {"seeds": []}}, "run.seeds"),
        ({"run": {"seeds": [-1]}}, "run.seeds.0: Input should be greater than or equal to 0"),
        ({"run": {"seeds": [1, 2**31]}}, "run.seeds.1: Input should be less than 2147483648"),
        ({"run": {"seeds": [1.5]}}, "run.seeds.0"),
        ({"run": {"seeds": ["1"]}}, "run.seeds.0: Input should be a valid integer"),
        ({"run": {"seeds": [3, 5, 3, 5, 4]}}, "'seeds' holds 3, 5 more than once"),
        ({"systems": {"Ala dipeptide": ALA}}, "systems.Ala dipeptide"),
        ({"systems": {"ala": {}}}, "give either 'sequence'"),
        ({"systems": {"ala": {**ALA, "topology": "x.pdb"}}}, "give either 'sequence'"),
        ({"systems": {"ala": {"topology": "x.pdb"}}}, "'topology' needs 'training'"),
        ({"systems": {"ala": {**ALA, "training_basins": {"alpha": 1}}}}, "systems.ala.training_basins.alpha"),
    ],
)  # fmt: skip
def test_wrong_types_units_and_values_are_refused_by_name(raw: dict, said: str) -> None:
    assert said in refusal(raw)


def test_every_problem_is_told_at_once() -> None:
    message = refusal({"align": {"rounds": -1, "stepz": 1}, "score": {"relax": "hydrogen"}})
    assert all(key in message for key in ("align.rounds", "align.stepz", "score.relax"))


def test_a_number_that_yaml_reads_as_text_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("pretrain: {learning_rate: 2e-3}\n")
    with pytest.raises(ConfigError, match=r"pretrain.learning_rate.*'2e-3'.*write 0\.002"):
        load_config(path)
    path.write_text("pretrain: {learning_rate: 2.0e-3}\n")
    assert load_config(path).pretrain.learning_rate == 0.002


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"run: [1, 2", "not valid YAML"),
        (b"- run\n- align\n", "mapping of sections"),
        (b"run: {name: 2026-01-01}\n", "run.name"),  # YAML makes this a date
        (b"\xff\xfe\x00", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_sections_are_frozen_and_lists_become_tuples() -> None:
    config = parse_config({"align": {"objectives": ["none", "eba"]}})
    assert config.align.objectives == ("none", "eba")
    with pytest.raises(ValidationError):
        config.align.rounds = 5  # type: ignore[misc]


def test_sections_as_json_are_canonical_and_resolved() -> None:
    one = parse_config({"align": {"steps": 5, "alpha": 0.1}})
    other = parse_config({"align": {"alpha": 0.10, "steps": 5}})
    assert one.sections("run", "align") == other.sections("align", "run")
    handed = json.loads(one.sections("align"))
    assert list(handed) == ["align"]
    assert handed["align"]["group_size"] == Config().align.group_size
    assert parse_config(handed).align == one.align
    assert one.sections("align") != parse_config({"align": {"steps": 6, "alpha": 0.1}}).sections("align")
    with pytest.raises(KeyError, match="aling"):
        one.sections("aling")


def test_a_stage_sees_only_what_it_was_handed() -> None:
    settings = StageConfig({"align": {"steps": 5}})
    assert settings.align.steps == 5
    assert settings.as_dict() == json.loads(Config(align=settings.align).sections("align"))
    with pytest.raises(ConfigError, match="not handed the section 'score'"):
        _ = settings.score
    with pytest.raises(AttributeError):
        _ = settings.__wrapped__


def test_an_error_says_what_where_and_what_to_do() -> None:
    error = InputError("it is broken", where="a.pdb", fix="mend it")
    assert str(error) == "it is broken\n  where: a.pdb\n  do:    mend it"
    assert str(AncdiffError("only this")) == "only this"
    assert [kind.exit_code for kind in (AncdiffError, ConfigError, InputError, StageError)] == [1, 2, 3, 4]


def test_the_repository_configurations_hold() -> None:
    root = Path(__file__).parents[1]
    paths = [root / "config.yaml", *sorted((root / "configs").glob("*.yaml"))]
    configs = {path.name: load_config(path) for path in paths if path.is_file()}
    assert "config.yaml" in configs
    assert len(configs["config.yaml"].systems) >= 5


@pytest.mark.parametrize(
    ("align", "said"),
    [
        ({"objectives": ["ppo"]}, "align.objectives.0"),
        ({"objectives": ["eba_free"]}, "'objectives' has 'eba_free'"),
        (
            {"variants": {"eba_free": {"ancor": 0.0}}},
            "eba_free.ancor: unknown key; did you mean 'anchor'",
        ),
        ({"variants": {"eba_free": {"rounds": 3}}}, "align.variants.eba_free.rounds: unknown key"),
        ({"variants": {"ppo_free": {}}}, "align.variants.ppo_free"),
        ({"variants": {"eba": {}}}, "align.variants.eba"),
        ({"variants": {"eba_free": 3}}, "align.variants.eba_free: Input should be an object"),
        ({"steps": 0, "variants": {"eba_free": {}}}, "align.variants.eba_free.steps"),
    ],
)
def test_wrong_lines_of_models_are_named(align: dict, said: str) -> None:
    with pytest.raises(ConfigError, match="the configuration does not hold") as caught:
        parse_config({"align": align})
    assert said in str(caught.value)


def test_variants_reach_a_stage_whole() -> None:
    align = {"steps": 7, "temper": {"ladder_kelvin": [424.0], "target_ess_fraction": None}}
    variants = {"eba_free": {"anchor": 0.0}, "dpo_cold": {"temper": None}}
    config = parse_config({"align": align | {"objectives": ["eba_free"], "variants": variants}})
    handed = StageConfig(json.loads(config.sections("align"))).align
    assert handed == config.align
    free, cold = handed.variants["eba_free"], handed.variants["dpo_cold"]
    assert (free.steps, free.anchor, free.temper) == (7, 0.0, config.align.temper)
    assert cold.temper is None


def test_a_network_that_cannot_be_translated_is_named_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = {"systems": {"ala": {"sequence": "ACE-ALA-NME"}}, "denoiser": {"compile": True}}
    monkeypatch.setenv("CXX", "sh")  # any program
    check_systems(parse_config(raw))
    with pytest.raises(ConfigError, match="sets of compounds is not translated"):
        check_systems(parse_config(raw | {"systems": {"small": {"compounds": {"source": "made.tar.bz2"}}}}))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"no C\+\+ compiler no-such-compiler") as error:
        check_systems(parse_config(raw))
    assert "compile: false" in str(error.value)


def test_alignment_by_paths_needs_samples_that_have_them() -> None:
    drawn = {"solver": "ancestral", "log_density": "path"}
    raw = {"systems": {"ala": {"sequence": "ACE-ALA-NME"}}, "align": {"anchor_energy": "path", "anchor_update": "new"}}
    check_systems(parse_config(raw | {"sample": drawn}))
    with pytest.raises(ConfigError, match="log-densities by paths, which samples do not have"):
        check_systems(parse_config(raw))
    with pytest.raises(ConfigError, match="'anchor_update' to 'new' or 'bridge'"):
        parse_config({"sample": drawn, "align": {"anchor_energy": "path"}})


@pytest.mark.parametrize("place", ["align", "variant"])
def test_frames_that_are_weighed_each_by_its_density_are_all_weighed(place: str) -> None:
    each = {"anchor_energy": "path", "anchor_update": "new"}
    align = each if place == "align" else {"objectives": ["eba", "eba_each"], "variants": {"eba_each": each}}
    with pytest.raises(ConfigError, match=r"set 'weigh\.max_md_conformers: null'"):
        parse_config({"weigh": {"max_md_conformers": 100}, "align": align})
    parse_config({"weigh": {"max_md_conformers": 100}, "align": each | {"anchor_md": "temperature"}})


def test_feedback_needs_the_energies_of_all_that_is_learned() -> None:
    with pytest.raises(ConfigError, match="'energy_feedback' needs the energies"):
        parse_config({"align": {"anchor_update": "bridge", "replay_models": 1, "energy_feedback": True}})


@pytest.mark.parametrize("update", ["all", "bridge"])
def test_md_at_a_temperature_is_weighed_once(update: str) -> None:
    with pytest.raises(ConfigError, match="set 'anchor_update: new'"):
        parse_config({"align": {"anchor_update": update, "replay_models": 1, "anchor_md": "temperature"}})
