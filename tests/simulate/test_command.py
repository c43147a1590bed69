"""`tiltfield simulate`: every setting by its flag, and the record it leaves."""

import mrcfile
import pytest
import yaml

from tiltfield.cli import main
from tiltfield.config import SimulateConfig

WORDS = (
    "--size 24 --cell paper --tilts -60:60:20 --mode haadf --defocus linear --defocus-pixels 1.5 --snr 2 "
    "--noise gaussian --scan-correlation 0.5 --scan-axis y --clip --quantise 8 --pixel-size-nm 2 --seed 3"
)


def call(*words):
    with pytest.raises(SystemExit) as stopped:
        main([str(w) for w in words])
    return stopped.value.code


def test_the_record_makes_the_same_again(tmp_path, capsys):
    assert call("simulate", "--out", tmp_path / "a", *WORDS.split()) == 0
    shown = capsys.readouterr().err
    assert all(f"{stage} 100%" in shown for stage in ("project", "defocus", "noise"))
    meta = yaml.safe_load((tmp_path / "a" / "meta.yaml").read_text())
    settings = SimulateConfig(**meta["settings"])
    assert (settings.cell, settings.defocus, settings.quantise, settings.scan_axis) == ("paper", "linear", 8, "y")
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(meta["settings"]))
    assert call("simulate", "--out", tmp_path / "b", "--config", tmp_path / "again.yaml", "--quiet") == 0
    assert capsys.readouterr().err == ""
    for path in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / path.name).read_bytes() == path.read_bytes()


def test_settings_that_do_not_go_together_are_one_line(tmp_path, capsys):
    (tmp_path / "noise.json").write_text("{}")
    assert call("simulate", "--out", tmp_path / "a", "--noise", tmp_path / "noise.json", "--snr", 2) == 2
    assert capsys.readouterr().err.splitlines() == [
        "tiltfield: settings: a noise file says how strong the noise is: leave out snr, or name a noise law"
    ]
    assert call("simulate", "--out", tmp_path / "a", "--quantise", 12) == 2
    assert "--quantise: expected 8 or 16 bits, got '12'" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--noise none --snr 2", "no noise to be strong"),
        ("--noise none --scan-correlation 0.5", "no noise to be strong or correlated"),
        ("--scan-axis y", "no scan_axis"),
        ("--defocus-pixels 3", "no blur for defocus_pixels"),
        ("--cell paper --resolution-a 20", "no resolution_a"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(tmp_path, capsys, words, reason):
    assert call("simulate", "--out", tmp_path / "a", *words.split()) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_flags_go_over_a_file_and_need_not_fit_alone(tmp_path):
    (tmp_path / "cell.yaml").write_text("size: 16\ntilts: '-20:20:20'\nscan_correlation: 0.5\ndefocus: linear\n")
    words = ("--config", tmp_path / "cell.yaml", "--scan-axis", "y", "--defocus-pixels", 3, "--quiet")
    assert call("simulate", "--out", tmp_path / "a", *words) == 0
    meta = yaml.safe_load((tmp_path / "a" / "meta.yaml").read_text())
    assert (meta["noise_correlation"]["axis"], meta["defocus"]["scale_at_steepest_edge_pixels"]) == ("y", 3.0)


def test_a_virion_that_does_not_fit_names_the_pixel_size(tmp_path, capsys, shared_data):
    pytest.importorskip("gemmi", reason="needs the package gemmi (extra: structure)")
    words = ("--cell", "paper", "--virion", shared_data("zikv/5ire.pdb.gz"), "--size", 96)
    assert call("simulate", "--out", tmp_path / "a", *words) == 2
    assert "--pixel-size-nm 2.5" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_voxel_sizes_reach_the_files(tmp_path):
    assert (
        call("simulate", "--out", tmp_path, "--size", 16, "--tilts", "-20:20:20", "--pixel-size-nm", 2, "--quiet") == 0
    )
    for name in ("truth", "inside", "clean", "noisy"):
        with mrcfile.open(tmp_path / f"{name}.mrc") as mrc:
            assert float(mrc.voxel_size.x) == float(mrc.voxel_size.y) == 20.0
            assert mrc.is_volume() == (name in ("truth", "inside"))
