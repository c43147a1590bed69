"""Progress: a line now and then without a terminal, a bar on one, silence when asked."""

import io

import pytest
from rich.console import Console

from tiltfield.report import Screen
from tiltfield.report.screen import clock


def lines_of(actions, **options):
    text = io.StringIO()
    with Screen(Console(file=text, width=80, **options)) as screen:
        actions(screen)
    return text.getvalue().splitlines()


def steps(screen, stage="fit", count=1000):
    for i in range(count):
        screen.progress(stage, i / (count - 1), 60.0, {"held-out": 0.0931})


def test_without_a_terminal_ten_lines_tell_of_a_thousand_steps():
    lines = lines_of(steps)
    assert 10 <= len(lines) <= 12
    assert lines[0].startswith("fit 0%")
    assert lines[-1].startswith("fit 100%")


def test_a_line_holds_stage_share_time_left_and_figure():
    assert all(part in lines_of(steps)[3] for part in ("fit 30%", "0:00", "1:00 left", "held-out 0.0931"))


def test_every_stage_gets_a_line():
    lines = lines_of(lambda s: [s.progress(name, 0.0, None, {}) for name in ("weights", "fit", "render")])
    assert [line.split()[0] for line in lines] == ["weights", "fit", "render"]


def test_messages_are_printed_whole_and_as_they_are():
    message = "angles from [bold]x.rawtlt[/bold] " + "and so on " * 20
    assert lines_of(lambda s: s.say(message)) == [message]


def test_quiet_is_silent():
    text = io.StringIO()
    with Screen(Console(file=text), quiet=True) as screen:
        screen.say("hello")
        steps(screen)
    assert text.getvalue() == ""


def test_on_a_terminal_there_is_a_bar_and_messages_stay_above_it():
    def actions(screen):
        screen.progress("fit", 0.4, 65.0, {"held-out": 0.0931})
        screen.say("gain 0.9")

    text = "\n".join(lines_of(actions, force_terminal=True, color_system=None))
    assert "gain 0.9" in text
    assert all(part in text for part in ("fit", "40%", "1:05 left", "held-out 0.0931"))


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3725, "1:02:05"), (-1, "0:00")])
def test_clock(seconds, text):
    assert clock(seconds) == text
