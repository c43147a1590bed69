"""The public names: all there, imported only when used."""

import subprocess
import sys
import types

import pytest

import tiltfield as tf

HEAVY = ("torch", "scipy", "matplotlib", "h5py", "skimage")


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_there_are_about_twelve_names():
    assert 10 <= len(tf.__all__) <= 14


@pytest.mark.parametrize("name", tf.__all__)
def test_every_name_is_there(name):
    assert name in dir(tf)
    assert not isinstance(getattr(tf, name), types.ModuleType)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'reconstrct'"):
        _ = tf.reconstrct


@pytest.mark.parametrize("code", ["import tiltfield", "import tiltfield.cli", "import tiltfield as t; t.InputError"])
def test_importing_is_cheap(code):
    assert python(f"import sys; {code}; print([m for m in {HEAVY} if m in sys.modules])") == "[]"


@pytest.mark.parametrize("name", ["reconstruct", "simulate", "evaluate"])
def test_a_function_is_not_hidden_by_the_module_of_its_name(name):
    code = f"import tiltfield as t; import tiltfield.{name}; from tiltfield import {name} as f; t.{name}; "
    assert python(code + f"print(callable(t.{name}), t.{name} is f)") == "True True"
