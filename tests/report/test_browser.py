"""The report as a person sees it: no errors, no network, and every handle moves what it should."""

import numpy as np
import pytest

from tiltfield.io import load_frames
from tiltfield.report import make_report
from tiltfield.series import Volume

READ = """(() => {{
  const canvas = document.querySelector('{where} canvas');
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  return [canvas.height, canvas.width, Array.from(pixels).filter((_, i) => i % 4 === 0)];
}})()"""


def canvas(browser, where):
    """The red values of a canvas, shape (row, col)."""
    rows, cols, values = browser.run(READ.format(where=where))
    return np.array(values).reshape(rows, cols)


def section(browser, view):
    return canvas(browser, f"#volume [data-view={view}]")


def image(browser, name):
    return canvas(browser, f"#tilts [data-image={name}]")


def slide(browser, selector, value):
    browser.run(
        f"(() => {{ const s = document.querySelector('{selector}'); s.value = {value}; "
        "s.dispatchEvent(new Event('input')); })()"
    )


def alike(shown, values):
    """Whether an image in grey shows some values: up to their scale, and what a JPEG loses."""
    inside = (shown > 0) & (shown < 255)
    return np.corrcoef(shown[inside], values[inside])[0, 1] > 0.995


@pytest.fixture
def opened(made, evaluated, browser):
    """A report, evaluated, in the browser; gives the folder."""
    folder = made()
    evaluated(folder)
    browser.open(make_report(folder).as_uri())
    return folder


def test_it_loads_without_errors_and_without_a_network(opened, browser):
    assert browser.errors == []
    kinds = {address.partition(":")[0] for address in browser.requests}
    assert kinds == {"file", "data"}
    assert sum(address.startswith("file:") for address in browser.requests) == 1


@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_a_slider_moves_its_section_to_that_slice(opened, browser, axis):
    volume = Volume.load(opened / "volume.mrc").data
    view, place = {"z": ("xy", 0), "y": ("xz", 1), "x": ("yz", 2)}[axis]
    before = {v: section(browser, v) for v in ("xy", "xz", "yz")}
    slide(browser, f"#slider-{axis}", 7)
    cut = np.take(volume, 7, axis=place)
    expected = cut.T if axis == "x" else cut  # rows of the yz section are y
    assert alike(section(browser, view), expected)
    assert not alike(before[view], expected)
    for other in set(before) - {view}:
        np.testing.assert_array_equal(section(browser, other), before[other])
    assert browser.run(f"location.hash.includes('{axis}=7')")
    assert f"{axis} = 7" in browser.run(f"document.querySelector('[data-view={view}] figcaption').textContent")


def test_a_click_in_one_section_moves_the_others(opened, browser):
    box = browser.run(
        "(() => { const b = document.querySelector('[data-view=xy] .frame').getBoundingClientRect(); "
        "return [b.left, b.top, b.width, b.height]; })()"
    )
    x, y = box[0] + 3.5 / 20 * box[2], box[1] + 5.5 / 24 * box[3]
    for kind in ("mousePressed", "mouseReleased"):
        browser.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
    point = browser.run("report.volume.point()")
    assert (point["x"], point["y"]) == (3, 5)


def test_black_and_white_are_densities(opened, browser):
    volume = Volume.load(opened / "volume.mrc").data[5]
    window = browser.run("DATA.volume.window")
    grey = 255 * np.clip((volume - window[0]) / (window[1] - window[0]), 0, 1)
    assert np.abs(section(browser, "xy") - grey).mean() < 4
    slide(browser, "#volume .contrast .white", 120)
    white = browser.run("valueOf({ ...DATA.volume.density }, 120)")
    brighter = 255 * np.clip((volume - window[0]) / (white - window[0]), 0, 1)
    assert np.abs(section(browser, "xy") - brighter).mean() < 4
    assert (section(browser, "xy") == 255).mean() > 0.1
    browser.run("document.querySelector('#volume .contrast button').click()")
    assert np.abs(section(browser, "xy") - grey).mean() < 4


