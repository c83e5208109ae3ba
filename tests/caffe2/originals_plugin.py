"""A plugin of pytest for the original's own tests, in a process of their own: `test_caffe2_originals.py`.

Caffe2's names are those of cosnorm.caffe2; what is not there comes from the files of the original's folder.
The rest is what the tests want of an older Python and NumPy, and of the packages `future` and `past`.
"""

import importlib
import inspect
import os
import sys
from types import ModuleType
from unittest import TestCase

import numpy as np
import pytest

import cosnorm.caffe2

PACKAGES = {
    "future": {},
    "future.utils": {"viewitems": dict.items, "viewkeys": dict.keys, "viewvalues": dict.values},
    "past": {},
    "past.builtins": {"basestring": (str, bytes)},
}


def random_integers(low, high, size):
    return np.random.default_rng(0).integers(low, high + 1, size)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests():
    """Before the first of the original's files is imported: one of them is a conftest."""
    older = [(np, "object", object), (np, "bool", bool), (np.random, "random_integers", random_integers)]
    older += [(TestCase, "assertEquals", TestCase.assertEqual)]
    older += [(inspect, "getargspec", lambda function: inspect.getfullargspec(function)[:4])]
    for owner, name, value in older:
        if not hasattr(owner, name):
            setattr(owner, name, value)
    for name, content in PACKAGES.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(content)
    cosnorm.caffe2.install()
    importlib.import_module("caffe2.python").__path__.append(os.environ["COSNORM_CAFFE2_ORIGINAL"])
