"""From YAML or JSON to a checked configuration, with errors that say which key is wrong and what was meant."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from ancdiff.config.base import Section
from ancdiff.config.models import LineSettings
from ancdiff.config.run import Config
from ancdiff.config.systems import SystemSettings
from ancdiff.errors import ConfigError


class StageConfig:
    """The sections that a stage was handed; reading another one is an error, not a silent default.

    A stage that read a section outside its rule's params would not be rerun when that section changes.
    """

    def __init__(self, sections: Mapping[str, Any]) -> None:
        self._names = frozenset(sections)
        self._config = parse_config(sections)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._names:
            raise ConfigError(
                f"this stage was not handed the section '{name}'",
                where=f"it was handed: {', '.join(sorted(self._names)) or 'nothing'}",
                fix=f"add '{name}' to the sections of its rule, or to --settings",
            )
        return getattr(self._config, name)

    def as_dict(self) -> dict[str, Any]:
        """The resolved sections, defaults included, for an artifact's record of what made it."""
        return self._config.model_dump(mode="json", include=set(self._names))


def parse_config(raw: Mapping[str, Any], *, where: str = "configuration") -> Config:
    """Check a mapping of sections.

    Raises:
        ConfigError: unknown keys, wrong types or impossible values, one line for each.
    """
    try:
        # JSON mode: a YAML list becomes a tuple, while a string where a number belongs stays an error. A YAML date
        # becomes text, to be told about by its key.
        return Config.model_validate_json(json.dumps(_with_whole_variants(raw), default=str))
    except ValidationError as error:
        lines = [_describe(problem) for problem in error.errors()]
        raise ConfigError(
            "the configuration does not hold:\n" + "\n".join(f"    {line}" for line in lines),
            where=where,
            fix="mend these keys; config.yaml documents every key, its unit and its default",
        ) from error


def _with_whole_variants(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The same, each of ``align.variants`` with what it leaves out taken from ``align`` itself.

    Before it is checked, as values that were left out cannot be told from defaults afterwards.
    """
    align = raw.get("align")
    if not isinstance(align, Mapping) or not isinstance(align.get("variants"), Mapping):
        return dict(raw)
    shared = {key: value for key, value in align.items() if key in LineSettings.model_fields}
    whole = {n: shared | dict(own) if isinstance(own, Mapping) else own for n, own in align["variants"].items()}
    return {**raw, "align": {**align, "variants": whole}}


def load_config(path: Path) -> Config:
    """Read a YAML configuration.

    Raises:
        ConfigError: the file is missing, is not YAML, or does not hold.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError as error:
        raise ConfigError("there is no such configuration file", where=str(path)) from error
    except OSError as error:
        raise ConfigError(f"this configuration cannot be read: {error.strerror}", where=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"this is not valid YAML: {error}", where=str(path)) from error
    if not isinstance(raw, dict):
        raise ConfigError("a configuration is a mapping of sections", where=str(path))
    return parse_config(raw, where=str(path))


def _describe(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "(top)"
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key{_suggest(problem['loc'])}"
    given = "" if isinstance(problem["input"], dict) else f" (given: {problem['input']!r})"
    return f"{key}: {problem['msg']}{given}{_number_as_text(problem)}"


def _number_as_text(problem: Any) -> str:
    """YAML takes 2e-3 (no point, no sign after e) for text."""
    if problem["type"] not in ("float_type", "int_type") or not isinstance(problem["input"], str):
        return ""
    try:
        return f"; YAML takes this for text: write {float(problem['input']):g}, without quotes"
    except ValueError:
        return ""


def _suggest(location: tuple[int | str, ...]) -> str:
    """The nearest known key of the same section, for a mistyped one."""
    known = list(_known_keys(location[:-1]))
    near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known here: {', '.join(known)}" if known else ""


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Keys of the section at a place in the configuration."""
    if location[:1] == ("systems",):
        section: type[BaseModel] = SystemSettings
        location = location[2:]
    else:
        section = Config
    for part in location:
        if part not in section.model_fields:  # a name that the user gave, of one of several alike
            continue
        inner = [
            kind
            for kind in (
                section.model_fields[str(part)].annotation,
                *get_args(section.model_fields[str(part)].annotation),
            )
            if isinstance(kind, type) and issubclass(kind, Section)
        ]
        if not inner:
            return []
        section = inner[0]
    return list(section.model_fields)
