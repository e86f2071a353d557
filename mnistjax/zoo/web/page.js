// The page: one draws a digit or chooses a picture, and sees the probabilities.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const [HEIGHT, WIDTH, CHANNELS] = DATA.image_shape;
const SIDE = 28, INK = 20, STROKE = 2.4;  // pixels: of MNIST's images, of the digit in them, of a pen's line

const CONSTANTS = Object.entries(DATA.program.constants).map(([name, [shape, text]]) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return [name, { shape, data: new Float32Array(bytes.buffer) }];
});

function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  return context;
}

// Lines of points, in one colour, from the coordinates of the paper into others.
function drawLines(context, lines, width, scale, left, top) {
  Object.assign(context, { strokeStyle: "#ffffff", lineWidth: width, lineCap: "round", lineJoin: "round" });
  for (const line of lines) {
    context.beginPath();
    for (const [x, y] of [line[0], ...line]) context.lineTo(x * scale + left, y * scale + top);
    context.stroke();
  }
}

// Drawn lines as MNIST's images are: the digit is 20 pixels high or wide, with its centre of mass in row and column 14.
function normalizeLines(lines) {
  const xs = lines.flat().map(([x]) => x), ys = lines.flat().map(([, y]) => y);
  const [left, top] = [Math.min(...xs), Math.min(...ys)];
  const [wide, high] = [Math.max(...xs) - left, Math.max(...ys) - top], room = INK - STROKE;
  const scale = room / Math.max(wide, high, at("paper").width * 0.15), fine = 8;  // a dot stays a dot
  const drawn = (x, y) => {  // as 8 x 8 smaller pixels each, whose mean is taken
    const context = canvasOf(SIDE * fine, SIDE * fine);
    drawLines(context, lines, STROKE * fine, scale * fine, (x - (left + wide / 2) * scale) * fine, (y - (top + high / 2) * scale) * fine);
    const pixels = context.getImageData(0, 0, SIDE * fine, SIDE * fine).data, out = new Float32Array(SIDE * SIDE);
    for (let i = 0; i < SIDE * SIDE * fine * fine; i++) {
      out[Math.floor(i / (SIDE * fine * fine)) * SIDE + Math.floor((i % (SIDE * fine)) / fine)] += pixels[4 * i + 3] / 255 / fine ** 2;
    }
    return out;
  };
  const first = drawn(SIDE / 2, SIDE / 2);
  let [mass, x, y] = [0, 0, 0];
  first.forEach((ink, i) => { mass += ink; x += ink * (i % SIDE); y += ink * Math.floor(i / SIDE); });
  return drawn(SIDE - x / mass, SIDE - y / mass);
}

// Grey pixels (28, 28) as floats, in the shape of the model's images.
function fit(pixels) {
  if (HEIGHT === SIDE && WIDTH === SIDE) return pixels;
  const small = canvasOf(SIDE, SIDE);
  putGrey(small, pixels, SIDE);
  return readPixels(small.canvas, [0, 0, SIDE, SIDE], [0, 0, WIDTH, HEIGHT]);
}

function putGrey(context, pixels, width) {
  const image = context.createImageData(width, pixels.length / width);
  pixels.forEach((light, i) => image.data.set([255 * light, 255 * light, 255 * light, 255], 4 * i));
  context.putImageData(image, 0, 0);
}

// A part (left, top, width, height) of a picture, put at a place of an image, as floats (H * W * C) in [0, 1]. The ground
// is black for things on a black ground; else white, as photographs have it where they are transparent.
function readPixels(picture, part, place) {
  const context = canvasOf(WIDTH, HEIGHT);
  context.fillStyle = DATA.light_on_dark ? "black" : "white";
  context.fillRect(0, 0, WIDTH, HEIGHT);
  context.drawImage(picture, ...part, ...place);
  const pixels = context.getImageData(0, 0, WIDTH, HEIGHT).data, out = new Float32Array(HEIGHT * WIDTH * CHANNELS);
  for (let i = 0; i < HEIGHT * WIDTH; i++) {
    const colour = pixels.subarray(4 * i, 4 * i + 3);
    if (CHANNELS === 1) out[i] = lightness(colour);
    else colour.forEach((value, channel) => { out[i * CHANNELS + channel] = value / 255; });
  }
  return out;
}

const lightness = ([red, green, blue]) => (0.299 * red + 0.587 * green + 0.114 * blue) / 255;

