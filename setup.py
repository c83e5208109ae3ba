"""The compiled passes of `cosnorm.backends.c.library`; all else about the package stands in pyproject.toml.

Optional: where nothing can compile, the package is installed without them and uses torch's operators.
"""

import sys

from setuptools import Extension, setup

_LINUX = sys.platform == "linux"

setup(
    ext_modules=[
        Extension(
            "cosnorm.backends.c._passes",
            [f"src/cosnorm/backends/c/passes/{name}.c" for name in ("rows", "fields", "centered", "sparse")],
            depends=[f"src/cosnorm/backends/c/passes/{name}.h" for name in ("common", "fields", "rows")],
            # OpenMP is not linked: its functions are found in the copy that torch has loaded.
            extra_compile_args=["-O3", "-fno-math-errno", *(["-fopenmp"] if _LINUX else [])],
            optional=True,
        )
    ]
)
