"""Code stamps: what changes them, what does not; and the record of what made an artifact."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal, get_origin

import pytest

from ancdiff import config, provenance
from ancdiff.provenance import code_stamp, file_sha256, made_by

FILES = {
    "__init__.py": '"""House."""\n',
    "units.py": "SCALE = 10\n",
    "score.py": '"""Score."""\nfrom house.inner import energy\n\n\n'
    'def run(x):\n    """Runs."""\n    return energy(x) + 1\n',
    "inner/__init__.py": "from .energy import energy\n",
    "inner/energy.py": "def energy(x):\n    from ..units import SCALE\n\n    return SCALE * x\n",
    "report.py": "import math\n\nWIDTH = 3\n",
    "config.py": "from house.units import SCALE\n\nSTEPS = 5\n",
    "pages/__init__.py": "from house.config import STEPS\n",
    "pages/page.html.j2": "<p>{{ x }}</p>",
    "pages/notes.md": "for readers",
    "pages/fields/water.xml": "<ForceField/>",
    "pages/inner/__init__.py": "",
    "pages/inner/table.json": "[1]",
    "pages/render.py": "SIZE = 1\n",
    "draw.py": "from house.pages.render import SIZE\n",
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
        ("pages/page.html.j2", "p", "b"),  # … nor this package
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


@pytest.mark.parametrize(
    ("name", "old", "new", "changes"),
    [
        ("pages/page.html.j2", "p", "b", True),
        ("pages/fields/water.xml", "ForceField", "Forcefield", True),  # in a folder that is no package
        ("pages/render.py", "1", "2", True),
        ("pages/notes.md", "readers", "writers", False),  # nothing that code reads
        ("pages/inner/table.json", "1", "2", False),  # of a package that is not imported
        ("config.py", "5", "6", False),  # values reach a stage, and its rule's params, as JSON
        ("units.py", "10", "11", False),  # imported by config alone
    ],
)
def test_data_files_and_the_configuration(
    edit: Callable[..., None], name: str, old: str, new: str, *, changes: bool
) -> None:
    before = code_stamp("house.draw")
    edit(name, old, new)
    assert (code_stamp("house.draw") != before) == changes


def test_a_new_or_renamed_data_file_changes_the_stamp(edit: Callable[..., None]) -> None:
    stamps = [code_stamp("house.draw")]
    folder = provenance.PACKAGE_ROOT / "pages"
    for change in (
        lambda: (folder / "fields" / "ion.xml").write_text("<ForceField/>"),
        lambda: (folder / "fields" / "ion.xml").rename(folder / "fields" / "salt.xml"),
    ):
        change()
        edit("units.py", "10", "10")  # forgets what was read
        stamps.append(code_stamp("house.draw"))
    (folder / ".page.html.j2").write_text("an editor's own")
    edit("units.py", "10", "10")
    stamps.append(code_stamp("house.draw"))
    assert len(set(stamps)) == 3
    assert stamps[2] == stamps[3]


def test_every_data_file_of_the_package_counts_and_is_packaged() -> None:
    package = Path(provenance.__file__).parent
    others = {
        path.suffix
        for path in package.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts
    }
    assert others <= set(provenance.DATA_SUFFIXES)
    packaged = tomllib.loads((package.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert sorted(packaged["ancdiff"]) == [f"**/*{suffix}" for suffix in provenance.DATA_SUFFIXES]


SETTINGS_METHODS = {"sections"}  # of Config: makes the JSON itself


def test_settings_have_values_and_checks_only() -> None:
    """What no stamp sees must not decide what a stage does."""
    files = (Path(provenance.__file__).parent / "config").glob("*.py")
    nodes = [node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body]
    classes = [node for node in nodes if isinstance(node, ast.ClassDef) and node.name != "StageConfig"]
    assert len(classes) > 10
    for node in classes:
        for function in (child for child in node.body if isinstance(child, ast.FunctionDef)):
            decorators = {ast.unparse(d).split("(")[0] for d in function.decorator_list}
            assert decorators <= {"model_validator", "field_validator", "classmethod"}, f"{node.name}.{function.name}"
            assert decorators or function.name in SETTINGS_METHODS, f"{node.name}.{function.name}: move it to its stage"


def test_stages_import_nothing_but_settings_from_the_configuration() -> None:
    """A function or a table there would be in no stamp. The command line and the workflow are in none themselves."""
    package = Path(provenance.__file__).parent
    unstamped = {package / "cli.py", package / "workflow.py", package / "__main__.py", package / "testing.py"}
    found = 0
    for path in set(package.rglob("*.py")) - unstamped - set((package / "config").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("ancdiff.config") for alias in node.names), path
            if not isinstance(node, ast.ImportFrom) or not f"{node.module}.".startswith("ancdiff.config."):
                continue
            assert node.module == "ancdiff.config", path  # its parts are its own business
            for alias in node.names:
                found += 1
                imported = getattr(config, alias.name)
                settings = isinstance(imported, type) and issubclass(imported, (config.Section, config.StageConfig))
                assert settings or get_origin(imported) in (Annotated, Literal), f"{path.name} imports {alias.name}"
    assert found > 10


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
