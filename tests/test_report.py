"""The report: one page that opens offline, says what the tables say, and is made whatever is missing."""

import base64
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from fake_run import build, config, mixture, rotations, stage_config, write_fake_run

from ancdiff import evaluate, report
from ancdiff.artifacts import read_table, write_table
from ancdiff.corridor import Layout
from ancdiff.errors import InputError
from ancdiff.molecules import signed_volumes
from ancdiff.report import collect, conformers, figures, findings, tables
from ancdiff.report import page as layout
from ancdiff.report.style import house_style, look

EVALUATE = ("run", "systems", "forcefield", "align", "evaluate")
REPORT = ("run", "systems", "align", "report")
FAST = {"bootstrap_repeats": 20, "floor_draws": 2}


def settings(**changes):
    return config(**({"evaluate": FAST, "align": {"objectives": ["eba", "none"], "rounds": 2}} | changes))


def evaluated(folder, run_settings, **sizes):
    write_fake_run(folder, run_settings, **({"frames": 200, "conformers": 60} | sizes))
    evaluate.run(stage_config(run_settings, *EVALUATE), results=folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("report")
    evaluated(path, settings())
    report.run(stage_config(settings(), *REPORT), results=path)
    return path


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def opened(folder):
    return collect.open_run(stage_config(settings(), *REPORT), folder)


class Reader(HTMLParser):
    """Collects tags, rows of tables, and whether every opened element is closed."""

    VOID = frozenset({"meta", "img", "input", "br", "link", "hr"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.rows, self._cell = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = tag

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == self._cell:
            self._cell = None

    def handle_data(self, data):
        if self._cell and self.open[-1] != "small":
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def reader(page):
    return Reader(page)


def test_variants_of_an_objective_look_apart_and_alike_in_all_rounds() -> None:
    published, free = look("eba_published_round1"), look("eba_free_round1")
    assert (published.marker, published.line) != (free.marker, free.line)
    assert published.colour == free.colour
    assert look("eba_free_round2_seed3") == free


def test_the_page_is_well_formed_and_needs_nothing_else(reader):
    assert reader.open == []
    for tag, attributes in reader.tags:
        assert tag not in ("link", "iframe", "object")
        source = attributes.get("src")
        assert source is None or source.startswith("data:image/svg+xml;base64,")
        assert attributes.get("href", "#").startswith("#")
    ids = [a["id"] for _, a in reader.tags if "id" in a]
    assert len(ids) == len(set(ids))
    anchors = {a["href"][1:] for tag, a in reader.tags if tag == "a"}
    assert anchors <= set(ids)
    assert {"populations", "maps", "energies", "conformers", "training", "times", "rerun", "cite"} <= anchors


def test_every_figure_is_an_image_with_caption_and_alternative_text(reader, folder):
    images = [a for tag, a in reader.tags if tag == "img"]
    tags = [tag for tag, _ in reader.tags]
    assert len(images) == tags.count("figure") == tags.count("figcaption") == 10
    assert len({a["alt"] for a in images}) == len(images)
    for image in images:
        svg = ElementTree.fromstring(base64.b64decode(image["src"].split(",")[1]))
        assert svg.tag.endswith("svg")
        assert len(image["alt"]) > 30
    files = sorted(path.name for path in (folder / "report" / "figures").iterdir())
    assert len(files) == len(images)
    assert "ramachandran_tri.png" in files
    for name in files:
        assert (folder / "report" / "figures" / name).read_bytes().startswith(b"\x89PNG")


def test_the_headline_table_says_what_the_summary_says(reader, folder):
    summary = read_table(folder / "evaluate" / "summary.parquet").set_index("ensemble")
    rows = {row[0]: row[1:] for row in reversed(reader.rows)}  # the first table of a name wins: the headline
    for ensemble, name in (("pretrain", "pretrained"), ("eba_round2", "EBA, round 2"), ("reference", "reference")):
        cells = rows[name]
        assert cells[0] == f"{summary.loc[ensemble, 'free_energy_error_kt']:.2f}"
        assert cells[1] == f"{summary.loc[ensemble, 'ramachandran_jsd']:.3f}"
        assert cells[3] == f"{100 * summary.loc[ensemble, 'stereocentres_right']:.2f}"
        assert cells[4] == f"{1000 * summary.loc[ensemble, 'bond_rms_error_nm']:.2f}"
    assert rows["floor"][0] == f"{summary.loc['pretrain', 'free_energy_error_kt_floor']:.2f}"
    assert rows["floor"][3] == "–"


def test_what_was_run_is_on_the_page(page, folder):
    record = json.loads((folder / "evaluate" / "metrics.json").read_text())
    for text in ("fake", "2026", "ACE-ALA-ALA-NME", "never seen in training", "ff14SB", "300 K", record["code_stamp"]):
        assert text in page
    assert "arXiv:2505.24203" in page
    assert "snakemake --cores all" in page


def test_the_same_run_gives_the_same_page(opened):
    def once():
        with house_style():
            drawn = layout.picture("free_energy_per_round", figures.free_energy_per_round(opened))
        section = layout.Section("populations", "Populations", "", drawn)
        return layout.render(opened, [section], record=opened.record, version="1"), drawn[0].png

    assert once() == once()


def test_conformers_of_the_view_keep_their_shape_and_hand(page, opened):
    content = json.loads(re.search(r'id="view-data">(.*?)</script>', page, re.DOTALL)[1])
    assert [c["system"] for c in content] == ["ala", "tri"]
    ensemble = opened.ensemble("eba_round2", "ala")
    picked = ensemble.positions_nm[collect.evenly(len(ensemble), 12)].astype(float)
    shown = np.array(content[0]["ensembles"]["EBA, round 2"]).reshape(12, -1, 3) / 1000
    bonds = np.array(content[0]["bonds"])
    lengths = np.linalg.norm(np.diff(shown[:, bonds], axis=2)[:, :, 0], axis=-1)
    expected = np.linalg.norm(np.diff(picked[:, bonds], axis=2)[:, :, 0], axis=-1)
    np.testing.assert_allclose(lengths, expected, atol=0.0018)  # rounded to 0.001 nm in each coordinate
    assert (signed_volumes(shown, ensemble.molecule.stereocentres) > 0).all()
    assert np.linalg.norm(shown, axis=-1).max() * 1000 <= content[0]["radius"] + 2


def test_laid_upon_takes_turns_and_shifts_away():
    rng = np.random.default_rng(0)
    one = build(mixture((0.4, 0.5, 0.1), 1, rng)).positions_nm[0].astype(float)
    anchors = conformers.anchor_atoms(build(np.zeros((1, 1, 2))).molecule)
    np.testing.assert_array_equal(anchors, [3, 4, 6, 5])
    turned = one @ rotations(4, rng) + rng.normal(size=(4, 1, 3))
    laid = conformers.laid_upon(turned, one, anchors)
    np.testing.assert_allclose(laid, np.broadcast_to(one - one[anchors].mean(axis=0), laid.shape), atol=1e-9)
    mirrored = conformers.laid_upon((one * [1, 1, -1])[None], one, anchors)
    assert np.abs(mirrored[0] - laid[0]).max() > 0.05


def test_anchors_of_long_chains_are_their_alpha_carbons():
    molecule = build(np.zeros((1, 8, 2))).molecule
    assert [molecule.atom_names[i] for i in conformers.anchor_atoms(molecule)] == ["CA"] * 8


def test_a_title_cannot_break_the_page(opened):
    changed = settings(report={"title": "A <b>bold</b> </script> title"})
    run = collect.open_run(stage_config(changed, *REPORT), opened.root)
    text = layout.render(run, [], record=opened.record, version="1")
    assert "<b>bold" not in text
    assert "A &lt;b&gt;bold&lt;/b&gt; &lt;/script&gt; title" in text
    assert Reader(text).open == []


def test_a_page_is_made_of_what_is_there(tmp_path):
    """By hand, without a reference, energies, weights, curves or benchmarks."""
    changed = settings(align={"objectives": ["eba"], "rounds": 1})
    write_fake_run(tmp_path, changed, frames=40, conformers=20)
    layout = Layout(tmp_path)
    for system in ("ala", "tri"):
        layout.ensemble("reference", system).unlink()
        for ensemble in ("training", "reference", "pretrain", "eba_round1"):
            layout.energies(ensemble, system).unlink()
    for name in ("benchmarks", "align", "pretrain"):
        shutil.rmtree(tmp_path / name)
    evaluate.run(stage_config(changed, *EVALUATE), results=tmp_path)
    report.run(stage_config(changed, *REPORT), results=tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert Reader(text).open == []
    assert "There is no reference MD" in text
    assert "stages were run by hand" in text
    assert 'id="energies"' not in text
    assert 'id="figure-ramachandran_ala"' in text
    assert "nan" not in re.sub(r"data:image[^\"]*", "", text).replace("sonance", "").split("</style>")[1]


def test_a_run_that_was_not_evaluated_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        report.run(stage_config(settings(), *REPORT), results=tmp_path)


def test_sentences_say_what_the_numbers_say(opened):
    summary = opened.summary.copy()
    summary.loc["pretrain", ["free_energy_error_kt", "free_energy_error_kt_floor"]] = [1.0, 0.1]
    summary.loc["training", "free_energy_error_kt"] = 1.1
    columns = [f"free_energy_error_kt{end}" for end in ("", "_low", "_high")]
    summary.loc["eba_round2", columns] = [0.4, 0.3, 0.5]
    summary.loc["none_round2", columns] = [0.9, 0.8, 1.0]
    summary["stereocentres_right"] = 1.0
    summary.loc[["pretrain", "eba_round2"], "ramachandran_jsd"] = [0.3, 0.2]
    summary.loc[["pretrain", "eba_round2", "none_round2"], "median_energy_kt"] = [5.0, 9.0, 5.5]
    summary.loc["none_round1", "stereocentres_right"] = 0.98
    run = collect.Run(opened.root, opened.settings, opened.metrics, summary, opened.record)
    text = " ".join(findings.findings(run))
    assert "After 2 rounds of alignment with EBA the error is 0.40 kT (95 % interval 0.30 to 0.50), 40 %" in text
    assert "The control, trained for as many steps without energies, ends at 0.90 kT" in text
    assert "wrong by 1.10 kT" in text
    assert "divergence from the reference from 0.300 to 0.200 nats and the median energy from 5.0 to 9.0 kT" in text
    warned = " ".join(findings.cautions(run))
    assert "The model EBA, round 2 has a median energy 4.0 kT above" in warned
    assert "control, round 2 has a median" not in warned  # 0.5 kT is no worry
    words = {tile["words"]: tile["value"] for tile in findings.tiles(run)}
    assert words["free-energy error, pretrained → EBA, round 2"] == "1.00 → 0.40 kT"
    assert words["stereocentres right, at worst (control, round 1)"] == "98.00 %"


def test_ratio_to_the_floor_is_of_training_systems_only(opened):
    metrics = opened.metrics.copy()
    chosen = (
        (metrics.metric == "ramachandran_jsd")
        & (metrics.ensemble == "pretrain")
        & (metrics.against == "training")
        & (metrics.residue == "")
    )
    metrics.loc[chosen & (metrics.system == "ala"), ["value", "floor"]] = [0.3, 0.2]
    metrics.loc[chosen & (metrics.system == "tri"), ["value", "floor"]] = [9.0, 0.1]  # held out
    run = collect.Run(opened.root, opened.settings, metrics, opened.summary, opened.record)
    assert {"value": "1.5 × floor"}.items() <= findings.tiles(run)[2].items()
    assert "(at most 1.5 times: ala)" in findings.findings(run)[-1]


def test_cautions_name_what_went_wrong(opened, tmp_path):
    assert not [c for c in findings.cautions(opened) if "not numbers" in c]
    metrics = opened.metrics.copy()
    metrics.loc[(metrics.metric == "conformers_finite") & (metrics.ensemble == "eba_round1"), "value"] = 0.75
    metrics.loc[(metrics.metric == "energy_failed") & (metrics.ensemble == "none_round2"), "value"] = 0.5
    run = collect.Run(opened.root, opened.settings, metrics, opened.summary, opened.record)
    text = " ".join(findings.cautions(run))
    assert "25 % of the conformers of EBA, round 1, ala, have coordinates that are not numbers" in text
    assert (
        "50 % of the conformers of control, round 2, tri, got no energy (reasons: score/none_round2/tri.parquet)"
        in text
    )
    for model in ("eba_round1", "eba_round2", "none_round1", "none_round2"):
        pool = read_table(opened.root / "align" / model / "weights.parquet")
        if model == "eba_round1":
            pool = pool.assign(ess=1.3, anchor_md_kelvin=361.8)
        elif model == "eba_round2":
            pool = pool.assign(ess=60.0, temperature_kelvin=900.0)
        write_table(tmp_path / "align" / model / "weights.parquet", pool)
    other = collect.Run(tmp_path, opened.settings, opened.metrics, opened.summary, opened.record)
    text = " ".join(findings.cautions(other))
    assert "1.3 effective of 100 of ala in round 1 of EBA (its anchor's on 100)" in text
    assert "The weights of tri in round 2 of EBA were tempered to 900 K." in text
    assert "The training MD of tri was weighed as MD at 362 K in round 1 of EBA" in text
    assert "weighed as MD" not in " ".join(findings.cautions(opened))


def test_a_long_list_of_one_caution_is_cut_with_the_worst_first(several):
    metrics = several.metrics.copy()
    rows = metrics.index[metrics.metric == "energy_failed"]
    metrics.loc[rows, "value"] = np.linspace(0.02, 0.5, len(rows))
    run = collect.Run(several.root, several.settings, metrics, several.summary, several.record, several.over_seeds)
    said = [c for c in findings.cautions(run) if "got no energy" in c or "more like the last" in c]
    assert said[0].startswith("50 % of the conformers")
    assert len(said) == 6
    assert said[-1] == f"… and {len(rows) - 5} more like the last."


def test_times_are_summed_by_stage(opened):
    times = collect.stage_times(opened).set_index("stage")
    assert times.loc["align", "jobs"] == 2
    assert times.loc["align", "seconds"] == 61
    assert times.loc["align", "peak_mib"] == 512.5
    assert np.isnan(times.loc["score", "peak_mib"])


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4 s"), (61.5, "62 s"), (150.0, "2.5 min"), (10_800.0, "3.0 h"), (np.nan, "–")]
)
def test_durations(seconds, text):
    assert tables.duration(seconds) == text


def test_numbers():
    by_key = {c.key: c for c in tables.COLUMNS}
    assert tables.number(0.00251, by_key["bond_rms_error_nm"]) == "2.51"  # in pm
    assert tables.number(-0.5, by_key["median_energy_kt"]) == "−0.50"
    assert tables.number(3.2e7, by_key["energy_w1_kt"]) == "3.2e+07"
    assert tables.number(np.nan, by_key["clashes"]) == "–"
    assert tables.span(0.1, np.nan, by_key["clashes"]) == ""


def test_maps_of_long_chains_are_pooled(opened):
    short = collect.open_run(stage_config(settings(report={"mapped_residues": 1}), *REPORT), opened.root)
    with house_style():
        pooled, apart = figures.ramachandran_maps(short, "tri"), figures.ramachandran_maps(opened, "tri")
    assert pooled is not None
    assert apart is not None
    assert len(apart.axes) == 2 * 5 + 1  # two residues, five ensembles, the bar
    assert len(pooled.axes) == 5 + 1
    assert "all 2 residues" in pooled.axes[0].get_ylabel()


def test_the_map_is_deepest_where_the_conformers_are(opened):
    with house_style():
        figure = figures.ramachandran_maps(opened, "ala")
    assert figure is not None
    values = figure.axes[4].collections[0].get_array().reshape(45, 45)  # reference; ψ is the slow index
    psi, phi = np.unravel_index(np.nanargmin(values), values.shape)
    assert values.min() == 0
    centre = np.array([-180 + 8 * (phi + 0.5), -180 + 8 * (psi + 0.5)])
    assert min(np.linalg.norm(centre - at) for at in ([-80, 145], [-70, -25])) < 25


def test_only_some_systems_are_pictured(opened):
    one = collect.open_run(stage_config(settings(report={"pictured_systems": 1}), *REPORT), opened.root)
    assert [g["name"] for g in tables.per_system(one)["groups"]] == ["ala (ACE-ALA-NME)"]
    assert [c["system"] for c in conformers.view_data(one)] == ["ala"]
    with house_style():
        figure = figures.free_energy_per_round(one)
    assert figure is not None
    assert [a.get_title() for a in figure.axes] == ["mean over systems", "ala"]


@pytest.mark.parametrize("drawn", ["basin_free_energies", "energy_histograms"])
def test_a_legend_is_no_wider_than_its_figure(opened, drawn):
    """A single panel is narrow, and its legend has a word for every ensemble."""
    one = collect.open_run(stage_config(settings(report={"pictured_systems": 1}), *REPORT), opened.root)
    with house_style():
        figure = getattr(figures, drawn)(one)
        figure.draw_without_rendering()
    (legend,) = figure.legends
    assert len(legend.get_texts()) >= 4
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    assert min(panel.get_window_extent().height for panel in figure.axes) > 0.35 * figure.bbox.height


def test_without_rounds_there_is_no_figure_of_them(opened):
    alone = collect.open_run(stage_config(settings(align={"rounds": 0}), *REPORT), opened.root)
    assert figures.free_energy_per_round(alone) is None


def test_points_of_the_rounds_are_those_of_the_table(opened):
    with house_style():
        figure = figures.free_energy_per_round(opened)
    assert figure is not None
    panel = figure.axes[0]
    eba = next(c for c in panel.containers if c.get_label() == "EBA")
    names = ["pretrain", "eba_round1", "eba_round2"]
    np.testing.assert_allclose(eba.lines[0].get_ydata(), opened.summary.loc[names, "free_energy_error_kt"])


def test_exploded_conformers_do_not_squeeze_the_histogram(opened, tmp_path):
    rng = np.random.default_rng(0)
    of_system = {"reference": rng.normal(size=1000), "pretrain": np.append(rng.normal(size=90), np.full(10, 1e6))}
    with house_style():
        _, axes = figures.grid(1, columns=3)
        figures._histograms(axes[0], of_system)
    assert axes[0].get_xlim()[1] < 25
    assert "pretrained: 10.0 % →" in axes[0].texts[0].get_text()


def test_running_mean_keeps_ends():
    values = pd.Series(np.arange(100.0))
    smoothed = figures.smooth(values)
    assert smoothed.notna().all()
    assert smoothed[50] == pytest.approx(49.5, abs=1)


def test_evenly_spaced():
    np.testing.assert_array_equal(collect.evenly(5, 12), np.arange(5))
    picked = collect.evenly(100, 4)
    assert picked[0] == 0
    assert picked[-1] == 99
    assert len(picked) == 4


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A run with two seeds, its page written."""
    path = tmp_path_factory.mktemp("seeds")
    changed = settings(run={"name": "fake", "seeds": [11, 4]}, align={"objectives": ["eba", "none"], "rounds": 1})
    evaluated(path, changed, conformers=40)
    handed = stage_config(changed, *REPORT)
    report.run(handed, results=path)
    return collect.open_run(handed, path)


def test_a_run_with_several_seeds_begins_with_the_table_over_seeds(several):
    text = (several.root / "report.html").read_text(encoding="utf-8")
    read = Reader(text)
    assert read.open == []
    sections = [a["id"] for tag, a in read.tags if tag == "section"]
    assert sections[:2] == ["seeds", "short"]
    assert "seeds 11, 4" in text
    table = read_table(several.root / "evaluate" / "seeds.parquet")
    rows = {row[0]: row[1:] for row in reversed(read.rows)}  # the first table of a name wins
    for model, name in (
        ("pretrain", "pretrained"),
        ("eba_round1", "EBA, round 1"),
        ("none_round1", "control, round 1"),
    ):
        chosen = table[(table["model"] == model) & (table["system"] == "(mean)")].set_index("metric")
        assert rows[name][0] == f"{chosen.loc['free_energy_error_kt', 'mean']:.2f}"
        assert rows[name][1] == f"{chosen.loc['ramachandran_jsd', 'mean']:.3f}"
    summary = several.summary
    for seed in (11, 4):
        expected = summary.loc[f"eba_round1_seed{seed}", "free_energy_error_kt"]
        assert rows[f"EBA, round 1, seed {seed}"][0] == f"{expected:.2f}"


def test_figures_of_several_seeds_show_the_first_and_say_so(several):
    text = (several.root / "report.html").read_text(encoding="utf-8")
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text, re.DOTALL)
    assert len(captions) >= 8
    assert all("Shown is seed 11, the first of 2" in caption for caption in captions)
    assert [name for name in several.shown if name.startswith("pretrain")] == ["pretrain_seed11"]
    with house_style():
        figure = figures.free_energy_per_round(several)
    assert figure is not None
    panel = figure.axes[0]
    eba = next(c for c in panel.containers if c.get_label() == "EBA")
    names = ["pretrain_seed11", "eba_round1_seed11"]
    np.testing.assert_allclose(eba.lines[0].get_ydata(), several.summary.loc[names, "free_energy_error_kt"])
    thin = [line.get_ydata() for line in panel.lines if line.get_linewidth() == 0.6]
    other = several.summary.loc[["pretrain_seed4", "eba_round1_seed4"], "free_energy_error_kt"]
    assert any(np.array_equal(y, other) for y in thin)


def test_cautions_that_differ_by_seed_alone_are_one(several, tmp_path):
    metrics = several.metrics.copy()
    like = metrics[(metrics.metric == "energy_failed") & (metrics.system == "ala")].set_index("ensemble")
    of_seeds = {"eba_round1_seed11": 0.91, "eba_round1_seed4": 0.82, "none_round1_seed4": 0.75}
    refused = [
        {**like.loc[name], "ensemble": f"{name}_reweighted", "metric": "pareto_k", "value": k, "status": "heavy_tail"}
        for name, k in of_seeds.items()
    ]
    metrics = pd.concat([metrics, pd.DataFrame(refused)], ignore_index=True)
    for model in ("eba_round1_seed11", "eba_round1_seed4", "none_round1_seed11", "none_round1_seed4"):
        pool = read_table(several.root / "align" / model / "weights.parquet")
        write_table(tmp_path / "align" / model / "weights.parquet", pool.assign(ess=60.0, temperature_kelvin=424.2))
    run = collect.Run(tmp_path, several.settings, metrics, several.summary, several.record, several.over_seeds)
    said = findings.cautions(run)
    why = "a few samples carry the weight (Pareto k {}). The numbers are left empty."
    assert [s for s in said if s.startswith("Nothing is claimed")] == [
        "Nothing is claimed of EBA, round 1, reweighted, seeds 4, 11, ala: " + why.format("0.82, 0.91"),
        "Nothing is claimed of control, round 1, reweighted, seed 4, ala: " + why.format("0.75"),
    ]
    assert [s for s in said if "tempered" in s and "ala" in s] == [
        "The weights of ala in round 1 of EBA, seeds 4, 11 were tempered to 424 K."
    ]


def test_sentences_of_several_seeds_are_of_their_mean(several):
    def over(model, column):
        return several.over(model, "(mean)", column)

    text = " ".join(findings.findings(several))
    before, after = (over(m, "free_energy_error_kt") for m in ("pretrain", "eba_round1"))
    assert before == pytest.approx(
        several.summary.loc[["pretrain_seed11", "pretrain_seed4"], "free_energy_error_kt"].mean()
    )
    assert f"by {before:.2f} kT (mean of 2 seeds)" in text
    low, high = (over("eba_round1", f"free_energy_error_kt{end}") for end in ("_low", "_high"))
    assert f"the error is {after:.2f} kT (95 % interval over 2 seeds {low:.2f} to {high:.2f})" in text
    words = " ".join(tile["words"] for tile in findings.tiles(several))
    assert "free-energy error, pretrained → EBA, round 1 (mean of 2 seeds)" in words
    assert re.search(
        r"stereocentres right, at worst \((pretrained|EBA, round 1|control, round 1), seed (4|11)\)", words
    )


def test_a_variant_has_words_and_a_look_of_its_own() -> None:
    assert collect.words("eba_published_round2_seed7") == "EBA (published), round 2"
    assert collect.words("eba_dpo_free_round1_reweighted") == "EBA-DPO (free), round 1, reweighted"
    assert look("eba_published_round2").colour != look("eba_round2").colour
