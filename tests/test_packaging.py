"""What a user gets: the files, the guides and the links between them. Cheap checks only."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import ldmsjob

REPOSITORY = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(#[^)\s]*)?\)")
REST_LINK = re.compile(r"`[^`<]*<([^>]*)>`_")
PAGE = re.compile(r"docs/([a-z-]+\.md)(?:, ([A-Z][A-Za-z' -]*[a-z]))?")


def anchors(page: Path) -> set[str]:
    """The anchors that a Markdown page's headings make."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.M)
    return {
        re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings
    }


def sources() -> Iterator[Path]:
    """The Python files of the package, the tests, the examples and the benchmarks."""
    for directory in ("ldmsjob", "tests", "examples", "bench", "twisted"):
        yield from sorted((REPOSITORY / directory).rglob("*.py"))


class PackageTests(SynchronousTestCase):
    """What gets installed."""

    def test_drop_in_directories_have_no_init(self) -> None:
        """Twisted joins such directories only if they are no packages of their own."""
        wrong = [
            *REPOSITORY.glob("twisted/**/__init__.py"),
            *REPOSITORY.glob("examples/*/ldmsjob/**/__init__.py"),
        ]
        self.assertEqual(wrong, [])

    def test_every_directory_of_modules_is_a_package(self) -> None:
        """``find_packages`` leaves out directories without ``__init__.py``, without a word."""
        package = REPOSITORY / "ldmsjob"
        wrong = {
            path.parent
            for path in package.rglob("*.py")
            if not (path.parent / "__init__.py").exists()
        }
        self.assertEqual(wrong, set())

    def test_types_and_recordings_are_there(self) -> None:
        """The package says that it is typed, and has what the demo replays."""
        package = Path(ldmsjob.__file__).parent
        self.assertTrue((package / "py.typed").exists())
        self.assertTrue((package / "recordings" / "slurm-messages.jsonl").exists())

    def test_metadata_has_one_home(self) -> None:
        """pyproject.toml names the build system and settings of tools, setup.py the rest."""
        tables = re.findall(r"^\[+([^\]]+)\]+$", (REPOSITORY / "pyproject.toml").read_text(), re.M)
        wrong = [
            table for table in tables if table != "build-system" and not table.startswith("tool.")
        ]
        self.assertEqual(wrong, [])

    def test_ci_can_be_run(self) -> None:
        """It is a command, not a text to be given to a shell."""
        self.assertTrue(os.access(REPOSITORY / ".ci" / "run", os.X_OK))

    def test_sources_need_no_newer_python(self) -> None:
        """Everything parses as Python 3.10, the oldest that is supported."""
        for path in sources():
            ast.parse(path.read_text("utf-8"), str(path), feature_version=(3, 10))


class GuideTests(SynchronousTestCase):
    """Links lead somewhere."""

    def test_links_of_pages(self) -> None:
        """Every link of a page in docs/ to a file or a heading has its target."""
        wrong = []
        for page in sorted((REPOSITORY / "docs").glob("*.md")):
            for target, anchor in LINK.findall(page.read_text("utf-8")):
                if target.startswith(("http://", "https://")):
                    continue
                file = page.parent / target if target else page
                if not file.exists() or (anchor and anchor[1:] not in anchors(file)):
                    wrong.append(f"{page.name}: {target}{anchor}")
        self.assertEqual(wrong, [])

    def test_links_of_the_front_pages(self) -> None:
        """The same for README and CONTRIBUTING."""
        wrong = [
            f"{name}: {target}"
            for name in ("README.rst", "CONTRIBUTING.rst")
            for target in REST_LINK.findall((REPOSITORY / name).read_text("utf-8"))
            if not target.startswith("https://") and not (REPOSITORY / target).exists()
        ]
        self.assertEqual(wrong, [])

    def test_every_page_is_in_the_index(self) -> None:
        """docs/index.md names all the others."""
        docs = REPOSITORY / "docs"
        named = {target for target, _ in LINK.findall((docs / "index.md").read_text("utf-8"))}
        pages = {page.name for page in docs.glob("*.md")} - {"index.md"}
        self.assertEqual(pages - named, set())

    def test_tests_that_pages_name(self) -> None:
        """Where docs/differences.md says which test holds a difference, there is such a test."""
        text = (REPOSITORY / "docs" / "differences.md").read_text("utf-8")
        wrong = []
        for module, test in re.findall(r"`(test_\w+): (test_\w+)`", text):
            path = REPOSITORY / "tests" / f"{module}.py"
            if not path.exists() or f"def {test}(" not in path.read_text("utf-8"):
                wrong.append(f"{module}: {test}")
        self.assertEqual(wrong, [])

    def test_pages_that_sources_name(self) -> None:
        """Where a docstring says "docs/wire.md, Frames" there is such a page and heading."""
        wrong = []
        for path in sources():
            for page_name, heading in PAGE.findall(path.read_text("utf-8")):
                page = REPOSITORY / "docs" / page_name
                if path.name == "test_packaging.py":
                    continue
                if not page.exists():
                    wrong.append(f"{path.name}: docs/{page_name}")
                elif heading:
                    known = anchors(page)
                    wanted = heading.lower().replace(" ", "-")
                    if not any(anchor == wanted or wanted.startswith(anchor) for anchor in known):
                        wrong.append(f"{path.name}: docs/{page_name}, {heading}")
        self.assertEqual(wrong, [])
