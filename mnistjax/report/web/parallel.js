// Parallel coordinates. Plotly's would compile code while the page runs, which the page's policy forbids.

const VIRIDIS = ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"];
const CHANNELS = VIRIDIS.map((color) => [1, 3, 5].map((place) => parseInt(color.slice(place, place + 2), 16)));

// On a white page without the brightest colours.
function viridis(share) {
  const most = document.documentElement.classList.contains("dark") ? 1 : 0.8;
  const place = most * Math.min(Math.max(share, 0), 1) * (CHANNELS.length - 1);
  const low = Math.min(Math.floor(place), CHANNELS.length - 2);
  const mixed = CHANNELS[low].map((from, i) => Math.round(from + (CHANNELS[low + 1][i] - from) * (place - low)));
  return `rgb(${mixed.join(",")})`;
}

function shape(tag, attributes, ...content) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...content);
  return made;
}

function rangeOf(values) {
  const known = values.filter(isNumber);
  const [low, high] = [known.reduce((a, b) => Math.min(a, b), Infinity), known.reduce((a, b) => Math.max(a, b), -Infinity)];
  return low < high ? [low, high] : [low - 0.5, high + 0.5];
}

// How much a key moves the low and the high end of a range, in tenths of the axis.
const KEYS = { ArrowUp: [1, 1], ArrowDown: [-1, -1], ArrowLeft: [0.5, -0.5], ArrowRight: [-0.5, 0.5], Escape: [0, 0] };
const picked = new Map(); // selected ranges by axis, kept from drawing to drawing

// An axis is { label, values (one for each run), and for words ticktext, which the values index }.
// The last axis colours the runs.
function parallel(box, axes, { reversed }) {
  const [width, height, top] = [Math.max(box.clientWidth, 90 * axes.length), box.clientHeight - 4, 60];
  const long = height - top - 30; // pixels
  const gap = (width - 160) / Math.max(1, axes.length - 1);
  const placeX = (i) => 80 + i * gap;
  const fitting = (words, room) => (words.length * 7 > room ? `${words.slice(0, Math.max(3, room / 7))}…` : words);
  const ranges = axes.map((axis) => rangeOf(axis.values));
  const placeY = (value, i) => top + long * (1 - (value - ranges[i][0]) / (ranges[i][1] - ranges[i][0]));
  const last = axes.length - 1;
  const keys = axes.map((axis, i) => `${i} ${axis.label} ${axis.ticktext}`);
  const lines = axes[last].values.map((value, run) => {
    const points = axes.map((axis, i) => [placeX(i), placeY(axis.values[run], i)]).filter(([, y]) => isNumber(y));
    const share = (value - ranges[last][0]) / (ranges[last][1] - ranges[last][0]);
    return shape("polyline", { points: points.join(" "), stroke: viridis(reversed ? 1 - share : share), fill: "none" });
  });
  const show = () => lines.forEach((line, run) => {
    const inside = axes.every((axis, i) => {
      const range = picked.get(keys[i]);
      return !range || (axis.values[run] >= range[0] && axis.values[run] <= range[1]);
    });
    line.setAttribute("stroke-opacity", inside ? 0.8 : 0.06);
  });
  const drawAxis = (axis, i) => {
    const ends = ranges[i];
    const ticks = axis.ticktext
      ? axis.ticktext.map((words, place) => [place, words])
      : [0, 0.25, 0.5, 0.75, 1].map((share) => ends[0] + share * (ends[1] - ends[0])).map((value) => [value, Number(value.toPrecision(3)).toString()]);
    const label = { x: placeX(i), y: i % 2 ? 22 : 40, "text-anchor": "middle", "font-weight": 600 };
    const range = shape("rect", { x: placeX(i) - 5, width: 10, "fill-opacity": 0.4, class: "picked" });
    const place = { x: placeX(i) - 12, width: 24, y: top, height: long, "fill-opacity": 0, cursor: "crosshair" };
    const handle = shape("rect", { ...place, tabindex: 0, role: "slider", "aria-label": `range of ${axis.label}`, "aria-valuemin": 0, "aria-valuemax": 100 });
    let start = null;
    const valueAt = (event) => {
      const share = 1 - (event.clientY - handle.getBoundingClientRect().top) / long;
      return ends[0] + Math.min(Math.max(share, 0), 1) * (ends[1] - ends[0]);
    };
    const mark = () => {
      const [low, high] = (picked.get(keys[i]) ?? [ends[0], ends[0]]).map((value) => Math.min(Math.max(value, ends[0]), ends[1]));
      range.setAttribute("y", placeY(high, i));
      range.setAttribute("height", placeY(low, i) - placeY(high, i));
      const said = (value) => (axis.ticktext ? axis.ticktext[Math.min(Math.max(Math.round(value), 0), axis.ticktext.length - 1)] : Number(value.toPrecision(3)));
      handle.setAttribute("aria-valuenow", String(Math.round((50 * (low + high - 2 * ends[0])) / (ends[1] - ends[0]))));
      handle.setAttribute("aria-valuetext", picked.has(keys[i]) ? `${said(low)} to ${said(high)}` : "all");
      show();
    };
    handle.onpointerdown = (event) => {
      handle.setPointerCapture(event.pointerId);
      start = valueAt(event);
      picked.delete(keys[i]);
      mark();
    };
    handle.onpointermove = (event) => {
      if (start === null) return;
      picked.set(keys[i], [start, valueAt(event)].sort((a, b) => a - b));
      mark();
    };
    handle.onpointerup = handle.onpointercancel = () => (start = null);
    handle.onkeydown = (event) => {
      const step = KEYS[event.key];
      if (!step) return;
      event.preventDefault();
      const [low, high] = picked.get(keys[i]) ?? [ends[0], ends[1]];
      const part = (ends[1] - ends[0]) / 10;
      if (event.key === "Escape") picked.delete(keys[i]);
      else picked.set(keys[i], [low + part * step[0], high + part * step[1]].map((value) => Math.min(Math.max(value, ends[0]), ends[1])));
      mark();
    };
    mark();
    return shape(
      "g", { class: "axis" },
      shape("line", { x1: placeX(i), x2: placeX(i), y1: top, y2: top + long }),
      shape("text", label, fitting(axis.label, 1.6 * gap)),
      ...ticks.map(([value, words]) => shape("text", { x: placeX(i) + 8, y: placeY(value, i) + 4 }, fitting(words, i < last ? gap - 20 : 60))),
      range,
      handle,
    );
  };
  const drawing = shape("svg", { width, height }, shape("g", {}, ...lines), ...axes.map(drawAxis));
  drawing.onpointerdown = (event) => event.preventDefault(); // no text is selected by a drag
  const focused = [...box.querySelectorAll("[role=slider]")].indexOf(document.activeElement);
  box.replaceChildren(drawing);
  box.querySelectorAll("[role=slider]")[focused]?.focus();
}
