"""Reading compounds: raw and plain xyz, SDF, archives and what can be wrong with them, the published split."""

import io
import itertools
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ancdiff.dataset import qm9
from ancdiff.dataset.archives import read_archive
from ancdiff.dataset.xyz import Geometry, mathematica_float, parse_sdf_record, parse_xyz
from ancdiff.errors import InputError

# Made up: a raw file as QM9 has them, with tabs, a *^ number and the three lines behind the atoms.
RAW_WATER = (
    "3\n"
    "gdb 3\t799.58812\t437.90386\t282.94545\t1.8511\t6.31\t-0.2928\t0.0687\t0.3615\t19.0002\t0.021375\t-76.404702\t"
    "-76.401867\t-76.400922\t-76.422349\t6.002\t\n"
    "O\t-0.0343604951\t 0.9775395708\t 7.6*^-3\t-0.589706\n"
    "H\t 0.0647664923\t 2.05721*^-2\t 0.0015346341\t 0.294853\n"
    "H\t 0.8717903737\t 1.3007924048\t 0.0006931336\t 0.294853\n"
    "1671.4222\t3803.6305\t3907.698\n"
    "O\tO\n"
    "InChI=1S/H2O/h1H2\tInChI=1S/H2O/h1H2\n"
)
PLAIN_WATER = "3\n\n O 0.0 0.0 0.1173\n H 0.0 0.7572 -0.4692\n H 0.0 -0.7572 -0.4692\n"


def archive(path: Path, members: dict[str, str]) -> Path:
    with tarfile.open(path, "w:bz2") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


def test_a_raw_file_gives_its_number_and_positions_in_nm() -> None:
    water = parse_xyz(RAW_WATER, where="dsgdb9nsd_000099.xyz")
    assert water.number == 3  # of the property line, which goes before the name
    assert water.atomic_numbers.tolist() == [8, 1, 1]
    np.testing.assert_allclose(water.positions_nm[0], [-0.00343604951, 0.09775395708, 0.00076], rtol=1e-6)
    assert water.positions_nm[1, 1] == pytest.approx(0.00205721, rel=1e-6)


def test_a_plain_file_takes_its_number_from_its_name() -> None:
    assert parse_xyz(PLAIN_WATER, where="xyz/dsgdb9nsd_000003.xyz").number == 3
    assert parse_xyz(PLAIN_WATER, where="water.xyz").number is None


