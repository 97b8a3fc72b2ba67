"""Sets of compounds: the currency, the denoiser, generation, and the whole way through the stages."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner
from made_compounds import SMILES, write_archive
from rdkit import Chem
from scipy.spatial.transform import Rotation

from ancdiff import compound_denoising, generate, preflight, workflow
from ancdiff.artifacts import read_json, read_table
from ancdiff.cli import commands
from ancdiff.compound_files import read_compounds, sdf_record, write_compounds
from ancdiff.compounds import Compounds, compounds_of
from ancdiff.config import DenoiserSettings, DiffusionSettings, GenerateSettings, PretrainSettings, parse_config
from ancdiff.corridor import PRETRAINED, Layout, generated_sets
from ancdiff.dataset.archives import read_archive
from ancdiff.denoiser.compounds import CHANNELS, CompoundDenoiser
from ancdiff.denoiser.store import load_compound_denoiser, load_denoiser
from ancdiff.diffusion.likelihood_bound import smoothed_nll_bound
from ancdiff.diffusion.noise import state_noise
from ancdiff.errors import ConfigError, InputError

REPOSITORY = Path(__file__).parents[1]
FREQUENCIES = (0.5, 0.3, 0.1, 0.08, 0.02)


def small_denoiser() -> CompoundDenoiser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        settings = DenoiserSettings(features=16, pair_features=16, layers=2)
        return CompoundDenoiser(settings, sigma_data_nm=0.14, frequencies=FREQUENCIES).requires_grad_(False)


def noisy_states(n: int = 4, atoms: int = 7, seed: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return 0.1 * state_noise((n, atoms, CHANNELS), generator=torch.Generator().manual_seed(seed), dtype=dtype)


def some() -> Compounds:
    rng = np.random.default_rng(5)
    sizes = (3, 5, 3, 4)
    return compounds_of(
        (10 + i, rng.choice([1, 6, 7, 8, 9], n).astype(np.uint8), rng.normal(size=(n, 3)).astype(np.float32))
        for i, n in enumerate(sizes)
    )


# ---------------------------------------------------------------------------------------------- the currency


def test_a_set_gives_back_its_compounds_and_blocks_hold_them_all() -> None:
    compounds = some()
    taken = compounds.take([2, 0])
    assert taken.number.tolist() == [12, 10]
    for i, j in ((0, 2), (1, 0)):
        for mine, theirs in zip(taken.atoms(i), compounds.atoms(j), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    seen = []
    for block in compounds.blocks():
        for row, member in enumerate(block.members):
            np.testing.assert_array_equal(block.positions_nm[row], compounds.atoms(int(member))[1])
            seen.append(int(member))
    assert seen == [0, 2, 3, 1]  # by size, and each once
    assert len(compounds.take([])) == 0


def test_arrays_that_do_not_fit_are_refused() -> None:
    compounds = some()
    wrong_ends = compounds.first_atom.copy()
    wrong_ends[-1] += 1
    empty_one = compounds.first_atom.copy()
    empty_one[1] = 0
    for bounds in (wrong_ends, empty_one, compounds.first_atom[:-1], compounds.first_atom + 1):
        with pytest.raises(InputError, match="do not make a set"):
            Compounds(compounds.number, bounds, compounds.atomic_numbers, compounds.positions_nm)


def test_a_file_comes_back_as_it_went_and_a_broken_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "set.safetensors"
    write_compounds(path, some(), {"stage": "test"})
    for name in ("number", "first_atom", "atomic_numbers", "positions_nm"):
        np.testing.assert_array_equal(getattr(read_compounds(path), name), getattr(some(), name))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match="not a set of compounds"):
        read_compounds(path)


def test_sdf_opens_in_rdkit_and_reads_back(tmp_path: Path) -> None:
    numbers = np.array([8, 1, 1], dtype=np.uint8)
    positions = np.array([[0, 0, 0], [0.096, 0, 0], [-0.024, 0.093, 0]], dtype=np.float32)
    record = sdf_record(numbers, positions, title="water_4")
    molecule = Chem.MolFromMolBlock(record, removeHs=False)
    assert Chem.MolToSmiles(Chem.RemoveHs(molecule)) == "O"
    (tmp_path / "w.sdf").write_text(record)
    ((_, read),) = read_archive(tmp_path / "w.sdf")
    assert not isinstance(read, str)
    assert read.number == 4
    np.testing.assert_allclose(read.positions_nm, positions, atol=1e-5)


# ---------------------------------------------------------------------------------------------- the denoiser


def test_the_denoiser_turns_shifts_and_swaps_with_its_input() -> None:
    denoiser, states, sigma = small_denoiser().double(), noisy_states(), torch.full((4,), 0.05, dtype=torch.float64)
    out = denoiser(states, sigma)
    turn = torch.as_tensor(Rotation.random(rng=np.random.default_rng(2)).as_matrix())
    order = torch.randperm(7, generator=torch.Generator().manual_seed(4))
    moved = torch.cat([states[..., :3] @ turn + 0.3, states[..., 3:]], dim=-1)[:, order]
    again = denoiser(moved, sigma)
    expected = torch.cat([out[..., :3] @ turn, out[..., 3:]], dim=-1)[:, order]
    torch.testing.assert_close(again, expected, atol=1e-12, rtol=0)
    assert out[..., :3].sum(dim=1).abs().max() < 1e-12  # centred


def test_the_denoiser_tells_a_compound_from_its_mirror_image() -> None:
    denoiser, states, sigma = small_denoiser().double(), noisy_states(), torch.full((4,), 0.05, dtype=torch.float64)
    mirror = torch.tensor([-1.0, 1.0, 1.0] + [1.0] * 5, dtype=torch.float64)
    assert (denoiser(states * mirror, sigma) - denoiser(states, sigma) * mirror).abs().max() > 1e-6


def test_types_are_the_exact_posterior_where_the_network_is_silent() -> None:
    """With F_h = 0: p(k | h) ∝ f_k exp(s h_k / σ²), checked against Gaussian densities."""
    denoiser = small_denoiser().double()
    for parameter in denoiser.network.read_types[-1].parameters():
        parameter.zero_()
    states, sigma = noisy_states(), 0.04
    scale = denoiser.type_length_nm
    found = denoiser(states, torch.full((4,), sigma, dtype=torch.float64))[..., 3:] / scale
    centres = scale * torch.eye(5, dtype=torch.float64)
    log_density = -((states[..., None, 3:] - centres) ** 2).sum(-1) / (2 * sigma**2)
    expected = torch.softmax(log_density + torch.tensor(FREQUENCIES, dtype=torch.float64).log(), dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_little_noise_gives_back_the_state_and_much_noise_the_frequencies() -> None:
    denoiser = small_denoiser()
    types = torch.tensor([[0, 1, 2, 3, 4, 0, 1]])
    positions = noisy_states(1, dtype=torch.float32)[..., :3]
    state = denoiser.state(positions, types)
    close = denoiser(state, torch.tensor([1e-5]))
    torch.testing.assert_close(close, state, atol=2e-5, rtol=0)


def test_the_loss_of_a_perfect_denoiser_is_zero_and_blocks_follow_the_data() -> None:
    class Perfect(CompoundDenoiser):
        def posterior(self, noisy_nm, sigma_nm):
            logits = torch.nn.functional.one_hot(block.types, 5) * 100.0
            return block.target_nm, logits

    denoiser = small_denoiser()
    data = compound_denoising.load_data(some(), torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    diffusion = DiffusionSettings(superpose=False)
    block = compound_denoising.noisy_block(denoiser, data.blocks[0], diffusion, generator)
    denoiser.__class__ = Perfect
    assert compound_denoising.block_loss(denoiser, block).tolist() == [0.0, 0.0]
    settings = PretrainSettings(batch_size=8, blocks=4)
    shares = {3: 0, 4: 0, 5: 0}
    for _ in range(50):
        parts = compound_denoising.batch_parts(denoiser, data, settings, diffusion, generator, parts=2)
        assert len(parts) == 2
        for noised in (block for part in parts for block in part.keywords["noised"]):  # type: ignore[attr-defined]
            assert len(noised.types) == 2  # a dense block, nothing padded
            shares[noised.types.shape[1]] += 1
    assert shares == {3: 100, 4: 50, 5: 50}  # stratified: just as the data have them


def test_the_spread_is_that_of_a_coordinate() -> None:
    rng = np.random.default_rng(0)
    members = [
        (i, np.full(n, 6, dtype=np.uint8), rng.normal(scale=0.2, size=(n, 3)).astype(np.float32))
        for i, n in enumerate([5, 9] * 200)
    ]
    assert compound_denoising.spread_nm(compounds_of(members)) == pytest.approx(0.2, rel=0.02)


# ---------------------------------------------------------------------------------------------- likelihood, generation


def test_the_likelihood_bound_is_exact_for_gaussian_states() -> None:
    """Data N(0, s² 1) with the exact denoiser: p at σ_min is Gaussian, and so is p at σ_max; all is known."""
    spread, low, high, atoms, channels = 0.15, 0.01, 3.0, 4, 5

    def exact(noisy_nm: torch.Tensor, sigma_nm: torch.Tensor) -> torch.Tensor:
        return noisy_nm * (spread**2 / (spread**2 + sigma_nm[:, None, None] ** 2))

    generator = torch.Generator().manual_seed(3)
    clean = spread * state_noise((4000, atoms, channels), generator=generator)
    bound = smoothed_nll_bound(
        exact, clean, sigma_data_nm=spread, sigma_min_nm=low, sigma_max_nm=high, levels=64, generator=generator
    )
    d = 3 * (atoms - 1) + (channels - 3) * atoms
    entropy = 0.5 * d * math.log(2 * math.pi * math.e * (spread**2 + low**2))
    assert float(bound.mean()) == pytest.approx(entropy, abs=4 * float(bound.std()) / math.sqrt(4000) + 0.02)


def test_a_worse_denoiser_has_a_higher_bound() -> None:
    def of(factor: float) -> float:
        generator = torch.Generator().manual_seed(3)
        clean = 0.15 * state_noise((500, 4, 3), generator=generator)

        def denoise(noisy_nm: torch.Tensor, sigma_nm: torch.Tensor) -> torch.Tensor:
            return noisy_nm * factor * (0.15**2 / (0.15**2 + sigma_nm[:, None, None] ** 2))

        bound = smoothed_nll_bound(
            denoise, clean, sigma_data_nm=0.15, sigma_min_nm=0.01, sigma_max_nm=3.0, levels=16, generator=generator
        )
        return float(bound.mean())

    assert of(1.0) < of(0.9)
    assert of(1.0) < of(1.1)


@pytest.mark.parametrize(
    ("solver", "evaluations", "spent"), [("heun", 9, 9), ("heun", 10, 9), ("dpmpp_2m", 10, 10), ("stochastic", 10, 9)]
)
def test_generation_spends_no_more_evaluations_than_allowed(solver: str, evaluations: int, spent: int) -> None:
    """… and an exact denoiser of one type at rest gives just that: the sampler carries types as it does positions."""
    denoiser = small_denoiser()
    calls = []
    target = denoiser.state(torch.zeros(1, 5, 3), torch.tensor([[1, 0, 0, 2, 4]]))

    def exact(noisy_nm: torch.Tensor, sigma_nm: torch.Tensor) -> torch.Tensor:
        calls.append(len(noisy_nm))
        return target.expand(len(noisy_nm), -1, -1)

    denoiser.forward = exact  # type: ignore[method-assign]
    settings = GenerateSettings(compounds=3, solver=solver, evaluations=evaluations)  # type: ignore[arg-type]
    drawn = generate.draw_compounds(
        denoiser, {5: 2}, settings, DiffusionSettings(sigma_max=6.0), generator=torch.Generator().manual_seed(1)
    )
    assert calls == [3] * spent
    assert [numbers.tolist() for numbers, _ in drawn] == [[6, 1, 1, 7, 9]] * 3
    assert np.abs(drawn.positions_nm).max() < 1e-5


def test_sizes_follow_the_data_and_the_seed_decides() -> None:
    denoiser = small_denoiser()
    denoiser.forward = lambda noisy_nm, sigma_nm: torch.zeros_like(noisy_nm)  # type: ignore[method-assign]
    settings = GenerateSettings(compounds=400, evaluations=3, solver="dpmpp_2m")

    def drawn(seed: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        return generate.draw_compounds(
            denoiser, {2: 30, 5: 10}, settings, DiffusionSettings(), generator=generator
        ).sizes

    assert np.bincount(drawn(1))[[2, 5]] / 400 == pytest.approx([0.75, 0.25], abs=0.07)  # 3 standard errors
    np.testing.assert_array_equal(drawn(1), drawn(1))
    assert (drawn(1) != drawn(2)).any()


# ---------------------------------------------------------------------------------------------- configuration, corridor


def test_compounds_are_a_run_of_their_own() -> None:
    alone = {"qm9": {"compounds": {"source": "a.tar"}}}
    assert parse_config({"systems": alone}).systems["qm9"].compounds
    with pytest.raises(ConfigError, match="a run of its own"):
        parse_config({"systems": alone | {"ala": {"sequence": "ACE-ALA-NME"}}})
    with pytest.raises(ConfigError, match="stands alone"):
        parse_config({"systems": {"qm9": {"compounds": {"source": "a.tar"}, "sequence": "ACE-ALA-NME"}}})
    with pytest.raises(ConfigError, match="unknown key"):
        parse_config({"systems": {"qm9": {"compounds": {"source": "a.tar", "sorce": "b"}}}})


def test_the_way_of_compounds_leads_past_simulation_and_scores(tmp_path: Path) -> None:
    config = parse_config(yaml.safe_load((REPOSITORY / "tests" / "tiny-compounds.yaml").read_text()))
    with pytest.raises(InputError, match=r"no such file: compounds\.tar\.bz2, excluded\.txt"):
        preflight.check_systems(config)
    run = workflow.corridor_of(config)
    asked = [str(path) for paths in run.report_inputs(None).values() for path in paths]
    assert not [path for path in asked if any(stage in path for stage in ("simulate", "score", "align", "/sample/"))]
    assert "results/tiny_compounds/generate/pretrain/small/evaluations_5.safetensors" in asked
    downloaded = config.model_copy(
        update={
            "systems": {
                "small": config.systems["small"].model_copy(
                    update={"compounds": config.systems["small"].compounds.model_copy(update={"download": True})}
                )
            }
        }
    )
    preflight.check_systems(downloaded)  # what is fetched need not be there
    assert workflow.corridor_of(downloaded).dataset_inputs(None) == {"own": []}


def test_what_is_not_there_is_fetched_from_the_published_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ancdiff.config import StageConfig
    from ancdiff.dataset import compounds, qm9

    asked = []

    def fetch(file: object, path: Path) -> None:
        asked.append((file, path.name))
        write_archive(tmp_path)

    monkeypatch.setattr(compounds, "download", fetch)
    source = {"source": str(tmp_path / "compounds.tar.bz2"), "excluded": str(tmp_path / "excluded.txt")}
    systems = {"small": {"compounds": source | {"download": True, "shares": [8, 2, 2]}}}
    compounds.run(StageConfig({"systems": systems, "dataset": {}}), results=tmp_path / "results")
    assert asked == [(qm9.GEOMETRIES, "compounds.tar.bz2"), (qm9.UNCHARACTERIZED, "excluded.txt")]
    assert [f.url.rsplit("/", 1)[-1] for f, _ in asked] == ["3195389", "3195404"]  # type: ignore[attr-defined]
    assert len(read_compounds(tmp_path / "results" / "dataset" / "small" / "train.safetensors")) == 8


def test_check_says_what_a_run_of_compounds_amounts_to(tmp_path: Path) -> None:
    write_archive(tmp_path)
    text = (REPOSITORY / "tests" / "tiny-compounds.yaml").read_text()
    for name in ("compounds.tar.bz2", "excluded.txt"):
        text = text.replace(name, str(tmp_path / name))
    (tmp_path / "run.yaml").write_text(text)
    shown = CliRunner().invoke(commands, ["check", "--config", str(tmp_path / "run.yaml")])
    assert shown.exit_code == 0, shown.output
    assert "compounds of " in shown.output
    assert "8 with 10 evaluations, 4 with 5 evaluations (heun)" in shown.output


# ---------------------------------------------------------------------------------------------- all stages


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of all stages on a small archive, run in this process."""
    from ancdiff import dataset, evaluate, pretrain, report
    from ancdiff.config import StageConfig

    folder = tmp_path_factory.mktemp("compounds")
    write_archive(folder)
    raw = yaml.safe_load((REPOSITORY / "tests" / "tiny-compounds.yaml").read_text())
    for key in ("source", "excluded"):
        raw["systems"]["small"]["compounds"][key] = str(folder / raw["systems"]["small"]["compounds"][key])
    config = parse_config(raw)
    layout = Layout(folder / "results")

    def settings(stage: str, **changes: object) -> StageConfig:
        sections = json.loads(workflow.corridor_of(config).settings(stage))
        for section, keys in changes.items():
            sections[section] |= keys
        return StageConfig(sections)

    dataset.run(settings("dataset"), results=layout.root)
    pretrain.run(settings("pretrain"), results=layout.root, seed=1, threads=1)
    for evaluations, compounds in generated_sets(config.generate).items():
        generate.run(
            settings("generate", generate={"evaluations": evaluations, "compounds": compounds}),
            model=layout.model(PRETRAINED),
            output=layout.generated(PRETRAINED, "small", evaluations),
            seed=3,
            threads=1,
        )
    evaluate.run(settings("evaluate"), results=layout.root)
    report.run(settings("report"), results=layout.root)
    return layout.root


