"""Code stamps: what changes them, what does not; and the record of what made an artifact."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ancdiff import provenance
from ancdiff.provenance import code_stamp, file_sha256, made_by

FILES = {
    "__init__.py": '"""House."""\n',
    "units.py": "SCALE = 10\n",
    "score.py": '"""Score."""\nfrom house.inner import energy\n\n\n'
    'def run(x):\n    """Runs."""\n    return energy(x) + 1\n',
    "inner/__init__.py": "from .energy import energy\n",
    "inner/energy.py": "def energy(x):\n    from ..units import SCALE\n\n    return SCALE * x\n",
    "report.py": "import math\n\nWIDTH = 3\n",
}


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A tiny package in place of the real one; call with file, old and new text to change it."""
    root = tmp_path / "house"
    monkeypatch.setattr(provenance, "PACKAGE_ROOT", root)
    monkeypatch.setattr(provenance, "PACKAGE", "house")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    def change(name: str, old: str, new: str) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))
        provenance._module_digest.cache_clear()

    provenance._module_digest.cache_clear()
    yield change
    provenance._module_digest.cache_clear()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("score.py", "def run", "# a comment\n\n\ndef run"),
        ("score.py", '"""Runs."""', '"""Runs, said better."""'),
        ("score.py", '    """Runs."""\n', ""),
        ("score.py", '"""Score."""', '"""Scores\n\nat length."""'),
        ("score.py", "energy(x) + 1", "(energy(x)\n            + 1)"),
        ("__init__.py", "House", "A house"),
        ("units.py", "10\n", '10\n"""Explained where it stands."""\n'),
        ("report.py", "3", "4"),  # score does not import it
    ],
)
def test_what_does_not_change_the_stamp(edit: Callable[..., None], name: str, old: str, new: str) -> None:
    before = code_stamp("house.score")
    edit(name, old, new)
    assert code_stamp("house.score") == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("score.py", "+ 1", "+ 2"),
        ("score.py", "return energy(x) + 1", 'return "text"'),
        ("inner/__init__.py", "from", "VERSION = 2\nfrom"),  # imported by name
        ("inner/energy.py", "SCALE * x", "SCALE * x * 2"),  # imported by what is imported, relatively
        ("units.py", "10", "11"),  # … inside a function, two levels up
        ("__init__.py", "House.\"\"\"", "House.\"\"\"\nX = 1"),
    ],
)  # fmt: skip
def test_what_changes_the_stamp(edit: Callable[..., None], name: str, old: str, new: str) -> None:
    before, untouched = code_stamp("house.score"), code_stamp("house.report")
    edit(name, old, new)
    assert code_stamp("house.score") != before
    assert code_stamp("house.report") == untouched


def test_a_module_that_is_not_there(edit: Callable[..., None]) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"house\.scores"):
        code_stamp("house.scores")
    edit("score.py", "house.inner", "house.outer")
    code_stamp("house.score")  # a broken import is the interpreter's to report


def test_a_stamp_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ancdiff.provenance import code_stamp; code_stamp('ancdiff.dataset');"
        "print([m for m in ('numpy', 'torch', 'openmm', 'mdtraj') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.strip() == "[]"


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_record_of_what_made_an_artifact(tmp_path: Path) -> None:
    parent = tmp_path / "results" / "dataset" / "ala" / "training.dcd"
    parent.parent.mkdir(parents=True)
    parent.write_bytes(b"abc")
    record = made_by("dataset", settings={"run": {"seed": 1}}, seed=1, parents=[parent])
    assert record["stage"] == "dataset"
    assert record["settings"] == {"run": {"seed": 1}}
    assert record["seed"] == 1
    assert record["code_stamp"] == code_stamp("ancdiff.dataset")
    assert record["parents"] == {"dataset/ala/training.dcd": file_sha256(parent)}  # no machine's own path
    assert record["versions"]["numpy"]
    assert record["versions"]["python"].startswith("3.")


def test_parents_of_one_name_are_told_apart(tmp_path: Path) -> None:
    parents = [tmp_path / replica / "a" / "b" / "md.xtc" for replica in ("one", "two")]
    for i, parent in enumerate(parents):
        parent.parent.mkdir(parents=True)
        parent.write_bytes(bytes([i]))
    record = made_by("dataset", settings={}, seed=None, parents=[*parents, parents[0]])
    assert record["parents"] == {"one/a/b/md.xtc": file_sha256(parents[0]), "two/a/b/md.xtc": file_sha256(parents[1])}
