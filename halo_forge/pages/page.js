"use strict";
// Shows the samples, filters them, shows a chart's values on hover, and reloads a served page when there is news.
// Text is only ever set as text: nothing here parses HTML.
(() => {
  const byId = (id) => document.getElementById(id);
  const PAGE = 40;
  const KEPT = "halo-forge filters"; // of a served page, until it has reloaded itself
  const REACHED = ["passes", "runs", "compiles", "does not compile", "no program", "not judged"];

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  // --- charts -------------------------------------------------------------------------------------------------------
  const tip = byId("tip");
  document.addEventListener("pointermove", (event) => {
    const mark = event.target.closest ? event.target.closest("[data-tip]") : null;
    tip.hidden = mark === null;
    if (mark === null) return;
    tip.textContent = mark.getAttribute("data-tip");
    const { width, height } = tip.getBoundingClientRect();
    const left = Math.min(event.clientX + 14, document.documentElement.clientWidth - width - 8);
    const top = event.clientY - height - 12;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${top < 4 ? event.clientY + 18 : top}px`;
  });

  // --- samples ------------------------------------------------------------------------------------------------------
  async function decoded(base64) {
    const bytes = Uint8Array.from(atob(base64.trim()), (each) => each.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }

  function code(sample, kinds, label) {
    const shown = element("pre");
    shown.tabIndex = 0;
    shown.setAttribute("aria-label", label);
    for (let at = 0; at < sample.pieces.length; at += 2) {
      const kind = kinds[sample.pieces[at]];
      shown.append(kind ? element("span", sample.pieces[at + 1], kind) : sample.pieces[at + 1]);
    }
    return shown;
  }

  function facts(sample) {
    const list = element("dl");
    const add = (name, value) => value && list.append(element("dt", name), element("dd", value));
    add("reward", sample.reward === undefined ? "" : String(sample.reward));
    add("tests", sample.tests && `${sample.tests[1] - sample.tests[0]} of ${sample.tests[1]} failed`);
    add("status", ["passed", "failed"].includes(sample.status) ? "" : sample.status);
    add("flags", (sample.flags || []).join(", "));
    add("ended", sample.cut ? "cut off by the length limit" : "");
    add("selection", sample.selection);
    add("second run", sample.second);
    return list;
  }

  function sampleOf(sample, version, kinds) {
    if (sample === undefined) return element("div", `${version} has no further sample here.`, "sample quiet");
    const title = `${version}, sample ${sample.index}: `;
    const box = element("div", undefined, "sample");
    const head = element("h3", title);
    head.append(element("span", sample.reached, sample.reached === "passes" ? "reached-passes" : ""));
    box.append(head, facts(sample), code(sample, kinds, `Completion of ${title}${sample.reached}`));
    if (sample.diagnostics) {
      const more = element("details");
      const text = element("pre", sample.diagnostics);
      text.tabIndex = 0;
      text.setAttribute("aria-label", `Diagnostics of ${title}`.slice(0, -2));
      more.append(element("summary", "Diagnostics"), text);
      more.open = sample.diagnostics.length < 600;
      box.append(more);
    }
    return box;
  }

  function fill(inside, prompt, data) {
    if (prompt.text) inside.append(element("pre", prompt.text));
    const [start, other] = prompt.samples;
    for (let at = 0; at < Math.max(start.length, other.length); at += 1) {
      const pair = element("div", undefined, "pair");
      [start[at], other[at]].forEach((each, side) => {
        if (data.versions[side]) pair.append(sampleOf(each, data.versions[side], data.kinds));
      });
      inside.append(pair);
    }
  }

  function promptOf(prompt, data) {
    const box = element("details", undefined, "prompt");
    const head = element("summary");
    head.append(element("span", prompt.id, "id"));
    const passes = prompt.passes
      .map(([passed, judged], side) => (judged ? `${data.versions[side]} ${passed} of ${judged}` : ""))
      .filter(Boolean).join(", ");
    const quiet = [prompt.set, prompt.family, prompt.difficulty, passes && `passes: ${passes}`];
    head.append(element("span", quiet.filter(Boolean).join(" · "), "quiet"));
    const marks = [...(prompt.change && prompt.change !== "same" ? [prompt.change] : []), ...prompt.marks];
    for (const mark of marks) head.append(element("span", mark, `badge ${mark.replace(" ", "-")}`));
    const inside = element("div", undefined, "inside");
    box.append(head, inside);
    box.addEventListener("toggle", () => box.open && !inside.hasChildNodes() && fill(inside, prompt, data));
    return box;
  }

  function words(prompt) {
    const parts = [prompt.id, prompt.text];
    for (const sample of prompt.samples.flat()) {
      parts.push(sample.pieces.filter((_, at) => at % 2 === 1).join(""), sample.diagnostics || "", ...(sample.flags || []));
    }
    return parts.join("\n").toLowerCase();
  }

  function options(select, all, values) {
    select.append(new Option(all, ""), ...values.map((each) => new Option(each, each)));
    select.parentElement.hidden = values.length < 2;
  }

  function distinct(prompts, key) {
    return [...new Set(prompts.map((each) => each[key]))].filter(Boolean).sort();
  }

  const filters = () => [...document.querySelectorAll("#filters select, #filters input")];

  function keepFilters() {
    const values = filters().map((each) => (each.type === "checkbox" ? each.checked : each.value));
    sessionStorage.setItem(KEPT, JSON.stringify(values));
  }

  function bringBackFilters() {
    if (document.body.dataset.state === undefined) return; // only a served page reloads itself
    const values = JSON.parse(sessionStorage.getItem(KEPT) || "[]");
    sessionStorage.removeItem(KEPT);
    if (values.length !== filters().length) return;
    filters().forEach((each, at) => {
      if (each.type === "checkbox") each.checked = values[at];
      else if (each.type === "search" || [...each.options].some((option) => option.value === values[at])) {
        each.value = values[at];
      }
    });
  }

  function start(data) {
    const prompts = data.prompts.slice(1);
    let shown = PAGE;
    const sets = [...new Set(prompts.map((each) => each.set))];
    options(byId("set"), "all", sets);
    if (sets.length) byId("set").value = sets[0];
    options(byId("family"), "all", distinct(prompts, "family"));
    options(byId("difficulty"), "all", distinct(prompts, "difficulty"));
    options(byId("reached"), "anything", REACHED);
    byId("reached").previousSibling.textContent = `Reached by ${data.versions[1]} `;
    const boxes = [...document.querySelectorAll("#filters input[type=checkbox]")];
    const found = new Map();
    bringBackFilters();

    function fits(prompt) {
      const value = (id) => byId(id).value;
      const wanted = boxes.filter((box) => box.checked).map((box) => box.value);
      const changes = wanted.filter((each) => each === "gained" || each === "lost"); // no prompt is both
      const search = value("search").toLowerCase();
      if (search && !found.has(prompt)) found.set(prompt, words(prompt));
      return (
        ["set", "family", "difficulty"].every((key) => !value(key) || prompt[key] === value(key)) &&
        (!value("reached") || prompt.samples[1].some((each) => each.reached === value("reached"))) &&
        (changes.length === 0 || changes.includes(prompt.change)) &&
        wanted.every((each) => changes.includes(each) || prompt.marks.includes(each)) &&
        (!search || found.get(prompt).includes(search))
      );
    }

    function show() {
      const fitting = prompts.filter(fits);
      byId("prompts").replaceChildren(...fitting.slice(0, shown).map((each) => promptOf(each, data)));
      byId("count").textContent = `${fitting.length} of ${prompts.length} prompts`;
      byId("more").hidden = fitting.length <= shown;
      byId("more").textContent = `Show more (${Math.max(0, fitting.length - shown)} left)`;
    }

    byId("filters").hidden = false;
    byId("filters").addEventListener("input", () => { shown = PAGE; show(); });
    byId("more").addEventListener("click", () => { shown += PAGE; show(); });
    show();
  }

  if (byId("payload")) {
    decoded(byId("payload").textContent).then(start).catch((error) => {
      byId("count").textContent = `The samples cannot be shown: ${error.message}`;
    });
  }

  // --- a run that goes on -------------------------------------------------------------------------------------------
  const state = document.body.dataset.state;
  if (state !== undefined) {
    const look = async () => {
      try {
        const answer = await fetch("state", { cache: "no-store" });
        const news = (await answer.json()).state;
        byId("live").textContent = "· live";
        if (news !== state && document.querySelector("details.prompt[open]") === null) {
          keepFilters();
          location.reload();
        } else if (news !== state) byId("live").textContent = "· new results: close the open samples, or reload";
      } catch {
        byId("live").textContent = "· no longer served";
      }
    };
    setInterval(look, 2000);
    look();
  }
})();
