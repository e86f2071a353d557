// The dashboard of runs. make_data in mnistjax/report/dashboard.py makes DATA. DataTable is loaded before this script,
// Plotly after the table is drawn. The runs may come from anyone: their texts enter the page as text only, and are
// never looked up in an object with a prototype.

const DATA = JSON.parse(document.getElementById("data").textContent);
const RUNS = DATA.runs;
for (const run of RUNS) for (const part of [run.values, run.config, run.metrics]) Object.setPrototypeOf(part, null);
const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#888888"]; // Okabe and Ito
const DASHES = ["solid", "dash", "dot"];
const STYLED = ["done", "stopped", "failed", "diverged"]; // statuses with a colour
const MOST_GROUPS = COLORS.length * DASHES.length;
const state = { shown: RUNS.map((_, i) => i), selected: [] };
const $ = (id) => document.getElementById(id);

// Text and elements

const short = (key) => key.split(".").pop();
const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;" }; // DataTables and Plotly take HTML
const safe = (value) => shown(value).replace(/[&<>]/g, (c) => ENTITIES[c]);
const brief = (name) => (name.length > 48 ? `${name.slice(0, 30)} … ${name.slice(-15)}` : name);

const text = (value) => (Array.isArray(value) ? `[${value.join(", ")}]` : value === null ? "null" : String(value ?? ""));
const number = (value) => (Number.isInteger(value) ? value.toLocaleString("en") : Number(value.toPrecision(5)).toString());
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const shown = (value) => (isNumber(value) ? number(value) : text(value));

function element(tag, content, attributes = {}) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...[content].flat());
  return made;
}

function fillTable(table, head, rows) {
  const line = (tag) => (cells) => element("tr", cells.map((cell) => element(tag, cell)));
  table.replaceChildren(element("thead", line("th")(head)), element("tbody", rows.map(line("td"))));
}

function choices(select, options, chosen, changed) {
  select.replaceChildren(...options.map(([value, label]) => new Option(label, value, value === chosen, value === chosen)));
  select.onchange = changed;
}

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

function plot(id, traces, layout) {
  const line = { gridcolor: style("--line"), zerolinecolor: style("--line"), automargin: true };
  const base = {
    paper_bgcolor: style("--paper"),
    plot_bgcolor: style("--paper"),
    font: { color: style("--ink"), family: "system-ui, sans-serif", size: 13 },
    margin: { t: 30, r: 20, b: 45, l: 60 },
    hovermode: "closest",
  };
  const { xaxis, yaxis, ...rest } = layout;
  const full = { ...base, ...rest, xaxis: { ...line, ...xaxis }, yaxis: { ...line, ...yaxis } };
  return Plotly.react($(id), traces, full, OPTIONS);
}

// Curves: one array for each metric, with the rows of all runs, run after run

const decoded = {};

function rowsOf(metric, run) {
  if (!decoded[metric]) {
    decoded[metric] = new Float32Array(bytesOf(DATA.curves[metric]).buffer);
  }
  return decoded[metric].subarray(DATA.starts[run], DATA.starts[run] + RUNS[run].epochs);
}

const groupName = (run, key) => {
  if (key === "(run)") return RUNS[run].name;
  const keys = key === "(all but seed)" ? DATA.keys : [key];
  const label = (k) => (key === k || k.endsWith(".name") ? "" : `${short(k)}=`);
  const known = keys.filter((k) => k in RUNS[run].values);
  return known.map((k) => label(k) + text(RUNS[run].values[k])).join(" ") || "all runs";
};

function groupsOf(runs, key) {
  const groups = new Map();
  for (const run of runs) {
    const name = groupName(run, key);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(run);
  }
  return groups;
}

function summary(metric, runs) {
  const length = Math.max(...runs.map((run) => RUNS[run].epochs));
  const result = { epoch: [], mean: [], low: [], high: [], std: [] };
  for (let epoch = 0; epoch < length; epoch++) {
    const values = runs.map((run) => rowsOf(metric, run)[epoch]).filter((value) => Number.isFinite(value));
    if (!values.length) continue;
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    const square = values.reduce((a, b) => a + (b - mean) ** 2, 0);
    result.epoch.push(epoch + 1);
    result.mean.push(mean);
    result.low.push(Math.min(...values));
    result.high.push(Math.max(...values));
    result.std.push(values.length > 1 ? Math.sqrt(square / (values.length - 1)) : 0);
  }
  return result;
}

