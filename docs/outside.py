"""What the site shows of files that stand outside of `docs`: LOG.md, and the pictures in `results`."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# A link of a page as it stands in the repository, and as it stands in the site.
MOVED = ((r"\]\(\.\./results/", "](results/"), (r"\]\(\.\./LOG\.md", "](log.md"))


def on_files(files: Files, config: Any) -> Files:
    """Add LOG.md, and each picture that a page shows."""
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    pictures = sorted(set(re.findall(r"\]\(\.\./(results/[\w.-]+)\)", pages)))
    for name, source in (("log.md", "LOG.md"), *((one, one) for one in pictures)):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links to where the site has these files."""
    for pattern, place in MOVED:
        markdown = re.sub(pattern, place, markdown)
    return markdown
