// Computes a model: the operations of its jaxpr, in their order. A value is {shape, data}, in row-major order.
"use strict";

const sizeOf = (shape) => shape.reduce((product, side) => product * side, 1);
const stridesOf = (shape) => shape.map((_, axis) => sizeOf(shape.slice(axis + 1)));
const make = (shape) => ({ shape, data: new Float32Array(sizeOf(shape)) });

// Copies places of one array to places of another: those of `shape`, from an offset on, with a stride for each axis.
function move(to, toStart, toStrides, from, fromStart, fromStrides, shape) {
  const last = shape.length - 1;
  const walk = (axis, target, source) => {
    if (axis > last) to[target] = from[source];
    else if (axis === last) {
      const [wide, deep] = [toStrides[axis], fromStrides[axis]];
      for (let i = 0; i < shape[axis]; i++) to[target + i * wide] = from[source + i * deep];
    } else for (let i = 0; i < shape[axis]; i++) walk(axis + 1, target + i * toStrides[axis], source + i * fromStrides[axis]);
  };
  walk(0, toStart, fromStart);
}

function transpose(x, order) {
  if (order.every((axis, place) => axis === place)) return x;
  const out = make(order.map((axis) => x.shape[axis]));
  const strides = stridesOf(x.shape);
  move(out.data, 0, stridesOf(out.shape), x.data, 0, order.map((axis) => strides[axis]), out.shape);
  return out;
}

// The products (batch, m, n) of matrices (batch, m, k) and (batch, k, n).
function multiply(x, y, batch, m, k, n) {
  const out = new Float32Array(batch * m * n), row = new Float64Array(n);
  for (let b = 0; b < batch; b++) {
    for (let i = 0; i < m; i++) {
      row.fill(0);
      for (let j = 0; j < k; j++) {
        const factor = x[(b * m + i) * k + j];
        if (factor === 0) continue;
        const start = (b * k + j) * n;
        for (let o = 0; o < n; o++) row[o] += factor * y[start + o];
      }
      out.set(row, (b * m + i) * n);
    }
  }
  return out;
}

function dot(x, y, { contract, batch }) {
  const free = (value, side) => value.shape.map((_, axis) => axis).filter((axis) => !contract[side].includes(axis) && !batch[side].includes(axis));
  const [left, right] = [free(x, 0), free(y, 1)];
  const sides = (value, axes) => axes.map((axis) => value.shape[axis]);
  const [batches, m, k, n] = [sides(x, batch[0]), sides(x, left), sides(x, contract[0]), sides(y, right)];
  const one = transpose(x, [...batch[0], ...left, ...contract[0]]);
  const other = transpose(y, [...batch[1], ...contract[1], ...right]);
  const data = multiply(one.data, other.data, sizeOf(batches), sizeOf(m), sizeOf(k), sizeOf(n));
  return { shape: [...batches, ...m, ...n], data };
}

// A convolution of images (B, H, W, C) with kernels (h, w, C / groups, D).
function convolve(images, kernels, { strides, padding, dilation, groups }) {
  const [count, height, width, channels] = images.shape, [kh, kw, inner, outer] = kernels.shape;
  const side = (length, axis, kernel) =>
    Math.floor((length + padding[axis][0] + padding[axis][1] - dilation[axis] * (kernel - 1) - 1) / strides[axis]) + 1;
  const out = make([count, side(height, 0, kh), side(width, 1, kw), outer]);
  const [, rows, columns] = out.shape, sums = new Float64Array(outer), share = outer / groups;
  const x = images.data, w = kernels.data;
  for (let b = 0, place = 0; b < count; b++) {
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++, place += outer) {
        sums.fill(0);
        for (let i = 0; i < kh; i++) {
          const row = r * strides[0] + i * dilation[0] - padding[0][0];
          if (row < 0 || row >= height) continue;
          for (let j = 0; j < kw; j++) {
            const column = c * strides[1] + j * dilation[1] - padding[1][0];
            if (column < 0 || column >= width) continue;
            const pixel = ((b * height + row) * width + column) * channels, kernel = (i * kw + j) * inner * outer;
            for (let g = 0; g < groups; g++) {
              for (let a = 0; a < inner; a++) {
                const factor = x[pixel + g * inner + a];
                if (factor === 0) continue;
                const start = kernel + a * outer;
                for (let o = g * share; o < (g + 1) * share; o++) sums[o] += factor * w[start + o];
              }
            }
          }
        }
        out.data.set(sums, place);
      }
    }
  }
  return out;
}