function drawCurves() {
  const [metric, key, band, asked] = ["metric", "group", "band", "axis"].map((name) => $(`curve-${name}`).value);
  const axis = asked !== "auto" ? asked : metric.endsWith("loss") ? "log" : "linear";
  const runs = state.shown.filter((run) => RUNS[run].epochs);
  let groups = [...groupsOf(runs, key)].map(([name, members]) => ({ name, members, ...summary(metric, members) }));
  const worse = metric.endsWith("loss") ? 1 : -1;
  const order = (group) => worse * (group.mean.at(-1) ?? Infinity * worse);
  groups.sort((a, b) => order(a) - order(b));
  const all = groups.length;
  groups = groups.slice(0, MOST_GROUPS);
  const count = all > MOST_GROUPS ? `the best ${MOST_GROUPS} of ${all} groups` : `${all} groups`;
  $("curve-note").textContent = `${runs.length.toLocaleString("en")} runs in ${count}, best first; lines are means of the runs that reached an epoch.`;
  const traces = [];
  groups.forEach((group, i) => {
    const color = COLORS[i % COLORS.length];
    const common = { x: group.epoch, mode: "lines", legendgroup: String(i) };
    if (band !== "none" && group.members.length > 1) {
      const low = band === "std" ? group.mean.map((m, e) => m - group.std[e]) : group.low;
      const high = band === "std" ? group.mean.map((m, e) => m + group.std[e]) : group.high;
      const edge = { ...common, line: { width: 0, color }, hoverinfo: "skip", showlegend: false };
      traces.push({ ...edge, y: low }, { ...edge, y: high, fill: "tonexty", fillcolor: `${color}30` });
    }
    const dash = DASHES[Math.floor(i / COLORS.length)];
    const name = `${safe(brief(group.name))} (${group.members.length})`;
    traces.push({ ...common, y: group.mean, name, line: { color, dash, width: 2 }, mode: group.epoch.length > 1 ? "lines" : "markers" });
  });
  const legend = { orientation: "v", x: 1.01, y: 1, font: { size: 11 } };
  return plot("curve-plot", traces, { xaxis: { title: { text: "epoch" } }, yaxis: { title: { text: metric }, type: axis }, legend, showlegend: true });
}

// Parallel coordinates, which parallel.js draws

function axisOf(label, values) {
  if (values.every(isNumber) && new Set(values).size > 5) return { label, values };
  const ticktext = [...new Set(values.map(shown))];
  if (values.every(isNumber)) ticktext.sort((a, b) => a.replaceAll(",", "") - b.replaceAll(",", ""));
  return { label, values: values.map((value) => ticktext.indexOf(shown(value))), ticktext };
}

function drawParallel() {
  const metric = $("parallel-metric").value;
  const runs = state.shown.filter((run) => RUNS[run].status === "done" && isNumber(RUNS[run].metrics[metric]));
  if (!runs.length) return $("parallel-plot").replaceChildren();
  const varies = (key) => new Set(runs.map((run) => text(RUNS[run].values[key]))).size > 1;
  const axes = DATA.keys.filter(varies).map((key) => axisOf(key.endsWith(".name") ? key.split(".")[0] : short(key), runs.map((run) => RUNS[run].values[key])));
  const metrics = [...new Set(["val/loss", "val/accuracy", metric])].filter((m) => DATA.metrics.includes(m) && m !== metric);
  for (const name of [...metrics, metric]) axes.push({ label: name, values: runs.map((run) => RUNS[run].metrics[name]) });
  return parallel($("parallel-plot"), axes, { reversed: metric.endsWith("loss") });
}

// Importance

function drawImportance() {
  const rows = DATA.importance[$("importance-metric").value] ?? [];
  const note = rows.length
    ? "Importance: the share of the variance that a random forest explains. Correlation: Spearman's, for numbers only."
    : "Needs at least eight finished runs and a key that differs between them.";
  $("importance-note").textContent = note;
  $("importance-plot").hidden = !rows.length;
  if (!rows.length) return;
  const y = rows.map((_, place) => rows.length - 1 - place); // numbers, because a category could be named "constructor"
  const yaxis = { tickvals: y, ticktext: rows.map((row) => safe(brief(row.key))) };
  const bars = (name, color) => ({ type: "bar", orientation: "h", name, y, x: rows.map((row) => row[name]), marker: { color } });
  const traces = [bars("correlation", COLORS[1]), bars("importance", COLORS[0])];
  return plot("importance-plot", traces, { xaxis: { range: [-1, 1] }, yaxis, legend: { traceorder: "reversed" }, margin: { l: 200, t: 20, b: 40, r: 20 } });
}