@given(st.floats(-1e6, 1e6), st.integers(-20, 20))
def test_numbers_as_mathematica_writes_them(mantissa: float, exponent: int) -> None:
    assert mathematica_float(f"{mantissa!r}") == mantissa
    if "e" not in f"{mantissa!r}":
        assert mathematica_float(f"{mantissa!r}*^{exponent}") == float(f"{mantissa!r}e{exponent}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1 is not a number of atoms"),
        ("many\n\n", "line 1 is not a number of atoms: 'many'"),
        ("0\n\n", "line 1 is not a number of atoms"),
        (PLAIN_WATER.replace("3\n", "4\n", 1), "4 atoms are promised, 3 lines"),
        (PLAIN_WATER.replace("3\n", "2\n", 1), "after the 2 atoms"),
        (PLAIN_WATER.replace(" O ", " Xx "), "line 3: element 'Xx' is not known"),
        (PLAIN_WATER.replace(" O ", " S "), "element 'S'"),
        (PLAIN_WATER.replace("0.1173", "0.11.73"), "line 3: a position is not a number"),
        (PLAIN_WATER.replace("0.1173", "nan"), "line 3: a position is not finite"),
        (PLAIN_WATER.replace(" 0.0 0.7572 -0.4692", " 0.0 0.7572"), "line 4 is not 'element x y z'"),
        (RAW_WATER.replace("gdb 3", "gdb three"), "line 2 has no number after 'gdb'"),
    ],
)
def test_a_broken_file_is_told_by_its_line(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        parse_xyz(text, where="broken.xyz")


SDF_WATER = """gdb_3
  made by hand

  3  2  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.1173 O   0  0
    0.0000    0.7572   -0.4692 H   0  0
    0.0000   -0.7572   -0.4692 H   0  0
  1  2  1  0
  1  3  1  0
M  END
"""


def test_sdf_is_read_like_xyz() -> None:
    water, same = parse_sdf_record(SDF_WATER, where="w.sdf"), parse_xyz(PLAIN_WATER, where="w_3.xyz")
    assert water.number == same.number == 3
    np.testing.assert_array_equal(water.atomic_numbers, same.atomic_numbers)
    np.testing.assert_allclose(water.positions_nm, same.positions_nm)
    with pytest.raises(InputError, match="V2000"):
        parse_sdf_record(SDF_WATER.replace("V2000", "V3000"), where="w.sdf")
    with pytest.raises(InputError, match="3 atoms are promised, 2 lines"):
        parse_sdf_record("\n".join(SDF_WATER.splitlines()[:6]), where="w.sdf")


def test_an_sdf_file_that_is_cut_is_an_error(tmp_path: Path) -> None:
    whole = tmp_path / "whole.sdf"
    whole.write_text((SDF_WATER + "$$$$\n") * 2)
    assert [name for name, _ in read_archive(whole)] == ["whole.sdf record 1", "whole.sdf record 2"]
    whole.write_text((SDF_WATER + "$$$$\n") + SDF_WATER)
    with pytest.raises(InputError, match="cut short"):
        list(read_archive(whole))


def test_bad_members_are_rows_with_a_reason_and_good_ones_are_read(tmp_path: Path) -> None:
    source = archive(
        tmp_path / "mixed.tar.bz2",
        {
            "readme.txt": "not a compound",
            "xyz/mol_000005.xyz": PLAIN_WATER,
            "xyz/mol_000003.xyz": PLAIN_WATER,
            "again/mol_000003.xyz": PLAIN_WATER,
            "xyz/mol_000006.xyz": PLAIN_WATER.replace("3\n", "5\n", 1),
            "xyz/mol_000007.xyz": PLAIN_WATER.replace("0.7572", "0.0572"),
            "xyz/mol_000008.xyz": PLAIN_WATER.replace("0.7572", "7.572"),
            "xyz/mol_000009.xyz": "1\n\nH 0 0 0\n",
            "xyz/mol_000010.xyz": PLAIN_WATER,
        },
    )
    read = qm9.read_compounds(source, excluded=frozenset({10, 77}))
    assert read.compounds.number.tolist() == [3, 5]  # in order of their numbers
    assert read.excluded == 1
    reasons = {row["name"]: str(row["reason"]) for row in read.left_out}
    assert list(reasons) == [
        "again/mol_000003.xyz",
        *(f"xyz/mol_00000{n}.xyz" for n in (6, 7, 8, 9)),
    ]
    for (name, reason), said in zip(
        reasons.items(), ["duplicate", "5 atoms are promised", "overlap", "torn", "too small"], strict=True
    ):
        assert reason.startswith(said), name


@pytest.mark.parametrize("name", ["../outside.xyz", "/etc/outside.xyz", "a/../../b.xyz", "..\\b.xyz"])
def test_a_member_that_points_outside_is_an_error(tmp_path: Path, name: str) -> None:
    source = archive(tmp_path / "evil.tar.bz2", {"mol_1.xyz": PLAIN_WATER, name: PLAIN_WATER})
    with pytest.raises(InputError, match="points outside"):
        qm9.read_compounds(source)
    assert sorted(os.listdir(tmp_path)) == ["evil.tar.bz2"]  # nothing was unpacked


def test_a_link_or_a_huge_member_is_an_error(tmp_path: Path) -> None:
    link = tarfile.TarInfo("mol_1.xyz")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        tar.addfile(link)
    with pytest.raises(InputError, match="link or a device"):
        qm9.read_compounds(tmp_path / "link.tar")
    source = archive(tmp_path / "huge.tar.bz2", {"mol_1.xyz": "3\n" + " " * 1_100_000})
    with pytest.raises(InputError, match="too many for one compound"):
        qm9.read_compounds(source)


@pytest.mark.parametrize("suffix", ["tar", "tar.bz2", "tar.gz", "tar.xz"])
def test_an_archive_that_is_cut_anywhere_is_an_error(tmp_path: Path, suffix: str) -> None:
    """Every eighth of the file, and for a plain tar just behind a member, where tarfile itself sees nothing."""
    whole = tmp_path / f"whole.{suffix}"
    mode = "w" if suffix == "tar" else f"w:{suffix.rsplit('.')[-1]}"
    with tarfile.open(whole, mode) as tar:
        for n in range(1, 9):
            info = tarfile.TarInfo(f"mol_{n}.xyz")
            text = PLAIN_WATER.replace("0.1173", f"0.11{n}3").encode()
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
    assert len(qm9.read_compounds(whole).compounds) == 8
    content = whole.read_bytes()
    cuts = [len(content) * part // 8 for part in range(1, 8)]
    end_mark = 8 * 1024  # eight members of a header and a block each; then blocks of zeros
    cuts += [1024, 2048, end_mark - 512, end_mark, end_mark + 100] if suffix == "tar" else [len(content) - 1]
    cut_file = tmp_path / f"cut.{suffix}"
    for cut in cuts:
        cut_file.write_bytes(content[:cut])
        if suffix == "tar" and cut >= end_mark + 512:
            continue  # all members and an end mark are there
        with pytest.raises(InputError, match="cut short"):
            qm9.read_compounds(cut_file)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        list(read_archive(tmp_path / "none.tar"))
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(InputError, match="neither an archive"):
        list(read_archive(tmp_path / "a.csv"))
    with pytest.raises(InputError, match=r"no sound compound.*promised"):
        qm9.read_compounds(archive(tmp_path / "bad.tar.bz2", {"m_1.xyz": "4\n\n"}))


def test_a_geometry_in_the_wrong_unit_is_found() -> None:
    water = parse_xyz(PLAIN_WATER, where="w_1.xyz")
    assert qm9.geometry_problem(water) is None
    for factor, said in ((10.0, "torn"), (0.1, "overlap")):
        wrong = Geometry(water.atomic_numbers, (water.positions_nm * factor).astype(np.float32))
        assert str(qm9.geometry_problem(wrong)).startswith(said)


def test_the_full_set_is_split_in_the_published_sizes_and_others_in_proportion() -> None:
    shares = (100_000, 17_748, 13_083)
    assert qm9.part_sizes(130_831, shares) == shares
    assert qm9.part_sizes(9_447, shares) == (7_221, 1_281, 945)
    parts = qm9.split_parts(130_831, shares, 0)
    assert [len(part) for part in parts] == list(shares)
    assert len(set(np.concatenate(parts).tolist())) == 130_831
    with pytest.raises(InputError, match="too few"):
        qm9.part_sizes(5, shares)


@given(st.integers(3, 5000), st.lists(st.integers(1, 1000), min_size=2, max_size=4))
def test_parts_add_up(n: int, shares: list[int]) -> None:
    try:
        sizes = qm9.part_sizes(n, shares)
    except InputError:
        assert n * min(shares) / sum(shares) < 1  # only where a part would be empty
        return
    assert sum(sizes) == n
    assert all(abs(size - n * share / sum(shares)) < 1 for size, share in zip(sizes, shares, strict=True))


def test_seed_zero_is_the_published_split_and_does_not_change() -> None:
    """The first places of the legacy generator's permutation, which NumPy keeps for good."""
    parts = qm9.split_parts(10, (6, 2, 2), 0)
    assert np.concatenate(parts).tolist() == [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]


def test_the_list_of_excluded_compounds(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("List among the 133885\n====\n#  Index SMILES\n  58  NC(=N)C#N\n 61 NC(=N)C=O\n====\n")
    assert qm9.read_excluded(listed) == {58, 61}
    listed.write_text("nothing here")
    with pytest.raises(InputError, match="no line"):
        qm9.read_excluded(listed)


def test_real_slice(test_data: Path, tmp_path: Path) -> None:
    excluded = qm9.read_excluded(test_data / "qm9" / "uncharacterized.txt")
    assert len(excluded) == 3054
    methane = parse_xyz((test_data / "qm9" / "dsgdb9nsd_000001.xyz").read_text(), where="x.xyz")
    assert (methane.number, sorted(methane.atomic_numbers.tolist())) == (1, [1, 1, 1, 1, 6])
    members = dict(itertools.islice(_members(test_data / "qm9" / "dsgdb9nsd_slice.xyz.tar.bz2"), 60))
    read = qm9.read_compounds(archive(tmp_path / "some.tar.bz2", members), excluded=excluded)
    assert (len(read.compounds), read.left_out, read.excluded) == (60, (), 0)
    assert np.bincount(read.compounds.atomic_numbers).nonzero()[0].tolist() == [1, 6, 7, 8]


def _members(path: Path) -> Iterator[tuple[str, str]]:
    with tarfile.open(path, "r|bz2") as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is not None:
                yield member.name, content.read().decode()