// Joins the values along `axes`, which disappear.
function reduce(x, axes, first, join) {
  const kept = x.shape.map((_, axis) => axis).filter((axis) => !axes.includes(axis));
  const moved = transpose(x, [...kept, ...axes]), out = make(kept.map((axis) => x.shape[axis]));
  const length = sizeOf(axes.map((axis) => x.shape[axis]));
  for (let i = 0; i < out.data.length; i++) {
    let value = first;
    for (let j = 0; j < length; j++) value = join(value, moved.data[i * length + j]);
    out.data[i] = value;
  }
  return out;
}

// Joins the values of each window; the padding has the value `first`.
function reduceWindows(x, { window, strides, padding }, first, join) {
  const padded = pad(x, first, padding.map(([low, high]) => [low, high, 0]));
  const out = make(padded.shape.map((side, axis) => Math.floor((side - window[axis]) / strides[axis]) + 1));
  const inside = stridesOf(padded.shape), step = inside.map((stride, axis) => stride * strides[axis]);
  const part = make(out.shape), outStrides = stridesOf(out.shape);
  out.data.fill(first);
  for (let place = 0; place < sizeOf(window); place++) {
    const offset = stridesOf(window).reduce((sum, stride, axis) => sum + (Math.floor(place / stride) % window[axis]) * inside[axis], 0);
    move(part.data, 0, outStrides, padded.data, offset, step, out.shape);
    for (let i = 0; i < out.data.length; i++) out.data[i] = join(out.data[i], part.data[i]);
  }
  return out;
}

function pad(x, value, sides) {
  const out = make(x.shape.map((side, axis) => side + sides[axis][0] + sides[axis][1] + Math.max(0, side - 1) * sides[axis][2]));
  const strides = stridesOf(out.shape), shape = [...x.shape], starts = [];
  out.data.fill(value);
  const kept = shape.map((side, axis) => {  // of each axis: the first and the number of the places that stay inside
    const step = sides[axis][2] + 1, low = sides[axis][0];
    const first = Math.max(0, Math.ceil(-low / step)), end = Math.min(side, Math.floor((out.shape[axis] - 1 - low) / step) + 1);
    starts.push(first);
    return Math.max(0, end - first);
  });
  const from = stridesOf(x.shape);
  const target = strides.reduce((sum, stride, axis) => sum + stride * (sides[axis][0] + starts[axis] * (sides[axis][2] + 1)), 0);
  const source = from.reduce((sum, stride, axis) => sum + stride * starts[axis], 0);
  move(out.data, target, strides.map((stride, axis) => stride * (sides[axis][2] + 1)), x.data, source, from, kept);
  return out;
}

function slice(x, { start, limit, strides }) {
  const out = make(start.map((first, axis) => Math.ceil((limit[axis] - first) / strides[axis])));
  const from = stridesOf(x.shape);
  const offset = from.reduce((sum, stride, axis) => sum + stride * start[axis], 0);
  move(out.data, 0, stridesOf(out.shape), x.data, offset, from.map((stride, axis) => stride * strides[axis]), out.shape);
  return out;
}

function concatenate(values, axis) {
  const shape = [...values[0].shape];
  shape[axis] = values.reduce((sum, value) => sum + value.shape[axis], 0);
  const out = make(shape), strides = stridesOf(shape);
  let place = 0;
  for (const value of values) {
    move(out.data, place * strides[axis], strides, value.data, 0, stridesOf(value.shape), value.shape);
    place += value.shape[axis];
  }
  return out;
}

function broadcast(x, { shape, axes }) {
  const out = make(shape), strides = stridesOf(x.shape), from = shape.map(() => 0);
  axes.forEach((axis, own) => { from[axis] = x.shape[own] === 1 ? 0 : strides[own]; });
  move(out.data, 0, stridesOf(shape), x.data, 0, from, shape);
  return out;
}

function choose(which, cases) {
  const out = make(cases[0].shape), single = which.data.length === 1;
  for (let i = 0; i < out.data.length; i++) out.data[i] = cases[which.data[single ? 0 : i]].data[i];
  return out;
}

