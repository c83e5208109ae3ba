"""What the site shows of files that stand outside of `docs`: the pictures in `results`."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = r"\]\(\.\./(results/[\w.-]+)\)"


def on_files(files: Files, config: Any) -> Files:
    """Add each picture that a page shows."""
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    for picture in sorted(set(re.findall(LINK, pages))):
        files.append(File.generated(config, picture, abs_src_path=str(ROOT / picture)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links to where the site has these pictures."""
    return re.sub(LINK, r"](\1)", markdown)