def test_the_uncertainty_takes_the_place_of_the_density(opened, browser):
    before = section(browser, "xy")
    browser.run("document.querySelector('input[value=uncertainty]').click()")
    assert not np.array_equal(section(browser, "xy"), before)
    browser.run("document.querySelector('input[value=density]').click()")
    np.testing.assert_array_equal(section(browser, "xy"), before)


def test_the_player_shows_images_and_residuals_of_one_tilt(opened, browser):
    observed = load_frames(opened.parent / "needle.mrc").images
    rendered = load_frames(opened / "rendered.mrc").images
    for k in (0, 4, 12):
        slide(browser, "#tilts .tilt", k)
        assert alike(image(browser, "observed"), observed[k])
        assert alike(image(browser, "rendered"), rendered[k])
        assert f"tilt {k + 1} ·" in browser.run("document.querySelector('#tilts output').textContent")
    slide(browser, "#tilts .tilt", 4)
    odd = image(browser, "residual").std()
    slide(browser, "#tilts .tilt", 5)
    assert odd > 1.5 * image(browser, "residual").std()


def test_a_finding_and_the_error_chart_lead_to_the_tilt(opened, browser):
    browser.run("document.querySelector('button[data-tilt=\"5\"]').click()")
    assert browser.run("report.tilts.at()") == 4
    assert browser.run("document.querySelectorAll('#error-per-tilt circle').length") == 13 + 1
    browser.run(
        "(() => { const c = document.querySelectorAll('#error-per-tilt circle')[9].getBoundingClientRect(); "
        "document.querySelector('#error-per-tilt svg').dispatchEvent("
        "new MouseEvent('click', { clientX: c.left + 3, clientY: c.top })); })()"
    )
    assert browser.run("report.tilts.at()") == 9


def test_it_plays(opened, browser):
    start = browser.run("report.tilts.at()")
    browser.run("document.querySelector('.play').click()")
    browser.wait(f"report.tilts.at() > {start + 1}")
    browser.run("document.querySelector('.play').click()")
    assert browser.run("report.tilts.at()") == browser.run("report.tilts.at()")


def test_the_address_names_what_is_shown(opened, browser):
    browser.open((opened / "report.html").as_uri() + "#z=2&y=3&x=4&tilt=5")
    assert browser.run("report.volume.point()") == {"z": 2, "y": 3, "x": 4}
    assert browser.run("report.tilts.at()") == 4


def test_every_curve_is_drawn(opened, browser):
    drawn = browser.run("Array.from(document.querySelectorAll('.plot svg'), (s) => s.parentElement.id)")
    expected = {"error-per-tilt", "likelihood", "loss", "weights", "density-0", "density-1", "density-2"}
    assert set(drawn) == expected | {"variance", "calibration", "autocorrelation", "fsc", "whiteness"}


def test_the_pointer_reads_a_curve(opened, browser):
    place = browser.run(
        "(() => { document.querySelector('#error-per-tilt').scrollIntoView({ block: 'center' }); "
        "const b = document.querySelectorAll('#error-per-tilt circle')[6].getBoundingClientRect(); "
        "return [b.left + 3, b.top]; })()"
    )
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
    browser.wait("!document.querySelector('#error-per-tilt .told').hidden")
    assert browser.run("document.querySelector('#error-per-tilt .told').textContent").startswith("tilt 7, 0°: ")


@pytest.mark.parametrize("width", [1280, 1024, 640])
def test_nothing_is_wider_than_the_window(opened, browser, width):
    browser.open((opened / "report.html").as_uri(), width=width)
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.errors == []


def test_a_run_without_images_opens_too(made, browser):
    folder = made()
    (folder.parent / "needle.mrc").unlink()
    (folder / "history.jsonl").write_text("")
    browser.open(make_report(folder).as_uri())
    assert browser.errors == []
    assert browser.run("document.querySelectorAll('#volume canvas').length") == 3
    assert browser.run("document.querySelectorAll('#tilts canvas').length") == 0
