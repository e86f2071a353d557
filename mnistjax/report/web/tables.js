// The table of configurations or runs, and the tables of differences and of runs that are not done.

const STYLED = ["done", "stopped", "failed", "diverged"]; // statuses with a colour
let table = null;
let view = null; // what the table shows now: { items, columns, open }

// Numbers are sorted before words: 32, 128, all. DataTables decodes HTML in searched values, so these are escaped;
// its SearchBuilder removes tags from column names.
const padded = (value) => (isNumber(value) ? `0${value.toFixed(40).padStart(65, "0")}` : `1${text(value)}`);
const sought = (value) => (isNumber(value) ? String(value) : safe(value)); // without commas, for SearchBuilder
const keyed = { display: safe, filter: sought, type: (value) => (isNumber(value) ? value : safe(value)), sort: padded };
// SearchBuilder takes a number that is missing for 0.
for (const name of ["<", "<=", ">=", ">", "between", "!between"]) {
  const condition = DataTable.Criteria.numConditions[name], { search } = condition;
  condition.search = (value, ...asked) => value !== "" && search(value, ...asked);
}
const bare = (name) => name.replaceAll("<", "‹").replaceAll(">", "›");

// If the best come first, those without the metric come last.
function rendering(metric) {
  return { ...keyed, sort: (value) => (value === "" ? (lowerIsBetter(metric) ? Infinity : -Infinity) : value) };
}

const keyColumns = (get) => DATA.keys.map((key) => ({ title: safe(key), searchBuilderTitle: bare(key), of: (item) => get(item, key) ?? "", render: keyed }));

function countStatuses(runs) {
  const counts = new Map();
  for (const { status } of runs) counts.set(status, (counts.get(status) ?? 0) + 1);
  return [...counts].map(([status, count]) => `${count.toLocaleString("en")} ${status}`);
}

const statusOf = (runs) => (runs.length > 1 ? countStatuses(runs.map((run) => RUNS[run])).join(", ") : RUNS[runs[0]].status);

// The kinds of the table. Each has its rows' items, the runs of an item, and its columns.
const KINDS = {
  configurations: () => ({
    items: DATA.configurations,
    runs: (one) => one.runs,
    name: configurationName,
    metric: (one, name) => one.metrics[name]?.[0],
    columns: [
      { title: "runs", of: (one) => one.runs.length, className: "fold" },
      { title: "status", of: (one) => statusOf(one.runs), className: "status", render: keyed },
      ...(RUNS.some((run) => run.status === "stopped") ? [{ title: "epochs", of: (one) => Math.max(...one.runs.map((run) => RUNS[run].epochs)) }] : []),
      ...keyColumns((one, key) => RUNS[one.runs[0]].values[key]),
      ...DATA.compared.flatMap((metric) => [
        { title: metric, of: (one) => one.metrics[metric]?.[0] ?? "", render: rendering(metric) },
        { title: `± 95 % of ${metric}`, of: (one) => one.metrics[metric]?.[1] ?? "", render: rendering("loss") },
        { title: `letters of ${metric}`, of: (one) => one.letters[metric] ?? "", render: keyed },
      ]),
      ...DATA.metrics.filter((name) => !DATA.compared.includes(name)).map((metric) => ({ title: metric, of: (one) => one.metrics[metric]?.[0] ?? "", render: rendering(metric) })),
    ],
    note: "A row is a configuration: the mean over its seeds, and ± half the 95 % confidence interval of that mean. Configurations that share a letter are not told apart (t-tests, paired by the seeds that both have, corrected by Holm's method). The arrow opens the runs of a row.",
  }),
  runs: () => ({
    items: RUNS.map((_, run) => run),
    runs: (run) => [run],
    name: (run) => RUNS[run].name,
    metric: (run, name) => RUNS[run].metrics[name],
    columns: [
      { title: "run", of: (run) => RUNS[run].name, render: keyed },
      { title: "status", of: (run) => RUNS[run].status, className: "status", render: keyed },
      ...keyColumns((run, key) => RUNS[run].values[key]),
      { title: "seed", of: (run) => RUNS[run].seed ?? "", render: keyed },
      { title: "epochs", of: (run) => RUNS[run].epochs },
      ...DATA.metrics.map((metric) => ({ title: metric, of: (run) => RUNS[run].metrics[metric] ?? "", render: rendering(metric) })),
    ],
    note: "A row is a run.",
  }),
};

function describeView(kind) {
  const made = KINDS[kind]();
  const first = { title: "", className: "pick", orderable: false, searchable: false, of: () => "", render: DataTable.render.select() };
  return { kind, ...made, columns: [first, ...made.columns], open: new Set() };
}

