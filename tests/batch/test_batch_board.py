"""A batch on the terminal: a line for each running series, or plain lines now and then, or nothing."""

import io

from rich.console import Console

from tiltfield.batch.board import Board


def text_of(actions, quiet=False, **options):
    text = io.StringIO()
    with Board(Console(file=text, width=80, **options), quiet=quiet) as board:
        actions(board)
    return text.getvalue()


def two_series(board):
    for k in range(200):
        board.show("a", "fit", k / 200, 65.0)
        board.show("b", "coarse", k / 200, None)


def test_without_a_terminal_each_stage_gets_a_line():
    assert text_of(two_series).splitlines() == ["a: fit 0%  1:05 left", "b: coarse 0%"]


def test_on_a_terminal_each_running_series_has_a_line_with_the_time_left():
    def actions(board):
        two_series(board)
        board.say("b: finished")
        board.clear("b")

    text = text_of(actions, force_terminal=True, color_system=None)
    for part in ("a: fit", "b: coarse", "1:05 left", "b: finished"):
        assert part in text


def test_quiet_is_silent():
    assert text_of(lambda board: (two_series(board), board.say("hello")), quiet=True) == ""
