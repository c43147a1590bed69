"""Packages that may be missing: imported when they are needed, and named with what installs them."""

from __future__ import annotations

import importlib
from types import ModuleType

from tiltfield.errors import InputError


def package(module: str, extra: str, what: str, note: str = "") -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: its full name.
        extra: the extra of tiltfield that installs the package.
        what: what needs it, for the message.
        note: what to know before installing it.

    Raises:
        InputError: if it, or something that it needs, is missing; with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise InputError(
            f"{what} needs a package that cannot be imported ({error}): "
            f"install it with pip install 'tiltfield[{extra}]'{note}"
        ) from None
