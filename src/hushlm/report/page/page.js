"use strict";
// Draws the charts of the page, moves them with the slider, and colours them light or dark. Names come in escaped.
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const themeButton = document.getElementById("theme");
  const charts = [...document.querySelectorAll(".chart")];

  // Light and dark: plotly draws with colours of its own, so they are taken from the style sheet.
  function colours() {
    const style = getComputedStyle(root);
    const of = (name) => style.getPropertyValue(name).trim();
    return { ink: of("--ink"), soft: of("--soft"), line: of("--line"), grid: of("--grid"), card: of("--card"), accent: of("--accent") };
  }

  function themed(key, layout) {
    const c = colours();
    const axis = { gridcolor: c.grid, linecolor: c.line, tickcolor: c.line, "title.font.color": c.soft, "title.font.size": 12 };
    const patch = {
      "font.color": c.ink, "font.family": getComputedStyle(document.body).fontFamily, "font.size": 12,
      "hoverlabel.bgcolor": c.card, "hoverlabel.bordercolor": c.line, "hoverlabel.font.color": c.ink,
    };
    for (const name of ["xaxis", "yaxis"]) for (const [property, value] of Object.entries(axis)) patch[`${name}.${property}`] = value;
    (layout.shapes || []).forEach((_, index) => { patch[`shapes[${index}].line.color`] = key.startsWith("layers-") && index === 0 ? c.accent : c.soft; });
    return patch;
  }

  function setTheme(name) {
    root.dataset.theme = name;
    themeButton.textContent = name === "dark" ? "Light" : "Dark";
    themeButton.setAttribute("aria-label", `Show the page ${name === "dark" ? "light" : "dark"}`);
    for (const chart of charts) if (chart.data) Plotly.relayout(chart, themed(chart.dataset.figure, chart.layout));
  }
  themeButton.addEventListener("click", () => setTheme(root.dataset.theme === "dark" ? "light" : "dark"));
  system.addEventListener("change", () => setTheme(system.matches ? "dark" : "light"));
  setTheme(system.matches ? "dark" : "light");

  // Buttons over a chart would cover the fields of a small heat map.
  const options = (key) => ({
    responsive: true, displaylogo: false, displayModeBar: key.includes("-") || key === "ranges" ? false : "hover",
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
  });
  const drawn = Promise.all(charts.map((chart) => {
    const figure = page.figures[chart.dataset.figure];
    return Plotly.newPlot(chart, figure.data, figure.layout, options(chart.dataset.figure)).then(() => Plotly.relayout(chart, themed(chart.dataset.figure, chart.layout)));
  }));

  // The slider: every run shows its last record at or before the step.
  const slider = document.getElementById("step");
  const shown = page.dynamics.map((run) => run.steps.length - 1);
  const element = (key) => document.getElementById(`chart-${key}`);

  function describe(run, index, at) {
    const box = document.getElementById(`verdicts-${index}`);
    const step = run.steps[at];
    box.querySelector(".step").textContent = step === null ? "" : `step ${step.toLocaleString("en")}`;
    [...box.querySelectorAll(".verdict")].forEach((badge, place) => {
      badge.textContent = run.verdicts[at][place === 0 ? "overload" : "collapse"];
      badge.classList.toggle("yes", badge.textContent.includes("yes"));
    });
  }

  function show(step) {
    let moved = false;
    page.dynamics.forEach((run, index) => {
      let at = run.steps.findLastIndex((recorded) => recorded === null || recorded <= step);
      if (at < 0) at = 0;
      if (at === shown[index]) return;
      shown[index] = at;
      moved = true;
      const shares = run.heads[at].map((row) => row.map((nats) => nats / run.attainable));
      Plotly.restyle(element(`heads-${index}`), { z: [run.heads[at]], customdata: [shares] }, [0]);
      const course = element(`layers-${index}`);
      if (course) Plotly.relayout(course, { "shapes[0].x0": run.steps[at], "shapes[0].x1": run.steps[at] });
      describe(run, index, at);
    });
    if (moved) Plotly.restyle(element("ranges"), { x: [0, 1, 2, 3].map((quarter) => page.dynamics.map((run, index) => 100 * run.ranges[shown[index]][quarter])) });
  }
  page.dynamics.forEach((run, index) => describe(run, index, shown[index]));

  if (slider) {
    const output = document.getElementById("step-shown");
    const play = document.getElementById("play");
    let waiting = false;
    let timer = null;
    const move = () => {
      const step = page.steps[slider.valueAsNumber];
      output.textContent = step.toLocaleString("en");
      slider.setAttribute("aria-valuetext", `step ${step}`);
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; show(page.steps[slider.valueAsNumber]); });
    };
    const stop = () => { clearInterval(timer); timer = null; play.textContent = "Play"; play.setAttribute("aria-pressed", "false"); };
    slider.addEventListener("input", () => { stop(); move(); });
    play.addEventListener("click", () => {
      if (timer !== null) { stop(); return; }
      if (slider.valueAsNumber === page.steps.length - 1) slider.value = 0;
      play.textContent = "Pause";
      play.setAttribute("aria-pressed", "true");
      move();
      const stride = Math.max(1, Math.round(page.steps.length / 100));
      timer = setInterval(() => {
        slider.value = slider.valueAsNumber + stride;
        move();
        if (slider.valueAsNumber === page.steps.length - 1) stop();
      }, 120);
    });
  }

  // The boxes of the first table hide and show runs.
  for (const box of document.querySelectorAll("[data-shows]")) {
    box.addEventListener("change", () => {
      const run = Number(box.dataset.shows);
      for (const card of document.querySelectorAll(`[data-run="${run}"]`)) {
        card.hidden = !box.checked;
        if (box.checked) for (const chart of card.querySelectorAll(".chart")) Plotly.Plots.resize(chart);
      }
      for (const chart of charts) {
        const traces = chart.data.flatMap((trace, place) => (trace.meta && trace.meta.run === run ? [place] : []));
        if (traces.length) Plotly.restyle(chart, { visible: box.checked }, traces);
      }
    });
  }
  drawn.then(() => { root.dataset.drawn = "yes"; });
})();
