"""What the site does to pages: files from elsewhere in the repository become pages of it.

Pages link to each other, and to files of the repository, as they lie there, so that they can be
read without the site. On the site some of these files are pages; a link to any other becomes its
text. `mkdocs.yml` names this file.

A diagram of mermaid's is a picture there, drawn before (`mmdc` of mermaid-cli, without HTML in
labels), because the theme would load mermaid from a third party.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES = {
    "README.md": "index.md",
    "README_zh-CN.md": "zh/index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "bench/results/zoo.svg": "img/zoo.svg",
    "csrc/README.md": "kernels.md",
    "csrc/stream/STREAM.md": "stream-v1.md",
    "examples/README.md": "examples.md",
    "examples/loss_curve.svg": "img/loss_curve.svg",
    "fastinit/README.md": "rooms.md",
    "quality/REPORT.md": "quality.md",
}
"""What the site shows of the repository outside of docs/, and where."""

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
DIAGRAM = re.compile(r"^```mermaid\n.*?^```$", re.S | re.M)
FENCED = re.compile(r"(^ *```.*?^ *```$)", re.S | re.M)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that lie elsewhere."""
    for source, place in PAGES.items():
        if files.get_file_from_path(place) is None:
            files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to where the site has what they lead to."""
    place = page.file.src_uri
    lies = next((source for source, shown in PAGES.items() if shown == place), "")
    if not lies or (ROOT / "docs" / place).exists():
        lies = f"docs/{place}"

    def pointed(match: re.Match[str]) -> str:
        image, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        if "://" in target or not target:
            return match[0]
        found = posixpath.normpath(posixpath.join(posixpath.dirname(lies), target))
        shown = PAGES.get(found) or found.removeprefix("docs/")
        if shown == found:
            return text
        relative = posixpath.relpath(shown, posixpath.dirname(place) or ".")
        return f"{image}[{text}]({relative}{anchor})"

    picture = "![From rules and code to a plan, and from there to kernels](img/plan.svg)"
    markdown = DIAGRAM.sub(picture, markdown)
    parts = FENCED.split(markdown)
    return "".join(part if n % 2 else LINK.sub(pointed, part) for n, part in enumerate(parts))