const titles = (one) => one.columns.map((column) => column.title).join("\n");
const rowsOfView = (one) => one.items.map((item) => one.columns.map((column) => column.of(item))); // SearchBuilder takes no functions as data

// Orders, filters and pages in the address are texts from anyone: only what could come from this page is taken.
const usualOrder = () => `${lowerIsBetter(DATA.monitor) ? "asc" : "desc"}:${DATA.monitor}`;

function askedOrder(columns) {
  for (const asked of [address.order ?? "", usualOrder()]) {
    const [direction, ...title] = asked.split(":");
    const place = columns.findIndex((column) => column.title === title.join(":"));
    if (place > 0) return [[place, direction === "desc" ? "desc" : "asc"]];
  }
  return [];
}

function askedFilter(columns) {
  const known = new Set(columns.map((column) => column.searchBuilderTitle ?? column.title));
  const rule = (one) => {
    if (Array.isArray(one?.criteria)) return { logic: one.logic === "OR" ? "OR" : "AND", criteria: one.criteria.slice(0, 50).map(rule).filter(Boolean) };
    if (!known.has(one?.data) || !/^[!=<>a-z]{1,12}$/i.test(one.condition) || !Array.isArray(one.value)) return null;
    const type = /^[a-z-]{1,20}$/i.test(one.type) ? one.type : "html";
    return { data: one.data, origData: one.data, condition: one.condition, type, value: one.value.map((value) => safe(String(value))) };
  };
  try {
    return (address.filter && rule(JSON.parse(address.filter))) || false;
  } catch {
    return false;
  }
}

const numbersIn = (words, most) => (words ?? "").split(",").filter((word) => /^\d+$/.test(word)).map(Number).filter((place) => place < most);

// The runs of a configuration, below its row.
function runsBelow(one) {
  const metrics = [...new Set([...DATA.compared, ...DATA.metrics])].slice(0, 6).filter((name) => one.runs.some((run) => name in RUNS[run].metrics));
  const rows = one.runs.map((run) => {
    const { seed, status, reason, epochs } = RUNS[run];
    return [shown(seed), status, shown(epochs), ...metrics.map((name) => shown(RUNS[run].metrics[name])), folderOf(run), status === "done" ? "" : (reason ?? "")];
  });
  const below = element("table", [], { className: "plain" });
  fillTable(below, ["seed", "status", "epochs", ...metrics, "folder", "reason"], rows);
  return below;
}

function fold(row, open) {
  const item = view.items[row.index()];
  if (open) row.child(runsBelow(item)).show();
  else row.child.hide();
  view.open[open ? "add" : "delete"](row.index());
  row.node()?.querySelector("button")?.setAttribute("aria-expanded", String(open));
  remember("open", [...view.open].sort((a, b) => a - b).join(","));
}

function dress(row, cells, index) {
  const item = view.items[index];
  const statuses = new Set(view.runs(item).map((run) => RUNS[run].status));
  const worst = [...STYLED].reverse().find((status) => statuses.has(status));
  if (worst && (statuses.size === 1 || worst !== "done")) row.querySelector(".status").classList.add(`status-${worst}`);
  row.querySelector(".pick input")?.setAttribute("aria-label", `compare ${view.name(item)}`);
  const place = row.querySelector(".fold");
  if (!place) return;
  const button = element("button", shown(view.runs(item).length), { type: "button" });
  button.setAttribute("aria-expanded", String(view.open.has(index)));
  button.setAttribute("aria-label", `${counted(view.runs(item).length, "run")} of ${view.name(item)}`);
  button.onclick = (event) => {
    event.stopPropagation(); // else the row is selected
    fold(table.row(index), !view.open.has(index));
  };
  place.replaceChildren(button);
}

function makeTable(kind, changed) {
  if (table) table.destroy();
  $("table").replaceWith(element("table", [], { id: "table", className: "display compact" })); // without old listeners
  $("table").setAttribute("aria-labelledby", "runs-head");
  view = describeView(kind);
  const { columns } = view;
  const pages = [10, 25, 100];
  const length = pages.find((count) => String(count) === address.length) ?? pages[0];
  $("runs-note").textContent = `${view.note} Search and filter: the plots below show the runs in this table. Select rows to see what differs between them.`;
  const places = columns.map((_, i) => i).slice(1);
  table = new DataTable("#table", {
    data: rowsOfView(view),
    columns: columns.map(({ of, ...column }) => column),
    order: askedOrder(columns),
    search: { search: address.search ?? "" },
    language: { searchBuilder: { title: { 0: "Filter", _: "Filter (%d)" }, add: "Add a condition" }, select: { rows: { 0: "" } } },
    layout: { top1: { searchBuilder: { columns: places, preDefined: askedFilter(columns) } }, topStart: "pageLength", topEnd: "search" },
    pageLength: length,
    displayStart: length * Math.max(0, (numbersIn(address.page, 1e6)[0] ?? 1) - 1),
    lengthMenu: pages,
    deferRender: true,
    select: { style: "multi", headerCheckbox: false },
    createdRow: dress,
  });
  table.on("draw", () => drawn(changed));
  table.on("order", () => {
    const [[column, direction] = []] = table.order();
    const now = column && direction ? `${direction}:${columns[column].title}` : null;
    remember("order", now === usualOrder() ? null : now);
  });
  table.on("select deselect", selected);
  for (const place of numbersIn(address.open, kind === "configurations" ? view.items.length : 0)) fold(table.row(place), true);
  const before = numbersIn(address.selected, view.items.length);
  if (before.length) table.rows(before).select();
  drawn(() => {});
}