def test_the_dataset_says_what_it_left_out_and_stores_the_split(finished: Path) -> None:
    checks = read_json(finished / "dataset" / "checks.json")
    assert checks["systems"]["small"] | {"atoms": 0} == {
        "kept": len(SMILES) - 2,
        "atoms": 0,
        "excluded_by_list": 2,
        "left_out": {"7 atoms are promised, 1 lines of atoms are there": 1},
    }
    assert [row["name"] for row in checks["compounds"]] == ["set/mol_000099.xyz"]
    split = read_table(finished / "dataset" / "split.parquet")
    assert split["split"].value_counts().to_dict() == {"train": 8, "validation": 2, "test": 2}
    assert sorted(split["number"]) == list(range(1, 13))
    for part in ("train", "validation", "test"):
        rows = split[split["split"] == part]
        compounds = read_compounds(finished / "dataset" / "small" / f"{part}.safetensors")
        assert compounds.number.tolist() == rows["number"].tolist()
        assert compounds.sizes.tolist() == rows["atoms"].tolist()


def test_the_model_knows_its_sizes_and_is_not_taken_for_another_kind(finished: Path) -> None:
    path = finished / "pretrain" / "model.safetensors"
    denoiser, record = load_compound_denoiser(path)
    training = read_compounds(finished / "dataset" / "small" / "train.safetensors")
    assert record["sizes"] == {
        int(n): int(k) for n, k in zip(*np.unique(training.sizes, return_counts=True), strict=True)
    }
    assert denoiser.sigma_data_nm == pytest.approx(compound_denoising.spread_nm(training))
    with pytest.raises(InputError, match="of the other kind"):
        load_denoiser(path)
    curve = read_table(finished / "pretrain" / "metrics.parquet")
    assert len(curve) == 6
    assert np.isfinite(curve["loss"]).all()
    assert np.isfinite(curve["validation_loss"].to_numpy()[[2, 5]]).all()


