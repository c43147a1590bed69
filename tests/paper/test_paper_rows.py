"""The studies as data: complete, acceptable to the settings, and sharing what they have in common."""

import inspect
from pathlib import Path

import pytest

from tiltfield.config import CLASSICAL, PUBLISHED, DenoiserName, LearnedNoise, ReconstructConfig
from tiltfield.errors import InputError
from tiltfield.fields import HashGrid
from tiltfield.noise import load_noise
from tiltfield.paper.noise_study import MODELS
from tiltfield.paper.options import Options, cell, fit_settings, key_of, noise_file, settled
from tiltfield.paper.rows import ALL, NAMES, STUDIES, TILTFIELD, Row, studies_named
from tiltfield.paper.store import key_name

OPTIONS = Options()
ROWS = [(name, row) for name, study in STUDIES.items() for row in study.rows]
EXPECTED = {
    "main": ["WBP", "SIRT", "L2Noisy", "L2Den", "Ours", "OursSup", "L2Clean", "tiltfield"],
    "losses": ["L1Noisy", "L2Noisy", "Ours"],
    "flow-capacity": [f"Ours, {n} layers" for n in (2, 4, 8, 16)],
    "denoisers-wbp": ["none", "BM3D", "DWK-P", "DWK-G", "Topaz", "Noise2Self"],
    "denoisers-l2": ["none", "BM3D", "DWK-P", "DWK-G", "Topaz", "Noise2Self"],
    "explicit": ["implicit, L2", "implicit, with noise model", "explicit, L2, TV 0", "explicit, L2, TV 0.05",
                 "explicit, with noise model, TV 0", "explicit, with noise model, TV 50"],
}  # fmt: skip


def row(study: str, title: str) -> Row:
    return next(r for r in STUDIES[study].rows if r.title == title)


def name_of(study: str, title: str, seed: int = 0) -> str:
    found = row(study, title)
    return key_name(key_of(found, found.variants[0], OPTIONS, seed))


def test_all_studies_of_the_paper_are_there():
    assert NAMES == ("main", "noise", "field-capacity", "flow-capacity", "defocus", "losses", "denoisers-wbp",
                     "denoisers-l2", "explicit")  # fmt: skip
    assert studies_named(ALL) == NAMES
    assert studies_named("losses") == ("losses",)


@pytest.mark.parametrize("study", EXPECTED)
def test_rows_are_complete(study):
    assert [r.title for r in STUDIES[study].rows] == EXPECTED[study]


def test_noise_models_are_complete_and_can_be_learned():
    assert list(MODELS) == ["Poisson", "Gaussian", "flow (the paper's)", "flow (tiltfield's)"]
    assert set(MODELS.values()) <= set(LearnedNoise.__args__)


def test_capacities_are_those_asked_for():
    found = [r.variants[0] for r in STUDIES["field-capacity"].rows]
    widths = {m: [s.get("features") for s in found if s.get("method", "neural") == m] for m in ("l2-noisy", "ours")}
    assert widths == {"l2-noisy": [32, 64, 128, None], "ours": [32, 64, 128, None]}  # None: its own, 256
    assert [s.get("features") for s in found if "method" not in s] == [1, 2, None, 8]
    assert inspect.signature(HashGrid).parameters["n_features"].default == 4


def test_defocus_rows_see_what_they_should():
    seen = {r.title: (r.images, r.variants[0].get("defocus")) for r in STUDIES["defocus"].rows}
    assert seen == {
        "L2Clean, no blur": ("clean", None),
        "L2Blur": ("clean, blurred", None),
        "L2Blur+": ("clean, blurred", "linear:2"),
        "tiltfield, no blur": ("noisy", None),
        "tiltfield, blur not modelled": ("noisy, blurred", None),
        "tiltfield, blur modelled": ("noisy, blurred", "linear:2"),
    }
    made = cell(OPTIONS, 1, "noisy, blurred")
    assert (made.defocus, made.defocus_pixels, cell(OPTIONS, 1).defocus) == ("linear", 2, "none")


@pytest.mark.parametrize(("study", "found"), ROWS, ids=lambda v: getattr(v, "title", v))
def test_settings_are_accepted(study, found):
    for settings in found.variants:
        ReconstructConfig.parse(fit_settings(settings, OPTIONS, 0), study)


