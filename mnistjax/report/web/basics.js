// Data, texts, elements, plots and the address of the page, for the other scripts. make_data in
// mnistjax/report/dashboard.py makes the data. The runs may come from anyone: their texts enter the page as text only,
// and are never looked up in an object with a prototype.

let DATA, RUNS;
let decoded = {}; // curves by metric
const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#888888"]; // Okabe and Ito
const DASHES = ["solid", "dash", "dot"];
const MOST_GROUPS = COLORS.length * DASHES.length;
const state = { shown: [], selected: [] }; // runs in the table, and lists of runs, one for each selected row
const $ = (id) => document.getElementById(id);

function take(data) {
  DATA = data;
  RUNS = data.runs;
  for (const run of RUNS) for (const part of [run.values, run.config, run.metrics]) Object.setPrototypeOf(part, null);
  for (const one of data.configurations) for (const part of [one.metrics, one.letters]) Object.setPrototypeOf(part, null);
  decoded = {};
}

// Text and elements

const short = (key) => key.split(".").pop();
const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" }; // DataTables and Plotly take HTML
const safe = (value) => shown(value).replace(/[&<>"]/g, (c) => ENTITIES[c]);
const brief = (name) => (name.length > 48 ? `${name.slice(0, 30)} … ${name.slice(-15)}` : name);

const text = (value) => (Array.isArray(value) ? `[${value.join(", ")}]` : value === null ? "null" : String(value ?? ""));
const plainNumber = (value) => (Number.isInteger(value) ? value.toLocaleString("en") : Number(value.toPrecision(5)).toString());
const number = (value) => (Math.abs(value) < 1e12 ? plainNumber(value) : Number(value.toPrecision(5)).toExponential());
// Each identity once, done runs first, because a repeated run is no other seed.
function distinct(runs) {
  const lastCounts = [...runs].reverse().sort((a, b) => (RUNS[a].status === "done") - (RUNS[b].status === "done"));
  return [...new Map(lastCounts.map((run) => [RUNS[run].identity || run, run])).values()].sort((a, b) => a - b);
}
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const shown = (value) => (isNumber(value) ? number(value) : text(value));
const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const lowerIsBetter = (metric) => /loss|seconds/.test(metric);

function element(tag, content, attributes = {}) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...[content].flat());
  return made;
}

function fillTable(table, head, rows) {
  const line = (tag) => (cells) => element("tr", cells.map((cell) => element(tag, cell)));
  table.replaceChildren(element("thead", line("th")(head)), element("tbody", rows.map(line("td"))));
}

// The folder of a run, as a link to it if the page lies in a file.
function folderOf(run) {
  const href = DATA.links?.[run];
  return href ? element("a", RUNS[run].folder, { href, className: "folder" }) : RUNS[run].folder;
}

const nameOf = (values) => DATA.keys.filter((key) => key in values).map((key) => (key.endsWith(".name") ? "" : `${short(key)}=`) + text(values[key])).join(" ");
const configurationName = (one) => nameOf(RUNS[one.runs[0]].values) || "all runs";

// The address holds what was chosen, so that a view can be sent to someone: #at=curves&curve-metric=val/loss&search=adam

const address = Object.assign(Object.create(null), Object.fromEntries(new URLSearchParams(location.hash.slice(1))));
let writing = null;

function remember(key, value) {
  if (value === null || value === "") delete address[key];
  else address[key] = String(value);
  clearTimeout(writing);
  const words = () => new URLSearchParams(address).toString().replaceAll("%2F", "/").replaceAll("%2C", ",");
  writing = setTimeout(() => history.replaceState(null, "", words() ? `#${words()}` : location.pathname), 150);
}

// Fills a select with [value, label] pairs; what the address has, because a user chose it, stays chosen if it is there.
function choices(select, options, usual, changed) {
  const asked = address[select.id];
  const chosen = options.some(([value]) => value === asked) ? asked : usual;
  select.replaceChildren(...options.map(([value, label]) => new Option(label, value, value === chosen, value === chosen)));
  select.onchange = () => {
    remember(select.id, select.value === usual ? null : select.value);
    changed();
  };
}

const optionsOf = (select) => [...select.options].map((option) => [option.value, option.label]);

// Plots

function bytesOf(base64) {
  const words = atob(base64);
  const bytes = new Uint8Array(words.length);
  for (let i = 0; i < words.length; i++) bytes[i] = words.charCodeAt(i); // Uint8Array.from takes 10 times as long
  return bytes;
}

// Plotly's script is large: it is compressed in the page, so that the table need not wait. The policy has its hash.
async function loadPlotly() {
  const packed = new Blob([bytesOf($("plotly").textContent)]).stream();
  const script = await new Response(packed.pipeThrough(new DecompressionStream("gzip"))).text();
  document.head.append(element("script", script));
}

// The buttons are named one by one, because Plotly has one that uploads the plot; it has no address to send to, either.
const BUTTONS = [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "autoScale2d", "resetScale2d"]];
const OPTIONS = { responsive: true, displaylogo: false, modeBarButtons: BUTTONS, plotlyServerURL: "" };

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const narrow = () => innerWidth < 700;

// Draws a plot; `told` says in words what it shows, for those who don't see it.
function plot(id, traces, layout, told) {
  const line = { gridcolor: style("--line"), zerolinecolor: style("--line"), automargin: true };
  const base = {
    paper_bgcolor: style("--paper"),
    plot_bgcolor: style("--paper"),
    font: { color: style("--ink"), family: "system-ui, sans-serif", size: narrow() ? 11 : 13 },
    margin: { t: 30, r: 20, b: 45, l: 60 },
    hovermode: "closest",
  };
  const { xaxis, yaxis, ...rest } = layout;
  const uirevision = [...$(id).closest("section").querySelectorAll("select")].map((select) => select.value).join("\n"); // keeps zooms
  const full = { ...base, ...rest, xaxis: { ...line, uirevision, ...xaxis }, yaxis: { ...line, uirevision, ...yaxis } };
  describe($(id), told);
  return Plotly.react($(id), traces, full, OPTIONS);
}

function describe(box, told) {
  box.setAttribute("role", "figure");
  box.setAttribute("aria-label", told);
}