// Confusion matrix and errors

function drawConfusion() {
  const run = RUNS[Number($("confusion-run").value)];
  if (!run?.confusion) return;
  const names = DATA.classes[run.classes].map((name) => safe(brief(name)));
  const places = names.map((_, place) => place);
  const share = run.confusion.map((row) => row.map((count) => Math.sqrt(count / Math.max(1, row.reduce((a, b) => a + b)))));
  const shownText = run.confusion.map((row) => row.map((count) => (count ? count.toLocaleString("en") : "")));
  const told = run.confusion.map((row, i) => row.map((count, j) => `true ${names[i]}, predicted ${names[j]}: ${count.toLocaleString("en")}`));
  const trace = {
    type: "heatmap", x: places, y: places, z: share, text: shownText, texttemplate: names.length <= 20 ? "%{text}" : "",
    hovertext: told, hoverinfo: "text", colorscale: [[0, style("--paper")], [1, COLORS[0]]], zmin: 0, zmax: 1, showscale: false,
  };
  const axis = { tickvals: places, ticktext: names, showgrid: false, zeroline: false };
  const yaxis = { ...axis, autorange: "reversed", title: { text: "true" } };
  return plot("confusion-plot", [trace], { xaxis: { ...axis, title: { text: "predicted" } }, yaxis });
}

function drawErrors() {
  const found = DATA.examples[Number($("errors-run").value)];
  $("errors-note").textContent = found
    ? `${found.wrong.toLocaleString("en")} of ${found.count.toLocaleString("en")} wrong; the most confident errors first: true → predicted, confidence.`
    : DATA.no_examples;
  const tiles = (found?.tiles ?? []).map((tile, i) => {
    const digit = element("div", "", { className: "digit" });
    digit.style.aspectRatio = String(found.aspect ?? 1);
    digit.style.backgroundImage = `url(${found.sprite})`;
    digit.style.backgroundSize = `${100 * found.tiles.length}% 100%`;
    digit.style.backgroundPositionX = found.tiles.length > 1 ? `${(100 * i) / (found.tiles.length - 1)}%` : "0";
    const caption = `${tile.true} → ${tile.predicted}\n${(100 * tile.confidence).toFixed(1)} %`;
    return element("figure", [digit, element("figcaption", caption)]);
  });
  $("errors-tiles").replaceChildren(...tiles);
}

// Differences and failures

function drawDifferences() {
  const runs = state.selected.map((run) => RUNS[run]);
  $("differences-note").textContent = runs.length < 2
    ? "Click two or more rows of the table."
    : "Keys that differ between these runs, and their results.";
  if (runs.length < 2) return $("differences-table").replaceChildren();
  const differs = (get) => new Set(runs.map((run) => text(get(run)))).size > 1;
  const rows = ["seed", ...DATA.config_keys]
    .filter((key) => differs((run) => run.config[key]))
    .map((key) => [key, ...runs.map((run) => shown(run.config[key]))]);
  for (const metric of DATA.metrics) rows.push([metric, ...runs.map((run) => shown(run.metrics[metric]))]);
  fillTable($("differences-table"), ["", ...runs.map((run) => run.name)], rows);
}

function drawFailures() {
  const runs = RUNS.filter((run) => run.status !== "done");
  $("failures-note").textContent = runs.length ? `${runs.length.toLocaleString("en")} runs.` : "All runs are done.";
  const rows = runs.map((run) => [run.name, run.status, run.reason ?? "", run.epochs, run.folder]);
  if (rows.length) fillTable($("failures-table"), ["run", "status", "reason", "epochs", "folder"], rows);
}

// Redrawing: a plot is drawn when it comes into view

const views = { curves: drawCurves, parallel: drawParallel, importance: drawImportance, confusion: drawConfusion };
const stale = new Set(Object.keys(views));
const visible = new Set();

function refresh(names = Object.keys(views)) {
  names.forEach((name) => stale.add(name));
  for (const name of visible) if (stale.delete(name)) views[name]();
}

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) visible[entry.isIntersecting ? "add" : "delete"](entry.target.id);
  refresh([]);
});

// The table

