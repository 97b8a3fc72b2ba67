"""Names of models and ensembles, and where their artifacts lie."""

import re
from pathlib import Path
from typing import get_args

import pytest

from ancdiff.config import Config, Objective, parse_config
from ancdiff.corridor import (
    ALIGNED_PATTERN,
    MD_ENSEMBLES,
    REPLICATE_PATTERN,
    Layout,
    aligned_model,
    ancestors,
    line_settings,
    models,
    named_seeds,
    objective_of,
    replayed,
    replicate_model,
    seed_of,
    split_model,
    without_seed,
)

SEVERAL = parse_config({"run": {"seeds": [2027, 0]}, "align": {"objectives": ["eba"], "rounds": 2}})


def test_models_in_the_order_in_which_they_come_to_be() -> None:
    config = parse_config({"align": {"objectives": ["eba", "none"], "rounds": 2}})
    assert models(config) == ["pretrain", "eba_round1", "eba_round2", "none_round1", "none_round2"]
    made: set[str] = set()
    for model in models(config):
        assert model == "pretrain" or set(ancestors(model)) <= made
        made.add(model)


def test_with_several_seeds_each_model_exists_once_for_each() -> None:
    config = SEVERAL
    assert models(config) == [
        *("pretrain_seed2027", "eba_round1_seed2027", "eba_round2_seed2027"),
        *("pretrain_seed0", "eba_round1_seed0", "eba_round2_seed0"),
    ]
    assert [seed_of(model, config) for model in models(config)] == [2027] * 3 + [0] * 3
    assert named_seeds(config) == (2027, 0)
    one = parse_config({"run": {"seeds": [2027]}})
    assert named_seeds(one) == (None,)
    assert {seed_of(model, one) for model in models(one)} == {2027}


@pytest.mark.parametrize("objective", get_args(Objective))
@pytest.mark.parametrize("round_number", [1, 2, 10])
@pytest.mark.parametrize(("seed", "suffix"), [(None, ""), (0, "_seed0"), (2027, "_seed2027")])
def test_a_name_splits_into_what_made_it(objective: str, round_number: int, seed: int | None, suffix: str) -> None:
    name = aligned_model(objective, round_number, seed)
    assert name == f"{objective}_round{round_number}{suffix}"
    parts = split_model(name)
    assert (parts.line, parts.round_number, parts.seed) == (objective, round_number, seed)
    assert without_seed(name) == f"{objective}_round{round_number}"
    earlier = [f"{objective}_round{r}{suffix}" for r in range(1, round_number)]
    assert ancestors(name) == [f"pretrain{suffix}", *earlier]
    assert re.fullmatch(ALIGNED_PATTERN, name)


@pytest.mark.parametrize("objective", get_args(Objective))
def test_a_variant_is_a_line_with_the_name_of_its_objective(objective: str) -> None:
    line = f"{objective}_free"
    name = aligned_model(line, 2, 7)
    assert re.fullmatch(ALIGNED_PATTERN, name)
    assert split_model(name).line == line
    assert ancestors(name) == ["pretrain_seed7", f"{line}_round1_seed7"]
    assert objective_of(line) == objective_of(objective) == objective


def test_a_variant_has_its_own_settings_and_the_others_share() -> None:
    align = parse_config({"align": {"steps": 7, "variants": {"eba_free": {"anchor": 0.0, "replay_models": 1}}}}).align
    assert line_settings(align, "eba") is align
    free = line_settings(align, "eba_free")
    assert (free.steps, free.anchor, align.anchor) == (7, 0.0, 1.0)
    assert replayed(["pretrain", "eba_round1"], align) == ["pretrain", "eba_round1"]
    assert replayed(["pretrain", "eba_free_round1"], align) == ["eba_free_round1"]


@pytest.mark.parametrize(("seed", "suffix"), [(None, ""), (0, "_seed0"), (2027, "_seed2027")])
def test_the_pretrained_model_is_round_zero_of_every_line(seed: int | None, suffix: str) -> None:
    name = f"pretrain{suffix}"
    assert {aligned_model(line, 0, seed) for line in ("pretrain", "eba", "none")} == {name}
    parts = split_model(name)
    assert (parts.line, parts.round_number, parts.seed) == ("pretrain", 0, seed)
    assert without_seed(name) == "pretrain"
    assert ancestors(name) == []
    assert not re.fullmatch(ALIGNED_PATTERN, name)


@pytest.mark.parametrize(
    "name",
    [
        *("eba_round0", "eba_round01", "eba_round", "ppo_round1", "eba_round1x", "", "pretrain_round1", "training"),
        *("eba_round1_seed", "eba_round1_seed-1", "eba_round1_seed01", "pretrain_seedx", "pretrain_seed1_seed2"),
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a model's name"):
        split_model(name)
    assert not re.fullmatch(ALIGNED_PATTERN, name)


def test_a_replicates_folder_says_which_model_lies_there() -> None:
    layout = Layout("r")
    for model, replicate in (("pretrain", ""), ("pretrain_seed0", "/seed0"), ("pretrain_seed2027", "/seed2027")):
        assert re.fullmatch(REPLICATE_PATTERN, replicate)
        assert replicate_model(replicate) == model
        assert layout.model(model) == Path(f"r/pretrain{replicate}/model.safetensors")
    for other in ("seed1", "/seed", "/seed01", "/x", "/seed1/x"):
        assert not re.fullmatch(REPLICATE_PATTERN, other)


@pytest.mark.parametrize("config", [parse_config({}), SEVERAL], ids=["one seed", "several"])
def test_every_artifact_has_its_own_place(config: Config) -> None:
    layout = Layout("results")
    names = [*models(config), *MD_ENSEMBLES]
    places = [layout.ensemble(n, s) for n in names for s in ("ala", "val")]
    places += [layout.energies(n, s) for n in names for s in ("ala", "val")]
    places += [layout.model(n) for n in models(config)]
    places += [layout.simulated(s, md) for s in ("ala", "val") for md in MD_ENSEMBLES]
    assert len(set(places)) == len(places)
    assert all(place.is_relative_to("results") for place in places)


def test_paths_that_people_and_tools_rely_on() -> None:
    layout = Layout(Path("r"))
    assert layout.simulated("ala", "training") == Path("r/simulate/ala/training.dcd")
    assert layout.ensemble("reference", "ala") == Path("r/dataset/ala/reference.dcd")
    assert layout.topology("ala") == layout.ensemble("training", "ala").parent / "topology.pdb"
    assert layout.ensemble("eba_round1", "ala") == Path("r/sample/eba_round1/ala/conformers.dcd")
    assert layout.energies("eba_round1", "ala") == Path("r/score/eba_round1/ala.parquet")
    assert layout.model("pretrain") == Path("r/pretrain/model.safetensors")
    assert layout.model("eba_round1") == Path("r/align/eba_round1/model.safetensors")
    assert layout.model("eba_round1_seed7") == Path("r/align/eba_round1_seed7/model.safetensors")
    assert layout.ensemble("pretrain_seed7", "ala") == Path("r/sample/pretrain_seed7/ala/conformers.dcd")
