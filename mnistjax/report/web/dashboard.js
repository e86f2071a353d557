// Starts the dashboard, and keeps it up to date while it watches a sweep. DataTable is loaded before the scripts, Plotly
// after the table is drawn.

// Redrawing: a plot is drawn when it comes into view

const views = { curves: drawCurves, heat: drawHeat, parallel: drawParallel, importance: drawImportance, confusion: drawConfusion };
const filtered = ["curves", "heat", "parallel"]; // show only the runs in the table
const stale = new Set(Object.keys(views));
const visible = new Set();

function refresh(names = Object.keys(views)) {
  names.forEach((name) => stale.add(name));
  if (typeof Plotly === "undefined") return;
  for (const name of visible) if (stale.delete(name)) views[name]();
}

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) visible[entry.isIntersecting ? "add" : "delete"](entry.target.id);
  refresh([]);
});

const again = (name) => () => refresh([name]);
const redraw = () => refresh(filtered);

// What the page offers to choose, from its data.
function fillChoices() {
  const pairs = (names) => names.map((name) => [name, name]);
  const usual = RUNS.length > DATA.configurations.length ? "configurations" : "runs";
  choices($("view"), pairs(Object.keys(KINDS)), usual, () => {
    for (const key of ["open", "selected", "order", "filter", "page"]) remember(key, null);
    makeTable($("view").value, redraw);
    drawDifferences();
  });
  choices($("curve-metric"), pairs(Object.keys(DATA.curves)), DATA.monitor, again("curves"));
  choices($("curve-group"), pairs(["(all but seed)", ...DATA.keys, "(run)"]), "(all but seed)", again("curves"));
  for (const name of ["curve-band", "curve-axis"]) choices($(name), optionsOf($(name)), optionsOf($(name))[0][0], again("curves"));
  choices($("heat-rows"), pairs(heatKeys()), heatKeys()[0], again("heat"));
  choices($("heat-columns"), pairs(heatKeys()), heatKeys()[1] ?? heatKeys()[0], again("heat"));
  choices($("heat-metric"), pairs(DATA.metrics), DATA.target, again("heat"));
  choices($("parallel-metric"), pairs(DATA.metrics), DATA.target, again("parallel"));
  choices($("importance-metric"), pairs(Object.keys(DATA.importance)), DATA.target, again("importance"));
  const tested = DATA.ranking.filter((run) => RUNS[run].confusion).map((run) => [String(run), RUNS[run].name]);
  choices($("confusion-run"), tested, tested[0]?.[0], again("confusion"));
  choices($("errors-run"), DATA.examples.map((found, i) => [String(i), RUNS[found.run].name]), "0", drawErrors);
}

function fillPage() {
  $("verdict").textContent = DATA.verdict;
  $("counts").textContent = countStatuses(RUNS).join(" · ");
  fillChoices();
  for (const draw of [drawComparison, drawErrors, drawDifferences, drawFailures]) draw();
}

// Links to sections keep the rest of the address.
function go(id) {
  const section = $(id);
  if (!section?.matches("section")) return;
  section.scrollIntoView();
  section.querySelector("h2").focus({ preventScroll: true });
  remember("at", id);
}

async function watch() {
  let tag = `"${page.dataset.watch}"`;
  $("watching").textContent = "watching";
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 2000));
    try {
      const answer = await fetch("data.json", { headers: { "If-None-Match": tag } });
      if (answer.ok) {
        take(await answer.json());
        fillPage();
        updateTable(redraw);
        refresh();
        tag = answer.headers.get("ETag");
      } else if (![304, 503].includes(answer.status)) throw new Error(answer.statusText);
      $("watching").textContent = answer.status === 503 ? "nothing to watch now: the folder holds no run" : "watching";
    } catch {
      $("watching").textContent = "no longer watching: the command has ended";
    }
  }
}

function start() {
  take(JSON.parse($("data").textContent));
  const plain = location.hash.slice(1);
  for (const key of Object.keys(address)) if (!address[key]) delete address[key];
  fillPage();
  makeTable($("view").value, redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => {
    page.classList.toggle("dark", event.matches);
    refresh();
  });
  addEventListener("resize", redraw);
  document.querySelector("nav").onclick = (event) => {
    const link = event.target.closest("a");
    if (!link) return;
    event.preventDefault();
    go(link.hash.slice(1));
  };
  const at = address.at ?? plain;
  if (at) go(at);
  window.dashboard = { get table() { return table; }, state }; // for the browser's console
}

const page = document.documentElement;
page.classList.toggle("dark", matchMedia("(prefers-color-scheme: dark)").matches);
start();
page.dataset.ready = "table";
await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve))); // after the table is on the screen
await loadPlotly();
for (const name of Object.keys(views)) watcher.observe($(name));
page.dataset.ready = "true";
if (page.dataset.watch) watch();
