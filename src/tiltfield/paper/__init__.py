"""The paper's comparison: every study of its tables and figures, run on synthetic cells."""

from __future__ import annotations

RESULTS = 1
"""Version of the methods and the measures, by which kept results are known. Raise it by hand when a change to a method
or a measure makes earlier results wrong: changed source alone discards nothing, for a result may have taken hours."""