// Numbers are sorted before words: 32, 128, all. DataTables decodes HTML in searched values, so these are escaped;
// its SearchBuilder removes tags from column names.
const padded = (value) => (isNumber(value) ? `0${value.toFixed(9).padStart(30, "0")}` : `1${text(value)}`);
const keyed = { display: safe, filter: safe, type: (value) => (isNumber(value) ? value : safe(value)), sort: padded };
const bare = (name) => name.replaceAll("<", "‹").replaceAll(">", "›");

// If the best runs come first, runs without the metric come last.
function rendering(metric) {
  const lowerIsBetter = /loss|seconds/.test(metric);
  return { ...keyed, sort: (value) => (value === "" ? (lowerIsBetter ? Infinity : -Infinity) : value) };
}

function makeTable() {
  const columns = [
    { title: "run", of: (run) => run.name, render: keyed },
    { title: "status", of: (run) => run.status, className: "status", render: keyed },
    ...DATA.keys.map((key) => ({ title: safe(key), searchBuilderTitle: bare(key), of: (run) => run.values[key] ?? "", render: keyed })),
    { title: "seed", of: (run) => run.seed ?? "", render: keyed },
    { title: "epochs", of: (run) => run.epochs },
    ...DATA.metrics.map((metric) => ({ title: metric, of: (run) => run.metrics[metric] ?? "", render: rendering(metric) })),
  ];
  const first = columns.findIndex((column) => column.title === DATA.monitor);
  const table = new DataTable("#table", {
    data: RUNS.map((run) => columns.map((column) => column.of(run))), // SearchBuilder takes no functions as data
    columns,
    order: first < 0 ? [] : [[first, DATA.monitor.endsWith("loss") ? "asc" : "desc"]],
    language: { searchBuilder: { title: { 0: "Filter", _: "Filter (%d)" }, add: "Add a condition" } },
    layout: { top1: "searchBuilder", topStart: "pageLength", topEnd: "search" },
    pageLength: 10,
    lengthMenu: [10, 25, 100],
    deferRender: true,
    select: { style: "multi" },
    createdRow: (row, [, status]) => STYLED.includes(status) && row.querySelector(".status").classList.add(`status-${status}`),
  });
  const indices = (rows) => rows.indexes().toArray();
  table.on("draw", () => {
    const now = indices(table.rows({ search: "applied" }));
    if (now.length === state.shown.length && now.every((run) => state.set?.has(run))) return;
    Object.assign(state, { shown: now, set: new Set(now) });
    refresh(["curves", "parallel"]);
  });
  table.on("select deselect", () => {
    state.selected = indices(table.rows({ selected: true }));
    drawDifferences();
  });
  state.set = new Set(state.shown);
  return table;
}

function start() {
  const counts = new Map();
  for (const run of RUNS) counts.set(run.status, (counts.get(run.status) ?? 0) + 1);
  $("counts").textContent = [...counts].map(([status, count]) => `${count.toLocaleString("en")} ${status}`).join(" · ");
  const pairs = (names) => names.map((name) => [name, name]);
  const again = (name) => () => refresh([name]);
  choices($("curve-metric"), pairs(Object.keys(DATA.curves)), DATA.monitor, again("curves"));
  choices($("curve-group"), pairs(["(all but seed)", ...DATA.keys, "(run)"]), "(all but seed)", again("curves"));
  $("curve-band").onchange = $("curve-axis").onchange = again("curves");
  choices($("parallel-metric"), pairs(DATA.metrics), DATA.target, again("parallel"));
  choices($("importance-metric"), pairs(Object.keys(DATA.importance)), DATA.target, again("importance"));
  const tested = DATA.ranking.filter((run) => RUNS[run].confusion).map((run) => [String(run), RUNS[run].name]);
  choices($("confusion-run"), tested, tested[0]?.[0], again("confusion"));
  choices($("errors-run"), DATA.examples.map((found, i) => [String(i), RUNS[found.run].name]), "0", drawErrors);
  const table = makeTable();
  drawErrors();
  drawDifferences();
  drawFailures();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => refresh());
  addEventListener("resize", () => refresh(["parallel"]));
  window.dashboard = { table, state }; // for the browser's console
}

const page = document.documentElement;
page.classList.toggle("dark", matchMedia("(prefers-color-scheme: dark)").matches);
start();
page.dataset.ready = "table";
await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve))); // after the table is on the screen
await loadPlotly();
for (const name of Object.keys(views)) watcher.observe($(name));
page.dataset.ready = "true";
