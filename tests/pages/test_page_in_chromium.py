"""The page in a real browser: it draws, filters, fits, can be read and heard, and nothing that a model wrote runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_runs import ATTACKS

from halo_forge.core.wording import visible
from halo_forge.pages.make import run_html

Watch = Callable[..., Any]

CONTRAST = """() => {
  const channel = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const parsed = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = parsed(getComputedStyle(each).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const low = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || ["SCRIPT", "STYLE", "NOSCRIPT", "OPTION"].includes(element.tagName)) continue;
    if (!element.checkVisibility() || element.closest("#tip, .skip, .hidden")) continue;
    const style = getComputedStyle(element);
    const ink = parsed(element.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${node.data.trim().slice(0, 40)} ${ratio.toFixed(2)}`);
  }
  return low;
}"""
SMALLEST = """() => Math.min(...[...document.querySelectorAll("svg text")].filter((each) => each.textContent.trim())
  .map((each) => parseFloat(getComputedStyle(each).fontSize) * Math.hypot(each.getCTM().a, each.getCTM().b)))"""


def open_all(page: Any) -> None:
    """Open every prompt, and what is folded inside."""
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.wait_for_function("[...document.querySelectorAll('.prompt .inside')].every((each) => each.hasChildNodes())")
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_it_draws_without_errors_fits_and_can_be_read(file: Path, watch: Watch, width: int, dark: bool) -> None:
    watched = watch(width=width, dark=dark)
    page = watched.open(file.as_uri())
    titles = page.locator("figure h3").all_text_contents()
    assert {"Rates on dev", "Outcomes on dev", "Loss", "Gradient norm", "Learning rate", "Entropy", "Time"} <= set(
        titles
    )
    for figure in page.locator("figure").all():
        box = figure.locator("svg").bounding_box()
        assert box["width"] > 200 and box["height"] > 100
        assert figure.locator("svg path, svg rect").count() > 1
    open_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(SMALLEST) >= 9.5  # CSS px
    assert page.evaluate(CONTRAST) == []
    assert watched.problems == []
    assert watched.requests == [file.as_uri()]


def test_a_chart_says_its_values_on_hover(file: Path, watch: Watch) -> None:
    page = watch().open(file.as_uri())
    mark = page.locator("figure", has=page.get_by_role("heading", name="Rates on dev")).locator("[data-tip]").first
    assert page.locator("#tip").is_hidden()
    mark.hover()
    assert page.locator("#tip").inner_text().startswith("v0: compile")
    page.mouse.move(1, 1)
    assert page.locator("#tip").is_hidden()


def test_filters_and_search_show_what_fits_and_say_how_much(file: Path, watch: Watch) -> None:
    page = watch().open(file.as_uri())
    shown = page.locator("#prompts .prompt:visible .id")

    def count() -> str:
        return str(page.locator("#count").inner_text())

    assert count() == "6 of 14 prompts"
    page.get_by_role("checkbox", name="gained").check()
    assert set(shown.all_text_contents()) == {f"dev{number}" for number in range(1, 7)}
    page.get_by_role("checkbox", name="lost").check()
    assert shown.count() == 6, "gained or lost: no prompt is both"
    page.get_by_role("checkbox", name="gained").uncheck()
    assert shown.count() == 0 and count() == "0 of 14 prompts"
    page.get_by_role("checkbox", name="lost").uncheck()
    page.get_by_role("checkbox", name="gained").check()
    page.locator("#difficulty").select_option("hard")
    assert set(shown.all_text_contents()) == {"dev2", "dev5"}
    page.locator("#family").select_option("sorting")
    assert shown.count() == 0
    page.locator("#family").select_option("")
    page.locator("#difficulty").select_option("")
    page.get_by_role("checkbox", name="gained").uncheck()
    page.locator("#set").select_option("train")
    page.get_by_role("checkbox", name="flaky").check()
    flaky = shown.all_text_contents()
    assert flaky and all(each.startswith("train") for each in flaky)
    page.get_by_role("checkbox", name="flaky").uncheck()
    page.get_by_role("searchbox").fill("// FOR train3")
    assert shown.all_text_contents() == ["train3"]
    page.get_by_role("searchbox").fill("nowhere at all")
    assert shown.count() == 0


def test_a_prompt_opens_with_both_versions_side_by_side(file: Path, watch: Watch) -> None:
    page = watch().open(file.as_uri())
    prompt = page.locator(".prompt").first
    prompt.locator("summary").first.click()
    left, right = prompt.locator(".pair").first.locator(".sample").all()
    assert left.locator("h3").inner_text().startswith("v0, sample 0: ")
    assert right.locator("h3").inner_text() == "v1, sample 0: passes"
    assert left.bounding_box()["x"] + left.bounding_box()["width"] <= right.bounding_box()["x"]
    assert "#include <stdio.h>" in right.locator("pre").first.inner_text()
    assert right.locator("pre .keyword").first.inner_text() == "int"
    assert "expected '42'" in left.inner_text()


def test_a_screen_reader_finds_headings_tables_and_controls_by_name(file: Path, watch: Watch) -> None:
    page = watch().open(file.as_uri())
    open_all(page)
    levels = [int(each[1]) for each in page.locator("h1, h2, h3, h4").evaluate_all("all => all.map(e => e.tagName)")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    assert page.locator("[tabindex='0']:not([aria-label])").count() == 0
    for role, number in (("banner", 1), ("main", 1), ("contentinfo", 1), ("navigation", 1), ("search", 1)):
        assert page.get_by_role(role).count() == number
    for role in ("img", "table", "region", "combobox", "searchbox", "checkbox", "link", "button"):
        names = page.get_by_role(role).evaluate_all(
            "all => all.map(e => e.ariaLabel || e.innerText || e.labels?.[0]?.innerText || '')"
        )
        assert all(name.strip() for name in names), role
    assert page.get_by_role("img").count() == page.locator("figure").count() > 10
    for table in page.get_by_role("table").all():
        assert table.locator("caption").count() == 1
        assert table.get_by_role("columnheader").count() == table.locator("thead th").count() > 1
    snapshot = page.locator("body").aria_snapshot()
    for said in ('heading "Outcomes" [level=2]', 'img "Chart: Rates on dev.', 'combobox "Set', 'checkbox "gained"'):
        assert said in snapshot


def test_nothing_that_a_model_wrote_runs(hostile_root: Path, watch: Watch, tmp_path: Path) -> None:
    file = tmp_path / "hostile.html"
    file.write_text(run_html(hostile_root), encoding="utf-8")
    assert file.stat().st_size < 5_000_000
    assert [each for each in file.read_text("utf-8") if visible(each) != each] == []
    watched = watch()
    page = watched.page
    page.add_init_script("window.before = Object.keys(window).length")
    watched.open(file.as_uri())
    tags = page.evaluate("[...new Set([...document.querySelectorAll('*')].map((each) => each.tagName.toLowerCase()))]")
    for set_name in ("dev", "train"):
        page.locator("#set").select_option(set_name)
        open_all(page)
        ids = page.locator(".prompt .id").all_text_contents()
        assert len(ids) == len(ATTACKS)
        for attack in ATTACKS:
            assert any(visible(attack) in each for each in ids), attack
            assert page.locator("#prompts").evaluate(
                "(box, text) => [...box.querySelectorAll('pre')].some((each) => each.textContent.includes(text))",
                visible(attack),
            )
    page.get_by_role("searchbox").fill(ATTACKS[0])
    for mark in page.locator("[data-tip]").all()[:5]:
        mark.hover()
    page.mouse.move(300, 300)
    page.keyboard.press("Tab")
    page.wait_for_timeout(300)
    assert page.evaluate("window.pwned") is None
    assert page.evaluate("Object.keys(window).length - window.before") == 1  # `before` itself
    assert not {"img", "iframe", "form", "link", "base", "object", "embed", "animate"} & set(tags)
    assert page.locator("script").count() == 2  # the samples as data, and the page's own
    assert page.locator("meta[http-equiv=refresh]").count() == 0
    named = "[...each.attributes].some((one) => /^on|^style$/i.test(one.name))"
    elements = "[...document.querySelectorAll('*:not(#tip)')]"  # the page's own script places the tip
    assert page.evaluate(f"{elements}.filter((each) => {named}).length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 1600
    page.set_viewport_size({"width": 400, "height": 900})
    page.get_by_role("searchbox").fill("")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert watched.problems == []
    assert watched.requests == [file.as_uri()]
    assert page.url == file.as_uri()


def test_the_policy_stops_what_slips_through(file: Path, watch: Watch, tmp_path: Path) -> None:
    """Were the escaping broken, the content security policy would still stop scripts, handlers and requests."""
    broken = tmp_path / "broken.html"
    broken.write_text(file.read_text("utf-8").replace("<main", f"{''.join(ATTACKS[:9])}<main"), encoding="utf-8")
    watched = watch()
    watched.page.goto(broken.as_uri())
    watched.page.wait_for_timeout(300)
    assert watched.page.evaluate("window.pwned") is None
    assert any("Content Security Policy" in each for each in watched.problems)
    assert not [each for each in watched.problems if each.startswith("dialog")]
