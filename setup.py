"""What pyproject.toml cannot say: the compiled passes, the wheel's tag, links that an index can follow.

The passes are optional: where nothing can compile, the package is installed without them and uses torch's
operators.
"""

import re
import runpy
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

# THE OWNER FILLS THIS IN: the address, with its last slash, under which the files of this folder can be read.
# docs/convert.md is then at HOME + "docs/convert.md". Without it the metadata has no addresses.
HOME = ""

_HERE = Path(__file__).parent
_PASSES = Path("src/cosnorm/backends/c")
_REGION = "void part(void);\nvoid whole(void) {\n#pragma omp parallel\n    part();\n}\n"


class BuildPasses(build_ext):
    """A library for ctypes, not a module: it uses nothing of Python, so one file serves all versions."""

    def get_ext_filename(self, name: str) -> str:
        """The same name for every Python."""
        return str(Path(*name.split(".")).with_suffix(".so"))

    def build_extension(self, extension: Extension) -> None:
        """Settles what depends on the compiler and on how Python was built."""
        extension.extra_compile_args += self.openmp()
        # Folders of this machine's Python, which a library for any machine would name.
        self.compiler.linker_so = [part for part in self.compiler.linker_so if "-rpath" not in part]
        super().build_extension(extension)

    def openmp(self) -> list[str]:
        """Threads where the compiler calls the functions of GNU's OpenMP, which torch has loaded.

        Clang calls others, which are nowhere to be found: without them its passes run in one thread.
        """
        if sys.platform != "linux":
            return []
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "region.c")
            source.write_text(_REGION)
            try:
                (made,) = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=["-fopenmp"])
            except CompileError:
                return []
            if b"GOMP_parallel" in Path(made).read_bytes():
                return ["-fopenmp"]
        self.warn("this compiler's OpenMP is not torch's: the passes will run in one thread; CC=gcc mends it")
        return ["-fopenmp-simd"]


class TagWheel(bdist_wheel):
    """One wheel for every Python 3 of a platform."""

    def get_tag(self) -> tuple[str, str, str]:
        """The platform alone is of consequence."""
        return "py3", "none", super().get_tag()[2]


def for_index(text: str, home: str) -> str:
    """The README with links that work beside no other file: whole ones, or plain text without a home."""

    def mend(link: re.Match[str]) -> str:
        if link["label"] is None:  # a block of code
            return link[0]
        return f"[{link['label']}]({home}{link['path']})" if home else link["label"]

    return re.sub(
        r"(?s:^```.*?^```)|\[(?P<label>[^]]+)\]\((?!\w+:|#)(?P<path>[^)]+)\)", mend, text, flags=re.M
    )


def addresses(home: str) -> dict[str, str]:
    """The project's addresses in the metadata."""
    pages = {"Source": "", "Documentation": "README.md", "Changelog": "CHANGELOG.md"}
    return {name: home + page for name, page in pages.items()} if home else {}


if __name__ == "__main__":
    sources = runpy.run_path(str(_HERE / _PASSES / "sources.py"))
    setup(
        long_description=for_index((_HERE / "README.md").read_text("utf-8"), HOME),
        long_description_content_type="text/markdown",
        project_urls=addresses(HOME),
        cmdclass={"build_ext": BuildPasses, "bdist_wheel": TagWheel},
        ext_modules=[
            Extension(
                "cosnorm.backends.c._passes",
                [str(_PASSES / f"passes/{name}.c") for name in ("rows", "fields", "centered", "sparse")],
                depends=[
                    "setup.py",
                    *(str(_PASSES / f"passes/{name}.h") for name in ("common", "fields", "rows")),
                ],
                define_macros=[("COSNORM_SOURCES", str(sources["checksum"]()))],
                # OpenMP is not linked: its functions are found in the copy that torch has loaded. -g0, for
                # Python's own flags ask for what debuggers need: most of the file, and the names of folders.
                extra_compile_args=["-O3", "-g0", "-fno-math-errno"],
                optional=True,
            )
        ],
    )