function erf(x) {  // its series, and beyond 3 its continued fraction
  const size = Math.abs(x);
  if (size < 3) {
    let term = x, sum = x;
    for (let n = 1; Math.abs(term) > 1e-17; n++) sum += (term *= (-x * x) / n) / (2 * n + 1);
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let n = 40; n > 0; n--) fraction = n / 2 / (size + fraction);
  return Math.sign(x) * (1 - Math.exp(-x * x) / Math.sqrt(Math.PI) / (size + fraction));
}

const UNARY = {
  abs: Math.abs, ceil: Math.ceil, cos: Math.cos, erf, exp: Math.exp, expm1: Math.expm1, floor: Math.floor,
  is_finite: (x) => +Number.isFinite(x), log: Math.log, log1p: Math.log1p, logistic: (x) => 1 / (1 + Math.exp(-x)),
  neg: (x) => -x, not: (x) => +!x, rsqrt: (x) => 1 / Math.sqrt(x), sign: Math.sign, sin: Math.sin, sqrt: Math.sqrt,
  square: (x) => x * x, tanh: Math.tanh,
};
const BINARY = {
  add: (x, y) => x + y, add_any: (x, y) => x + y, and: (x, y) => +(x && y), div: (x, y) => x / y, eq: (x, y) => +(x === y),
  ge: (x, y) => +(x >= y), gt: (x, y) => +(x > y), le: (x, y) => +(x <= y), lt: (x, y) => +(x < y), max: Math.max,
  min: Math.min, mul: (x, y) => x * y, ne: (x, y) => +(x !== y), or: (x, y) => +(x || y), pow: Math.pow, sub: (x, y) => x - y,
};

function each(values, shape, compute) {
  const out = make(shape), axes = shape.map((_, axis) => axis);
  const [x, y] = values.map((value) => ([1, out.data.length].includes(value.data.length) ? value : broadcast(value, { shape, axes })));
  const one = x.data.length === 1 ? 0 : 1, other = y && y.data.length !== 1 ? 1 : 0;
  if (y) for (let i = 0; i < out.data.length; i++) out.data[i] = compute(x.data[i * one], y.data[i * other]);
  else for (let i = 0; i < out.data.length; i++) out.data[i] = compute(x.data[i]);
  return out;
}

function compute(name, values, own) {
  const [x, y] = values;
  if (name in UNARY) return each([x], own.shape, UNARY[name]);
  if (name in BINARY) return each(values, own.shape, BINARY[name]);
  switch (name) {
    case "copy": case "stop_gradient": return x;
    case "expand_dims": case "reshape": case "squeeze": return { shape: own.shape, data: x.data };
    case "convert_element_type": return own.whole ? each([x], own.shape, Math.trunc) : x;
    case "integer_pow": return each([x], own.shape, (value) => value ** own.power);
    case "clamp": return each([each([y, x], own.shape, Math.max), values[2]], own.shape, Math.min);
    case "broadcast_in_dim": return broadcast(x, own);
    case "concatenate": return concatenate(values, own.axis);
    case "conv_general_dilated": return transpose(convolve(transpose(x, own.images), transpose(y, own.kernels), own), own.out);
    case "dot_general": return dot(x, y, own);
    case "pad": return pad(x, y.data[0], own.sides);
    case "reduce_max": return reduce(x, own.axes, -Infinity, Math.max);
    case "reduce_min": return reduce(x, own.axes, Infinity, Math.min);
    case "reduce_sum": return reduce(x, own.axes, 0, (sum, value) => sum + value);
    case "reduce_window_max": return reduceWindows(x, own, -Infinity, Math.max);
    case "reduce_window_sum": return reduceWindows(x, own, 0, (sum, value) => sum + value);
    case "select_n": return choose(x, values.slice(1));
    case "slice": return slice(x, own);
    case "stack": return concatenate(values.map((value) => ({ shape: value.shape.toSpliced(own.axis, 0, 1), data: value.data })), own.axis);
    case "transpose": return transpose(x, own.order);
  }
  throw new Error(`no operation ${name}`);
}

// The outputs of a program, as Python writes it, for one image of pixels in [0, 1].
function run(program, constants, pixels) {
  const values = new Map([["image", { shape: program.image, data: pixels }], ...constants]);
  for (const [name, inputs, output, own] of program.operations) {
    values.set(output, compute(name, inputs.map((input) => (typeof input === "number" ? { shape: [], data: [input] } : values.get(input))), own));
  }
  return program.outputs.map((output) => values.get(output).data);
}