def test_every_published_method_and_denoiser_has_a_row():
    methods = {s.get("method", "neural") for _, r in ROWS for s in r.variants}
    assert methods == {*PUBLISHED, *CLASSICAL, "neural"}
    denoisers = {s.get("denoiser", "bm3d") for _, r in ROWS for s in r.variants}
    assert denoisers == set(DenoiserName.__args__)


@pytest.mark.parametrize("study", STUDIES)
def test_titles_are_not_repeated(study):
    titles = [r.title for r in STUDIES[study].rows]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("main", "L2Noisy"), ("field-capacity", "L2Noisy, 256 features")),
        (("main", "L2Noisy"), ("losses", "L2Noisy")),
        (("main", "L2Noisy"), ("denoisers-l2", "none")),
        (("main", "L2Noisy"), ("explicit", "implicit, L2")),
        (("main", "L2Den"), ("denoisers-l2", "BM3D")),
        (("main", "Ours"), ("flow-capacity", "Ours, 8 layers")),
        (("main", "Ours"), ("explicit", "implicit, with noise model")),
        (("main", "WBP"), ("denoisers-wbp", "none")),
        (("main", "L2Clean"), ("defocus", "L2Clean, no blur")),
        (("main", "tiltfield"), ("defocus", "tiltfield, no blur")),
        (("main", "tiltfield"), ("field-capacity", "tiltfield, 4 features a node (default)")),
    ],
)
def test_studies_share_what_is_the_same(one, other):
    assert name_of(*one) == name_of(*other)


def test_nothing_else_is_shared():
    """L2Clean and L2Noisy differ in their images, L2Blur and L2Clean in the blur, seeds in the cell."""
    names = {key_name(key_of(r, s, OPTIONS, seed)) for _, r in ROWS for s in r.variants for seed in (0, 1)}
    distinct = {
        (str(dict(s)), r.images, seed)
        for _, r in ROWS
        for s in ({"denoiser": "bm3d"} | dict(v) if "-den" in v.get("method", "") else v for v in r.variants)
        for seed in (0, 1)
    }
    assert len(names) == len(distinct)


def test_keys_tell_what_determines_a_result_and_no_more():
    def named(**changes):
        return key_name(key_of(TILTFIELD, {}, Options(**changes), 0))

    assert named() == named(seeds=5)
    assert named() == named(steps=7)  # those are for the paper's models
    assert len({named(), named(size=32), named(budget=100), named(device="cuda")}) == 4


def test_a_budget_is_for_the_papers_models_and_a_tenth_for_ours():
    options = Options(budget=100)
    limits = {m: options.limit(m) for m in ("ours", "explicit-l2", "neural", "wbp", "sirt", "wbp-den")}
    assert limits == {"ours": 100, "explicit-l2": 100, "neural": 10, "wbp": None, "sirt": None, "wbp-den": None}
    assert fit_settings({}, options, 3) == {"device": "cpu", "seed": 3, "max_time": 10}


def test_steps_stand_for_a_limit_on_time():
    options = settled(None, None, None, 400_000, "cpu", quick=False)
    settings = fit_settings({"method": "ours"}, options, 0)
    assert settings["steps"] == 400_000
    assert "max_time" not in settings
    assert settled(None, None, 60, 400_000, "cpu", quick=False).budget == 60


def test_quick_fills_in_what_is_not_given():
    assert settled(None, None, None, None, "cpu", quick=True) == Options(32, 1, 8.0)
    assert settled(16, 2, 1.0, None, "cpu", quick=True) == Options(16, 2, 1.0)
    assert settled(1000, None, None, None, "cpu", quick=False).size == 1000


@pytest.mark.parametrize("wrong", [{"size": 4}, {"size": 2000}, {"seeds": 0}, {"budget": 0}, {"steps": 0}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(InputError):
        Options(**wrong)


def test_an_unknown_study_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'defocus'"):
        studies_named("defocous")


def test_the_shipped_noise_is_the_papers_flow_and_says_where_it_is_from():
    noise = load_noise(noise_file())
    assert type(noise.model).__name__ == "PaperFlow"
    assert "NIST" in noise.about["origin"]
    assert all("/" not in source["path"] for source in noise.about["sources"])
    assert Path(cell(OPTIONS, 0).noise) == noise_file()