// A picture as an image: its middle, or, for models of things on a black ground, what differs from its ground.
function readPicture(picture) {
  const { width, height } = picture;
  if (!DATA.light_on_dark) {
    const scale = Math.max(WIDTH / width, HEIGHT / height), [wide, high] = [WIDTH / scale, HEIGHT / scale];
    return readPixels(picture, [(width - wide) / 2, (height - high) / 2, wide, high], [0, 0, WIDTH, HEIGHT]);
  }
  const smaller = Math.min(1, 400 / Math.max(width, height));
  const [wide, high] = [width, height].map((side) => Math.max(1, Math.round(side * smaller)));
  const context = canvasOf(wide, high);
  context.drawImage(picture, 0, 0, wide, high);
  const data = context.getImageData(0, 0, wide, high).data;
  const ink = Float32Array.from({ length: wide * high }, (_, i) => lightness(data.subarray(4 * i)));
  const cover = ink.map((_, i) => data[4 * i + 3] / 255), sum = (values) => values.reduce((one, other) => one + other, 0);
  const behind = sum(ink.map((value, i) => value * cover[i])) < sum(cover) / 2 ? 1 : 0; // transparent: what contrasts
  const grey = ink.map((value, i) => value * cover[i] + behind * (1 - cover[i]));
  const border = grey.filter((_, i) => i % wide === 0 || i % wide === wide - 1 || i < wide || i >= wide * (high - 1)).sort();
  const ground = border[border.length >> 1], most = Math.max(1e-6, 1 - Math.min(ground, 1 - ground));
  const light = grey.map((value) => Math.min(1, Math.max(0, (ground > 0.5 ? ground - value : value - ground) / most)));
  let [left, top, right, bottom] = [wide, high, 0, 0];
  light.forEach((value, i) => {
    if (value <= 0.1) return;
    [left, right] = [Math.min(left, i % wide), Math.max(right, (i % wide) + 1)];
    [top, bottom] = [Math.min(top, Math.floor(i / wide)), Math.floor(i / wide) + 1];
  });
  if (right <= left) return new Float32Array(HEIGHT * WIDTH * CHANNELS);
  putGrey(context, light, wide);
  const scale = Math.min(WIDTH / (right - left), HEIGHT / (bottom - top));
  const [w, h] = [(right - left) * scale, (bottom - top) * scale];
  return readPixels(context.canvas, [left, top, right - left, bottom - top], [(WIDTH - w) / 2, (HEIGHT - h) / 2, w, h]);
}

function showSeen(pixels) {
  const context = at("seen").getContext("2d"), image = context.createImageData(WIDTH, HEIGHT);
  for (let i = 0; i < HEIGHT * WIDTH; i++) {
    const colour = CHANNELS === 1 ? Array(3).fill(pixels[i]) : pixels.slice(i * CHANNELS, i * CHANNELS + 3);
    image.data.set([...Array.from(colour, (value) => 255 * value), 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
}

function show(pixels) {
  const started = performance.now(), [, shares] = run(DATA.program, CONSTANTS, pixels);
  const milliseconds = performance.now() - started, best = shares.indexOf(Math.max(...shares));
  showSeen(pixels);
  at("answer").textContent = `${DATA.class_names[best]}  ${percent(shares[best])}`;
  at("time").textContent = `computed in this page in ${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms, without a network`;
  const order = DATA.class_names.map((_, i) => i);
  if (order.length > MOST) order.sort((one, other) => shares[other] - shares[one]);
  [...at("classes").children].forEach((row, i) => {
    const own = order[i];
    row.title = row.querySelector(".name").textContent = DATA.class_names[own];
    row.classList.toggle("best", own === best);
    row.querySelector(".bar span").style.width = `${100 * shares[own]}%`;
    row.querySelector(".share").textContent = percent(shares[own]);
  });
}

const percent = (share) => `${(100 * share).toFixed(1)}%`;
const MOST = 12;  // classes that are shown; of more, the most probable ones

function clear() {
  at("answer").textContent = "\u00a0";
  at("time").textContent = "";
  at("seen").getContext("2d").clearRect(0, 0, WIDTH, HEIGHT);
  for (const row of at("classes").children) {
    row.classList.remove("best");
    row.querySelector(".bar span").style.width = 0;
    row.querySelector(".share").textContent = "";
  }
}

function letDraw() {
  const paper = at("paper"), context = paper.getContext("2d");
  let lines = [], pen = null, waiting = false;
  const place = (event) => {
    const box = paper.getBoundingClientRect();
    return [((event.clientX - box.left) * paper.width) / box.width, ((event.clientY - box.top) * paper.height) / box.height];
  };
  const update = () => {
    waiting = false;
    if (lines.length) show(fit(normalizeLines(lines)));
  };
  const redraw = () => {
    context.clearRect(0, 0, paper.width, paper.height);
    drawLines(context, lines, paper.width / 14, 1, 0, 0);
    if (!waiting) requestAnimationFrame(update);
    waiting = true;
  };
  const wipe = () => {
    lines = [];
    context.clearRect(0, 0, paper.width, paper.height);
    clear();
  };
  paper.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    pen = event.pointerId;
    paper.setPointerCapture(pen);
    lines.push([place(event)]);
    redraw();
  });
  paper.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pen) return;
    for (const one of event.getCoalescedEvents?.() ?? [event]) lines.at(-1).push(place(one));
    redraw();
  });
  for (const end of ["pointerup", "pointercancel"]) paper.addEventListener(end, () => { pen = null; });
  at("clear").addEventListener("click", wipe);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" || event.key === "Delete") wipe(); });
  paper.hidden = at("clear").hidden = false;
  at("hint").textContent = "draw with the mouse, a finger or a pen; Esc clears";
}

function letChoose() {
  const read = async (file) => {
    if (!file) return;
    try {
      const picture = await createImageBitmap(file);
      show(readPicture(picture));
    } catch {
      clear();
      at("answer").textContent = "not a picture";
    }
  };
  at("file").addEventListener("change", () => read(at("file").files[0]));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => { event.preventDefault(); read(event.dataTransfer.files[0]); });
  at("choose").hidden = false;
  at("hint").textContent = "or drop one here";
}

[at("seen").width, at("seen").height] = [WIDTH, HEIGHT];
at("classes").classList.toggle("digits", DATA.class_names.every((name) => name.length <= 2));
for (const name of DATA.class_names.slice(0, MOST)) {
  const row = document.createElement("li");
  for (const [kind, text] of [["name", name], ["bar", ""], ["share", ""]]) {
    const part = document.createElement("span");
    part.className = kind;
    part.textContent = text;
    if (kind === "bar") part.append(document.createElement("span"));
    row.append(part);
  }
  at("classes").append(row);
}
DATA.draws ? letDraw() : letChoose();
document.documentElement.dataset.ready = "true";
