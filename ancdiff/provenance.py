"""What made an artifact: code stamps, file hashes, versions, resolved settings.

A code stamp stands in each rule's ``params``, so that a change of the code that a stage runs reruns it, while a
comment or a docstring reruns nothing. It reads source text and never imports it: the Snakefile, which each cluster
job parses again, stays free of torch, openmm and mdtraj.

`ancdiff.config` is left out of every stamp. All that a stage takes from it are values, and these stand resolved, with
their defaults, as JSON in the same params; a new key of another stage, a description or a sharper check is no reason to
do work again. It follows that settings classes have no behaviour of their own and that nothing but settings is imported
from there, which a test holds.
"""

import ast
import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE_ROOT = Path(__file__).resolve().parent
PACKAGE = PACKAGE_ROOT.name
_RECORDED_PACKAGES = ("numpy", "torch", "openmm", "mdtraj", "pandas", "rdkit", "snakemake")


DATA_SUFFIXES = (".css", ".j2", ".js", ".json", ".xml")
"""Files of the package that its code reads: templates, styles, scripts, tables, force fields."""
_NOT_STAMPED = ("config",)


def code_stamp(module: str) -> str:
    """Hash of a module's syntax tree and of every first-party module that it imports, directly or not.

    Comments, docstrings and layout do not count. Data files (`DATA_SUFFIXES`) belong to the package in whose folder
    they lie, and count for whoever imports a module of it. Raises ModuleNotFoundError for a module that is not there.
    """
    seen: dict[str, str] = {}
    pending = [module]
    while pending:
        name = pending.pop()
        if name in seen or any(f"{name}.".startswith(f"{PACKAGE}.{left_out}.") for left_out in _NOT_STAMPED):
            continue
        digest, imported = _module_digest(name)
        seen[name] = digest
        pending.extend(imported)
    return hashlib.sha256("".join(f"{name}:{seen[name]}\n" for name in sorted(seen)).encode()).hexdigest()[:16]


@cache
def _module_digest(name: str) -> tuple[str, tuple[str, ...]]:
    """Digest of one module without its docstrings, with its package's data, and the first-party modules it names."""
    path = _module_path(name)
    if path is None:
        raise ModuleNotFoundError(f"no module '{name}' under {PACKAGE_ROOT}")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = _first_party_imports(tree, name, is_package=path.name == "__init__.py")
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [child for child in node.body if not _is_bare_string(child)] or [ast.Pass()]
    digest = hashlib.sha256(ast.dump(tree).encode())
    if path.name == "__init__.py":
        for file in _data_files(path.parent):
            digest.update(f"{file.relative_to(path.parent).as_posix()}:{file_sha256(file)}".encode())
    return digest.hexdigest(), tuple(sorted(imported))


def _data_files(package: Path) -> list[Path]:
    """Data files in a package's folder and in its subfolders that are no packages themselves, hidden ones left out."""
    found: list[Path] = []
    for path in sorted(package.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not (path / "__init__.py").is_file():
            found += _data_files(path)
        elif path.suffix in DATA_SUFFIXES and path.is_file():
            found.append(path)
    return found


def _is_bare_string(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _first_party_imports(tree: ast.AST, name: str, *, is_package: bool) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            candidates = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = name.split(".")[: len(name.split(".")) - node.level + (1 if is_package else 0)]
                base = ".".join([*parents, base] if base else parents)
            candidates = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for candidate in candidates:
            if candidate.split(".")[0] != PACKAGE:
                continue
            parts = candidate.split(".")
            # Importing a.b.c also runs a and a.b.
            found.update(p for i in range(len(parts)) if _module_path(p := ".".join(parts[: i + 1])))
    return found


def _module_path(name: str) -> Path | None:
    base = PACKAGE_ROOT.joinpath(*name.split(".")[1:])
    for candidate in (base.with_suffix(".py") if base != PACKAGE_ROOT else None, base / "__init__.py"):
        if candidate is not None and candidate.is_file():
            return candidate
    return None


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal. Reads the disk."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def made_by(
    stage: str, *, settings: Mapping[str, Any], seed: int | None, parents: Iterable[str | Path] = ()
) -> dict[str, Any]:
    """The record that goes with an artifact: stage, settings, seed, code stamp, parents' hashes, versions.

    Parents are named by their last three path parts, or as many more as tell them apart, so that the record does not
    depend on where the run lies.
    """
    return {
        "stage": stage,
        "settings": dict(settings),
        "seed": seed,
        "code_stamp": code_stamp(f"{PACKAGE}.{stage}"),
        "parents": {name: file_sha256(path) for name, path in _short_names(parents).items()},
        "versions": {"ancdiff": _version("ancdiff"), "python": platform.python_version()}
        | {name: _version(name) for name in _RECORDED_PACKAGES},
    }


def _short_names(paths: Iterable[str | Path]) -> dict[str, Path]:
    distinct = list(dict.fromkeys(Path(path) for path in paths))
    for length in range(3, max((len(path.parts) for path in distinct), default=3) + 1):
        named = {"/".join(path.parts[-length:]): path for path in distinct}
        if len(named) == len(distinct):
            return named
    return {str(path): path for path in distinct}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