function drawn(changed) {
  const rows = table.rows({ search: "applied" }).indexes().toArray();
  const now = rows.flatMap((row) => view.runs(view.items[row])).sort((a, b) => a - b);
  const { page, length } = table.page.info();
  const filter = table.searchBuilder.getDetails();
  remember("search", table.search());
  remember("page", page ? page + 1 : null);
  remember("length", length === 10 ? null : length);
  remember("filter", filter?.criteria?.length ? JSON.stringify(filter) : null);
  if (now.length === state.shown.length && now.every((run, i) => run === state.shown[i])) return;
  state.shown = now;
  changed();
}

function selected() {
  const rows = table.rows({ selected: true }).indexes().toArray();
  state.selected = rows.map((row) => view.items[row]);
  remember("selected", rows.join(","));
  drawDifferences();
}

// New records of the same runs, while the page watches a sweep. What the user has set stays as it is.
function updateTable(changed) {
  const next = describeView($("view").value);
  if (titles(next) !== titles(view) || next.items.length !== view.items.length) return makeTable(next.kind, changed);
  const { open } = view;
  const rows = rowsOfView(next);
  Object.assign(view, next, { open });
  for (const [place, row] of rows.entries()) {
    const line = table.row(place);
    if (JSON.stringify(line.data()) === JSON.stringify(row) && !open.has(place)) continue;
    line.data(row);
    if (line.node()) dress(line.node(), row, place);
    if (open.has(place)) line.child(runsBelow(view.items[place])).show();
  }
  table.draw(false);
  state.selected = table.rows({ selected: true }).indexes().toArray().map((row) => view.items[row]);
}

function drawDifferences() {
  const items = state.selected;
  $("differences-note").textContent = items.length < 2
    ? "Select two or more rows of the table."
    : "Keys that differ between these rows, and their results.";
  if (items.length < 2) return $("differences-table").replaceChildren();
  const config = (item, key) => RUNS[view.runs(item)[0]].config[key];
  const differs = (key) => new Set(items.map((item) => text(config(item, key)))).size > 1;
  const keys = [...(view.kind === "runs" ? ["seed"] : []), ...DATA.config_keys].filter(differs);
  const rows = keys.map((key) => [key, ...items.map((item) => shown(config(item, key)))]);
  rows.push(["status", ...items.map((item) => statusOf(view.runs(item)))]);
  const known = DATA.metrics.filter((metric) => items.some((item) => isNumber(view.metric(item, metric))));
  for (const metric of known) rows.push([metric, ...items.map((item) => shown(view.metric(item, metric)))]);
  fillTable($("differences-table"), ["", ...items.map(view.name)], rows);
}

function drawFailures() {
  const runs = RUNS.map((_, run) => run).filter((run) => RUNS[run].status !== "done");
  const most = 500; // rows
  const more = runs.length > most ? ` The first ${most} are below; the table above has all.` : "";
  $("failures-note").textContent = runs.length ? `${counted(runs.length, "run")}.${more}` : "All runs are done.";
  const rows = runs.slice(0, most).map((run) => [RUNS[run].name, RUNS[run].status, RUNS[run].reason ?? "", shown(RUNS[run].epochs), folderOf(run)]);
  if (rows.length) fillTable($("failures-table"), ["run", "status", "reason", "epochs", "folder"], rows);
  else $("failures-table").replaceChildren();
}

// What differs between two folders, if the report is of two.
function drawComparison() {
  const found = DATA.comparison;
  $("comparison").hidden = $("comparison-link").hidden = !found;
  if (!found) return;
  fillTable($("comparison-lines"), [], found.lines);
  $("comparison-note").textContent = found.note;
  $("comparison-tables").replaceChildren(...found.tables.flatMap(({ metric, rows: [head, ...rows] }) => {
    const filled = element("table", [], { className: "plain" });
    fillTable(filled, head, rows);
    return [element("h3", `By ${metric}, mean ± standard deviation over seeds`), filled];
  }));
}