def test_generated_sets_are_whole_and_open_elsewhere(finished: Path) -> None:
    folder = finished / "generate" / "pretrain" / "small"
    for evaluations, count in ((10, 8), (5, 4)):
        compounds = read_compounds(folder / f"evaluations_{evaluations}.safetensors")
        assert len(compounds) == count
        read = [found for _, found in read_archive(folder / f"evaluations_{evaluations}.sdf")]
        assert [len(r.atomic_numbers) for r in read if not isinstance(r, str)] == compounds.sizes.tolist()


def test_the_table_has_every_set_and_the_data_score_as_sound_molecules(finished: Path) -> None:
    table = read_table(finished / "evaluate" / "metrics.parquet")
    assert set(zip(table["ensemble"], table["evaluations"], strict=True)) == {
        ("test", 0),
        ("pretrain", 10),
        ("pretrain", 5),
    }
    data = table[table["ensemble"] == "test"].set_index("metric")["value"]
    assert data["atom_stability"] == data["validity"] == data["uniqueness"] == 1.0
    assert data["strain_kj_mol"] < 0.5  # they were relaxed with MMFF94
    assert np.isfinite(table[table["metric"] == "nll_bound_nats"]["value"]).tolist() == [True]
    shares = table[table["metric"].isin(["atom_stability", "validity"])]
    assert ((shares["low"] <= shares["value"]) & (shares["value"] <= shares["high"])).all()


