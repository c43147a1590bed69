"""What every group of settings shares: frozen, strict about names, to and from YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from tiltfield.errors import InputError, nearest

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass as _InWords
else:

    class _InWords(type(BaseModel)):
        """Calling the class parses: what is refused is an `InputError`, not pydantic's own."""

        def __call__(cls, /, **values: Any) -> Any:
            return cls.parse(values, cls.__name__)


class Settings(BaseModel, metaclass=_InWords):
    """Frozen settings that refuse unknown keys by naming the nearest valid one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def parse(cls, values: dict[str, Any], source: str) -> Self:
        """Build the settings from plain values.

        Args:
            values: setting name to value.
            source: where they came from, for the message.

        Returns:
            the settings, defaults filled in.

        Raises:
            InputError: for an unknown name or a value of the wrong kind or range.
        """
        for key in values:
            if key not in cls.model_fields:
                raise InputError(f"{source}: unknown setting '{key}'{nearest(key, cls.model_fields)}")
        try:
            made: Self = type.__call__(cls, **values)
            return made
        except ValidationError as error:
            lines = [
                f"{source}: {e['loc'][0]}: {e['msg']}, got {e['input']!r}{nearest_choice(e)}"
                if e["loc"]
                else f"{source}: {e['msg']}"
                for e in error.errors()
            ]
            lines = [line.replace("Value error, ", "") for line in lines]
            raise InputError("\n".join(dict.fromkeys(lines))) from None

    @classmethod
    def settled(cls, config: Self | None, settings: Mapping[str, Any]) -> Self:
        """Return settings with single ones by name over them.

        Args:
            config: the settings; None: the defaults.
            settings: name to value.

        Raises:
            InputError: for an unknown name or a value of the wrong kind or range.
        """
        if config is not None and not settings:
            return config
        base = {} if config is None else config.model_dump(exclude_unset=True)
        return cls.parse({**base, **settings}, "settings")

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Read settings from a YAML file.

        Args:
            path: a file of ``name: value`` lines.

        Raises:
            InputError: if it cannot be read, is not YAML, or holds unknown names or bad values.
        """
        return cls.parse(read_yaml(path), str(path))

    def to_yaml(self) -> str:
        """Return every setting as YAML, enough to run again."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def flags(self) -> list[str]:
        """Return the settings that are not the default as words of the command line; of paths only the name."""
        words: list[str] = []
        for name, value in self.model_dump(exclude_defaults=True).items():
            flag = "--" + name.replace("_", "-")
            if value is True:
                words.append(flag)
                continue
            for one in value if isinstance(value, tuple) else (value,):
                words += [flag, one.name if isinstance(one, Path) else str(one)]
        return words


def unexpected(words: Sequence[str], other: str) -> PydanticCustomError:
    """Return the error of a value that is neither one of some words nor what else is taken.

    Args:
        words: that are taken.
        other: what else is, in words.
    """
    quoted = ", ".join(f"'{word}'" for word in words)  # for nearest_choice
    return PydanticCustomError(
        "literal_error", "expected {words} or {other}", {"words": ", ".join(words), "other": other, "expected": quoted}
    )


def nearest_choice(problem: Mapping[str, Any]) -> str:
    """Return "; did you mean 'x'?" where one of some words was expected and the value is near to one, or nothing.

    Args:
        problem: one of the errors of a `ValidationError`.
    """
    expected = problem.get("ctx", {}).get("expected", "") if problem["type"] == "literal_error" else ""
    return nearest(str(problem["input"]), re.findall("'([^']+)'", expected))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Args:
        path: the file.

    Raises:
        InputError: if the file is missing, is not YAML, or is not a mapping.
    """
    try:
        values = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise InputError(f"cannot read the settings file {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise InputError(f"{path} is not readable YAML{where}: {problem or error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(k, str) for k in values):
        raise InputError(f"{path}: expected lines of 'name: value', got {type(values).__name__}")
    return values
