// The plots of the dashboard. Each draws one section from the runs that the table shows.

// Curves: one array for each metric, with the rows of all runs, run after run

function rowsOf(metric, run) {
  decoded[metric] ??= new Float32Array(bytesOf(DATA.curves[metric]).buffer);
  return decoded[metric].subarray(DATA.starts[run], DATA.starts[run] + RUNS[run].epochs);
}

const groupName = (run, key) => {
  const { name, values } = RUNS[run];
  if (key === "(run)") return name;
  return (key === "(all but seed)" ? nameOf(values) : text(values[key])) || "all runs";
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
  const curves = runs.map((run) => rowsOf(metric, run));
  for (let epoch = 0; epoch < length; epoch++) {
    const values = curves.map((curve) => curve[epoch]).filter((value) => Number.isFinite(value));
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

// Ticks at whole epochs only, also after a zoom: Plotly would put some at 1.5.
function epochTicks([low, high]) {
  const steps = [1, 2, 5].flatMap((digit) => [0, 1, 2, 3, 4, 5, 6].map((power) => digit * 10 ** power)).sort((a, b) => a - b);
  return steps.find((step) => (high - low) / step <= (narrow() ? 6 : 12)) ?? steps.at(-1);
}

function drawCurves() {
  const [metric, key, band, asked] = ["metric", "group", "band", "axis"].map((name) => $(`curve-${name}`).value);
  const axis = asked !== "auto" ? asked : metric.endsWith("loss") ? "log" : "linear";
  const runs = distinct(state.shown.filter((run) => RUNS[run].epochs));
  let groups = [...groupsOf(runs, key)].map(([name, members]) => ({ name, members, ...summary(metric, members) }));
  const worse = metric.endsWith("loss") ? 1 : -1;
  const order = (group) => worse * (group.mean.at(-1) ?? Infinity * worse);
  groups.sort((a, b) => order(a) - order(b));
  const all = groups.length;
  groups = groups.slice(0, MOST_GROUPS);
  const count = all > MOST_GROUPS ? `the best ${MOST_GROUPS} of ${counted(all, "group")}` : counted(all, "group");
  $("curve-plot").hidden = !groups.some((group) => group.mean.length);
  $("curve-note").textContent = `${counted(runs.length, "run")} in ${count}, best first; lines are means of the runs that reached an epoch.`;
  const traces = [];
  groups.forEach((group, i) => {
    const color = COLORS[i % COLORS.length];
    const common = { x: group.epoch, mode: "lines", legendgroup: String(i) };
    if (band !== "none" && group.members.length > 1) {
      // A logarithmic axis has no numbers below 0; there the band ends at the lowest run.
      const below = (m, e) => (axis === "log" && m <= group.std[e] ? group.low[e] : m - group.std[e]);
      const low = band === "std" ? group.mean.map(below) : group.low;
      const high = band === "std" ? group.mean.map((m, e) => m + group.std[e]) : group.high;
      const edge = { ...common, line: { width: 0, color }, hoverinfo: "skip", showlegend: false };
      traces.push({ ...edge, y: low }, { ...edge, y: high, fill: "tonexty", fillcolor: `${color}30` });
    }
    const dash = DASHES[Math.floor(i / COLORS.length)];
    const name = `${safe(brief(group.name))} (${group.members.length})`;
    traces.push({ ...common, y: group.mean, name, line: { color, dash, width: 2 }, mode: group.epoch.length > 1 ? "lines" : "markers" });
  });
  const last = Math.max(2, ...groups.map((group) => group.epoch.at(-1) ?? 0));
  const legend = narrow() ? { orientation: "h", y: -0.25, font: { size: 10 } } : { x: 1.01, y: 1, font: { size: 11 } };
  const best = groups[0]?.mean.length ? ` The best, ${groups[0].name}, ends at ${number(groups[0].mean.at(-1))}.` : "";
  const layout = { yaxis: { title: { text: metric }, type: axis }, legend, showlegend: true };
  const xaxis = { title: { text: "epoch", standoff: 4 }, dtick: epochTicks([1, last]), tick0: 0, tickformat: ",d", hoverformat: ",d" };
  const box = $("curve-plot");
  const drawn = plot("curve-plot", traces, { xaxis, ...layout }, `${metric} over the epochs, ${count}.${best}`);
  if (!box.dataset.ticks) box.on("plotly_relayout", () => {
    const dtick = epochTicks(box.layout.xaxis.range);
    if (dtick !== box.layout.xaxis.dtick) Plotly.relayout(box, { "xaxis.dtick": dtick });
  });
  box.dataset.ticks = "kept";
  return drawn;
}

// Heat map of two keys

const MOST_VALUES = 150; // of a key of the heat map
const heatKeys = () => DATA.keys.filter((key) => valuesOf(key, DATA.configurations).length <= MOST_VALUES);
const byValue = (a, b) => (isNumber(a) && isNumber(b) ? a - b : isNumber(a) ? -1 : isNumber(b) ? 1 : 0);
const valuesOf = (key, all) => [...new Map(all.map((one) => RUNS[one.runs[0]].values[key] ?? "").map((value) => [text(value), value])).values()].sort(byValue);

// The configurations with these values of two keys, the best by validation first: the test images choose nothing.
function cellsOf(keys, all) {
  const cells = new Map();
  const goal = lowerIsBetter(DATA.monitor) ? 1 : -1;
  const order = (one) => goal * (one.metrics[DATA.monitor]?.[0] ?? Infinity * goal);
  for (const one of [...all].sort((a, b) => order(a) - order(b))) {
    const place = JSON.stringify(keys.map((key) => text(RUNS[one.runs[0]].values[key] ?? "")));
    if (!cells.has(place)) cells.set(place, one);
  }
  return cells;
}

// A configuration without the runs that the table hides. The interval of the others' mean is not known here.
function limited(one, seen) {
  if (one.runs.every((run) => seen.has(run))) return one;
  const left = distinct(one.runs.filter((run) => seen.has(run) && RUNS[run].status === "done"));
  const metrics = Object.create(null);
  for (const name of Object.keys(one.metrics)) {
    const values = left.map((run) => RUNS[run].metrics[name]).filter(isNumber);
    if (values.length) metrics[name] = [values.reduce((a, b) => a + b) / values.length, null, values.length];
  }
  return { ...one, metrics };
}

function drawHeat() {
  const [down, across, metric] = ["rows", "columns", "metric"].map((name) => $(`heat-${name}`).value);
  const seen = new Set(state.shown);
  const all = DATA.configurations.map((one) => limited(one, seen)).filter((one) => one.metrics[metric]);
  const usable = heatKeys().length > 1 && down !== across && all.length > 0;
  $("heat-plot").hidden = !usable;
  const others = DATA.keys.filter((key) => key !== down && key !== across && valuesOf(key, all).length > 1);
  const chosen = others.length ? ` ${others.join(", ")} ${others.length > 1 ? "differ" : "differs"}, too: a cell is its best configuration by ${DATA.monitor}.` : "";
  $("heat-note").textContent = usable ? `Means over seeds ± half the 95 % interval of the mean.${chosen}` : `Needs two keys that differ between finished runs, each with at most ${MOST_VALUES} values.`;
  if (!usable) return;
  const [rows, columns] = [valuesOf(down, all), valuesOf(across, all)];
  const cells = cellsOf([down, across], all);
  const grid = (get) => rows.map((row) => columns.map((column) => get(cells.get(JSON.stringify([text(row), text(column)])))));
  const spread = ([mean, half]) => number(mean) + (half === null ? "" : ` ± ${Number(half.toPrecision(2))}`);
  const label = (one) => (one ? safe(spread(one.metrics[metric])).replace(" ± ", "<br>± ") : "");
  const told = (one) => (one ? `${safe(configurationName(one))}<br>${safe(metric)} ${spread(one.metrics[metric])} (${counted(one.metrics[metric][2], "seed")})` : "no finished run");
  const trace = {
    type: "heatmap", x: columns.map((_, i) => i), y: rows.map((_, i) => i), z: grid((one) => one?.metrics[metric][0] ?? null),
    text: grid(label), texttemplate: columns.length <= (narrow() ? 4 : 10) && rows.length <= 12 ? "%{text}" : "", hovertext: grid(told), hoverinfo: "text",
    colorscale: "Viridis", reversescale: lowerIsBetter(metric), colorbar: { title: { text: safe(metric), side: "right" }, thickness: 14 }, xgap: 2, ygap: 2,
  };
  const axis = (key, values) => {
    const every = Math.ceil(values.length / (narrow() ? 12 : 25)); // many labels take Plotly seconds
    const tickvals = values.map((_, i) => i).filter((i) => i % every === 0);
    return { tickvals, ticktext: tickvals.map((i) => safe(brief(shown(values[i])))), title: { text: safe(key), standoff: 4 }, showgrid: false, zeroline: false };
  };
  const words = `${metric} by ${down} and ${across}, ${counted(rows.length, "row")} and ${counted(columns.length, "column")}.`;
  return plot("heat-plot", [trace], { xaxis: axis(across, columns), yaxis: { ...axis(down, rows), autorange: "reversed" } }, words);
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
  describe($("parallel-plot"), `${counted(runs.length, "finished run")} as lines across their keys and metrics, coloured by ${metric}.`);
  $("parallel-plot").hidden = !runs.length;
  if (!runs.length) return;
  const varies = (key) => new Set(runs.map((run) => text(RUNS[run].values[key]))).size > 1;
  const axes = DATA.keys.filter(varies).map((key) => axisOf(key.endsWith(".name") ? key.split(".")[0] : short(key), runs.map((run) => RUNS[run].values[key])));
  const metrics = [...new Set(["val/loss", "val/accuracy", metric])].filter((m) => DATA.metrics.includes(m) && m !== metric);
  for (const name of [...metrics, metric]) axes.push({ label: name, values: runs.map((run) => RUNS[run].metrics[name]) });
  return parallel($("parallel-plot"), axes, { reversed: lowerIsBetter(metric) });
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
  const yaxis = { tickvals: y, ticktext: rows.map((row) => safe(brief(narrow() ? short(row.key) : row.key))) };
  const bars = (name, color) => ({ type: "bar", orientation: "h", name, y, x: rows.map((row) => row[name]), marker: { color } });
  const traces = [bars("correlation", COLORS[1]), bars("importance", COLORS[0])];
  const legend = narrow() ? { orientation: "h", traceorder: "reversed" } : { traceorder: "reversed" };
  const told = `Importance of ${rows.map((row) => `${row.key}: ${row.importance}`).join(", ")}.`;
  return plot("importance-plot", traces, { xaxis: { range: [-1, 1] }, yaxis, legend, margin: { l: narrow() ? 90 : 200, t: 20, b: 40, r: 20 } }, told);
}

// Confusion matrix and errors

function drawConfusion() {
  const asked = $("confusion-run").value;
  const run = asked === "" ? undefined : RUNS[Number(asked)];
  $("confusion-plot").hidden = !run?.confusion;
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
  const right = run.confusion.reduce((sum, row, i) => sum + row[i], 0);
  const words = `Confusion matrix of ${run.name}: ${right.toLocaleString("en")} test images right.`;
  const title = { text: "predicted", ...(names.every((name) => name.length < 20) && { standoff: 4 }) }; // else Plotly fails
  return plot("confusion-plot", [trace], { xaxis: { ...axis, title }, yaxis }, words);
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
