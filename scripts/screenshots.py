"""Take the screenshots of README and docs/report.md from the page of a run.

    .venv/bin/python scripts/screenshots.py RUN

Needs chromium (scripts/install_system_packages.sh) and the development packages.  The pictures stay below 200 kB each.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from halo_forge.pages.make import run_html

FOLDER = Path(__file__).parents[1] / "docs" / "images"
MOST_BYTES = 200_000
WIDTH = 1180
"""CSS px of the window."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("run", type=Path, help="directory of a finished run, such as runs/quickstart")
    arguments.add_argument("--folder", type=Path, default=FOLDER, help="where the pictures go")
    given = arguments.parse_args()
    program = shutil.which("chromium")
    if program is None:
        sys.exit("error: chromium is not installed\n  fix: scripts/install_system_packages.sh as root")
    from playwright.sync_api import sync_playwright

    given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "page.html"
        file.write_text(run_html(given.run), encoding="utf-8")
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium has none for root
        browser = playwright.chromium.launch(executable_path=program, args=sandbox)
        take(browser, file, given.folder)
        browser.close()


def take(browser: Any, file: Path, folder: Path) -> None:
    """The three pictures: the head of the page, its rates, and samples of a prompt that was gained."""
    page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
    page.goto(file.as_uri())
    page.locator("#count", has_text="prompts").wait_for()
    _save(page, folder / "report-run.png", until="#result .tables")
    page.get_by_role("checkbox", name="gained").check()
    if page.locator(".prompt").count() == 0:
        page.get_by_role("checkbox", name="gained").uncheck()
    page.locator(".prompt summary").first.click()
    page.evaluate("document.querySelectorAll('.pair ~ .pair').forEach((each) => each.remove())")
    _save(page, folder / "report-samples.png", since="#samples", until=".prompt[open]")
    page.close()
    page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="dark")
    page.goto(file.as_uri())
    _save(page, folder / "report.png", since="#outcomes", until="#outcomes figure")
    page.close()


def _save(page: Any, path: Path, *, until: str, since: str = "body") -> None:
    """The part of the page from the top of one element to the end of another."""
    edges = "(each) => [each.getBoundingClientRect().top + scrollY, each.getBoundingClientRect().bottom + scrollY]"
    top, _ = page.locator(since).first.evaluate(edges)
    _, bottom = page.locator(until).first.evaluate(edges)
    clip = {"x": 0, "y": top, "width": WIDTH, "height": bottom + 6 - top}
    page.screenshot(path=path, full_page=True, clip=clip)
    size = path.stat().st_size
    print(f"{path}: {size / 1000:.0f} kB")
    if size > MOST_BYTES:
        sys.exit(f"error: {path} has {size} bytes, allowed: {MOST_BYTES}\n  fix: show less of the page")


if __name__ == "__main__":
    main()
