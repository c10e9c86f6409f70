"""Runs and a browser that the tests of the page share: each is made once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from page_runs import hostile_run, ordinary_run

from halo_forge.pages.make import run_html


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an ordinary finished run; tests copy it before they change it."""
    return ordinary_run(tmp_path_factory.mktemp("ordinary"))


@pytest.fixture(scope="session")
def file(root: Path) -> Path:
    path = root.parent / "page.html"
    path.write_text(run_html(root), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def hostile_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_run(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("chromium is not installed (scripts/install_system_packages.sh)")
    with sync_api.sync_playwright() as playwright:
        # As root Chromium refuses its own sandbox.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        found = playwright.chromium.launch(executable_path=program, args=arguments)
        yield found
        found.close()


class Watched:
    """A page of the browser that remembers what must not happen."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.problems: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("dialog", self._dialog)
        page.on("popup", lambda popup: self.problems.append(f"window: {popup.url}"))
        page.on("download", lambda download: self.problems.append(f"download: {download.url}"))

    def _dialog(self, dialog: Any) -> None:
        self.problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open(self, address: str) -> Any:
        self.page.goto(address)
        self.page.locator("#count", has_text="prompts").wait_for()
        return self.page


@pytest.fixture
def watch(browser: Any) -> Iterator[Callable[..., Watched]]:
    """Opens a page of the browser: `watch(width=400, dark=True)`."""
    contexts = []

    def make(*, width: int = 1600, dark: bool = False) -> Watched:
        scheme = "dark" if dark else "light"
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        return Watched(contexts[-1].new_page())

    yield make
    for context in contexts:
        context.close()