def test_seeds_are_averaged_with_an_interval() -> None:
    """Two seeds at 0.8 and 0.9: mean 0.85, and t of one degree of freedom is 12.7."""
    from ancdiff.evaluate.compounds import over_seeds

    rows = [
        {"ensemble": name, "evaluations": n, "metric": "validity", "value": value}
        for name, n, value in (("test", 0, 1.0), ("pretrain_seed1", 50, 0.8), ("pretrain_seed2", 50, 0.9))
    ]
    (row,) = over_seeds(pd.DataFrame(rows)).to_dict("records")
    assert (row["model"], row["evaluations"], row["seeds"]) == ("pretrain", 50, 2)
    assert row["mean"] == pytest.approx(0.85)
    assert row["high"] - row["mean"] == pytest.approx(12.706 * 0.05, rel=1e-3)
    (alone,) = over_seeds(pd.DataFrame(rows[:2])).to_dict("records")
    assert alone["seeds"] == 1
    assert math.isnan(alone["low"])


def test_the_page_is_whole_and_opens_offline(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert "A tiny set of compounds" in page
    assert "http://" not in page
    assert "https://" not in page
    names = {path.name for path in (finished / "report" / "figures").iterdir()}
    assert names == {f"compound_{name}.png" for name in ("quality", "lengths", "gallery", "training")}
