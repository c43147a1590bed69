"""Preloaded by the workers of the tests: they run `hasty_child` instead of the child of the package."""

from tiltfield.batch import work

work.CHILD = "hasty_child"
