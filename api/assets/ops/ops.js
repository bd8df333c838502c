// What the page does beyond reading: charts, pause, copy, and that what was open stays open. Without this file all of it can be read.
"use strict";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const hour = (time) => new Date(time * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });

function draw(root) {
  for (const chart of root.querySelectorAll(".chart[data-series]")) {
    const series = JSON.parse(chart.dataset.series);
    const stacked = [series[0], series[1].map((good, at) => good + series[2][at]), series[2].map((bad) => bad || null)];
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    const bars = uPlot.paths.bars({ size: [0.72, 24], radius: 0.2 });
    const told = (real) => (plot, value, place, at) => (at == null ? "–" : String(real[at]));
    chart.replaceChildren();
    new uPlot({
      width: chart.clientWidth, height: 184, padding: [12, 8, 0, 0],
      cursor: { y: false, points: { show: false } }, legend: { show: true, live: true },
      scales: { x: { time: true }, y: { range: (plot, low, high) => [0, Math.max(high, 4)] } },
      axes: [{ ...axis, grid: { show: false }, space: 70, size: 26, values: (plot, times) => times.map(hour) }, { ...axis, size: 44, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] }],
      series: [
        { value: (plot, time) => (time == null ? "–" : hour(time)), label: "minute" },
        { label: "completed", fill: colour("--good"), stroke: colour("--good"), paths: bars, points: { show: false }, value: told(series[1]) },
        { label: "failed", fill: colour("--bad"), stroke: colour("--bad"), paths: bars, points: { show: false }, value: told(series[2]) },
      ],
    }, stacked, chart);
  }
}

function reveal(root) {
  for (const button of root.querySelectorAll(".copy[data-copy]")) button.hidden = false;
  for (const button of root.querySelectorAll("#pause")) button.hidden = false;
}

let paused = false;
let opened = new Map();

document.addEventListener("DOMContentLoaded", () => {
  draw(document);
  reveal(document);
  // On a phone the list of pages is wider than the screen.
  document.querySelector("nav a[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
});

document.addEventListener("click", async (event) => {
  const copy = event.target.closest(".copy[data-copy]");
  if (copy) {
    await navigator.clipboard.writeText(copy.dataset.copy);
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  }
  const pause = event.target.closest("#pause");
  if (pause) {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    pause.querySelector(".label").textContent = paused ? "Paused" : "Live";
  }
  for (const open of document.querySelectorAll("details.confirm[open]")) {
    if (!open.contains(event.target)) open.open = false;
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const open of document.querySelectorAll("details.confirm[open]")) {
    open.open = false;
    open.querySelector("summary").focus();
  }
});

// Nobody reads a page that is not shown, and nobody wants it to move while marking text or aiming at a button.
const AIMED_AT = "#live details.confirm[open], #live :is(button, .button, summary):is(:hover, :focus-visible)";
const busy = () => paused || document.hidden || !document.getSelection().isCollapsed || document.querySelector(AIMED_AT);
document.addEventListener("htmx:beforeRequest", (event) => { if (busy()) event.preventDefault(); });

document.addEventListener("htmx:beforeSwap", () => {
  opened = new Map([...document.querySelectorAll("#live details[id]")].map((each) => [each.id, each.open]));
});
document.addEventListener("htmx:afterSwap", () => {
  const live = document.getElementById("live");
  for (const each of live.querySelectorAll("details[id]")) if (opened.has(each.id)) each.open = opened.get(each.id);
  draw(live);
  reveal(live);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => location.reload());
