"""JSON as it is written."""

import json

from tiltfield.jsontext import as_json


def test_lists_of_numbers_stand_on_one_line():
    values = {"a": [1, 2.5, None, True], "b": {"c": [], "d": [[1, 2], [3]]}, "e": ["[ 1,\n 2 ]", {"f": [1]}]}
    text = as_json(values, indent=2)
    assert json.loads(text) == values
    assert '"a": [1, 2.5, null, true],' in text
    assert "      [1, 2],\n      [3]\n" in text
