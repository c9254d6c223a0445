// Readers of voice archives: ZIP, tables of tensors in .pth and .safetensors. Nothing in a file is executed.

const MAX_ENTRY_BYTES = 512 * 1024 * 1024;
const MAX_NUMBERS = 64 * 1024 * 1024; // of a tensor

class FileError extends Error {}

// The names of the entries of a ZIP archive, with a function that reads one: Uint8Array -> Map name -> () -> Uint8Array.
export function readZip(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let end = bytes.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  if (end < 0) throw new FileError("This is not a ZIP archive.");
  const entries = new Map();
  let at = view.getUint32(end + 16, true);
  for (let i = view.getUint16(end + 10, true); i > 0; i--) {
    if (at + 46 > bytes.length || view.getUint32(at, true) !== 0x02014b50) throw new FileError("The ZIP archive is damaged.");
    const [method, packed, size] = [view.getUint16(at + 10, true), view.getUint32(at + 20, true), view.getUint32(at + 24, true)];
    const [nameLength, extra, comment] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    const local = view.getUint32(at + 42, true);
    const name = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + nameLength));
    entries.set(name, () => readEntry(bytes, view, { name, method, packed, size, local }));
    at += 46 + nameLength + extra + comment;
  }
  return entries;
}

async function readEntry(bytes, view, { name, method, packed, size, local }) {
  if (size > MAX_ENTRY_BYTES || packed > MAX_ENTRY_BYTES) throw new FileError(`${name} is larger than 512 MB.`);
  if (local + 30 > bytes.length) throw new FileError("The ZIP archive is damaged.");
  const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
  const content = bytes.subarray(start, start + packed);
  if (content.length !== packed) throw new FileError("The ZIP archive is damaged.");
  if (method === 0) return content;
  if (method !== 8) throw new FileError(`${name} uses an unsupported compression method. Export the voice again.`);
  const reader = new Blob([content]).stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const whole = new Uint8Array(size);
  let filled = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (filled + part.value.length > size) throw new FileError(`${name} is larger than its declared size.`);
    whole.set(part.value, filled);
    filled += part.value.length;
  }
  return whole;
}

// float16 -> float32
function half(bits) {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const size = exponent === 0 ? fraction * 2 ** -24 : exponent === 31 ? (fraction ? NaN : Infinity) : (1 + fraction / 1024) * 2 ** (exponent - 15);
  return bits & 32768 ? -size : size;
}

// The numbers of a tensor as Float32Array.
function numbers(dtype, bytes, offset, count) {
  if (!(count >= 0 && count <= MAX_NUMBERS)) throw new FileError("A tensor of this voice is too large.");
  const width = { F32: 4, F16: 2, BF16: 2, I8: 1 }[dtype];
  if (!width) throw new FileError(`A tensor has the type ${dtype}, which is not supported here.`);
  if (offset + count * width > bytes.length) throw new FileError("The voice file is truncated.");
  const own = bytes.slice(offset, offset + count * width);
  if (dtype === "F32") return new Float32Array(own.buffer);
  if (dtype === "I8") return Float32Array.from(new Int8Array(own.buffer));
  const bits = new Uint16Array(own.buffer);
  const made = new Float32Array(count);
  if (dtype === "F16") for (let i = 0; i < count; i++) made[i] = half(bits[i]);
  else new Uint32Array(made.buffer).set(Uint32Array.from(bits, (b) => b << 16));
  return made;
}

const product = (shape) => shape.reduce((a, b) => a * b, 1);

// A .safetensors file: {tensors: Map name -> {shape, data}, about}. int8 matrices are multiplied by their scales.
export function readSafetensors(bytes) {
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true));
  if (length > bytes.length - 8) throw new FileError("The .safetensors file is damaged.");
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  const tensors = new Map();
  for (const [name, { dtype, shape, data_offsets: place }] of Object.entries(header)) {
    if (name !== "__metadata__") tensors.set(name, { shape, data: numbers(dtype, bytes, 8 + length + place[0], product(shape)) });
  }
  for (const [name, { shape, data }] of tensors) {
    const scale = tensors.get(`${name}.scale`);
    if (!scale) continue;
    const row = data.length / shape[0];
    for (let i = 0; i < data.length; i++) data[i] *= scale.data[Math.floor(i / row)];
    tensors.delete(`${name}.scale`);
  }
  return { tensors, about: header.__metadata__ ?? {} };
}

const STORAGES = { FloatStorage: "F32", HalfStorage: "F16", BFloat16Storage: "BF16" };

// A .pth file as PyTorch writes it: the object in it, with tensors as {shape, data}.
export async function readPth(bytes) {
  const entries = readZip(bytes);
  const main = [...entries.keys()].find((name) => name.endsWith("/data.pkl"));
  if (!main) throw new FileError("The .pth file was not written by PyTorch.");
  const folder = main.slice(0, -"data.pkl".length);
  const storages = new Map();
  const tensor = async ([storage, offset, shape]) => {
    const key = `${folder}data/${storage.key}`;
    if (!entries.has(key)) throw new FileError("The .pth file is damaged.");
    if (!storages.has(key)) storages.set(key, await entries.get(key)());
    const width = storage.dtype === "F32" ? 4 : 2;
    return { shape, data: numbers(storage.dtype, storages.get(key), offset * width, product(shape)) };
  };
  return resolve(unpickle(await entries.get(main)()), tensor);
}

class Later { constructor(parts) { this.parts = parts; } }

async function resolve(value, tensor) {
  if (value instanceof Later) return tensor(value.parts);
  if (Array.isArray(value)) return Promise.all(value.map((item) => resolve(item, tensor)));
  if (!(value instanceof Map)) return value;
  const made = new Map();
  for (const [key, item] of value) made.set(key, await resolve(item, tensor));
  return made;
}

// What a pickle of a voice model consists of. Only the three names below are known; everything else is refused.
const KNOWN = {
  "collections OrderedDict": () => new Map(),
  "torch._utils _rebuild_tensor_v2": ([storage, offset, shape]) => new Later([storage, offset, shape]),
};

function unpickle(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [stack, marks, memo] = [[], [], new Map()];
  let at = 0;
  const text = (length) => new TextDecoder().decode(bytes.subarray(at, (at += length)));
  const line = () => { const start = at; while (bytes[at] !== 10) { if (at >= bytes.length) throw new FileError("The .pth file is damaged."); at++; } return new TextDecoder().decode(bytes.subarray(start, at++)); };
  const sinceMark = () => stack.splice(marks.pop());
  const fill = (map, items) => { for (let i = 0; i < items.length; i += 2) map.set(items[i], items[i + 1]); };
  const named = (module, name) => {
    if (module === "torch" && STORAGES[name]) return { dtype: STORAGES[name] };
    const known = KNOWN[`${module} ${name}`];
    if (!known) throw new FileError(`The .pth file refers to ${module}.${name}, which is not safe. Get the voice from another source.`);
    return known;
  };
  while (at < bytes.length) {
    const code = bytes[at++];
    switch (code) {
      case 0x80: at++; break; // PROTO
      case 0x95: at += 8; break; // FRAME
      case 0x28: marks.push(stack.length); break; // MARK
      case 0x7d: stack.push(new Map()); break; // EMPTY_DICT
      case 0x5d: stack.push([]); break; // EMPTY_LIST
      case 0x29: stack.push([]); break; // EMPTY_TUPLE
      case 0x63: stack.push(named(line(), line())); break; // GLOBAL
      case 0x93: { const name = stack.pop(); stack.push(named(stack.pop(), name)); break; } // STACK_GLOBAL
      case 0x58: { const n = view.getUint32(at, true); at += 4; stack.push(text(n)); break; } // BINUNICODE
      case 0x8c: stack.push(text(bytes[at++])); break; // SHORT_BINUNICODE
      case 0x4b: stack.push(bytes[at++]); break; // BININT1
      case 0x4d: stack.push(view.getUint16(at, true)); at += 2; break; // BININT2
      case 0x4a: stack.push(view.getInt32(at, true)); at += 4; break; // BININT
      case 0x8a: { const n = bytes[at++]; let v = 0n; for (let i = n - 1; i >= 0; i--) v = (v << 8n) | BigInt(bytes[at + i]); at += n; stack.push(Number(BigInt.asIntN(8 * n, v))); break; } // LONG1
      case 0x47: stack.push(view.getFloat64(at)); at += 8; break; // BINFLOAT
      case 0x88: stack.push(true); break;
      case 0x89: stack.push(false); break;
      case 0x4e: stack.push(null); break;
      case 0x71: memo.set(bytes[at++], stack.at(-1)); break; // BINPUT
      case 0x72: memo.set(view.getUint32(at, true), stack.at(-1)); at += 4; break; // LONG_BINPUT
      case 0x94: memo.set(memo.size, stack.at(-1)); break; // MEMOIZE
      case 0x68: stack.push(memo.get(bytes[at++])); break; // BINGET
      case 0x6a: stack.push(memo.get(view.getUint32(at, true))); at += 4; break; // LONG_BINGET
      case 0x74: stack.push(sinceMark()); break; // TUPLE
      case 0x85: case 0x86: case 0x87: stack.push(stack.splice(stack.length - (code - 0x84))); break; // TUPLE1 to 3
      case 0x61: { const item = stack.pop(); stack.at(-1).push(item); break; } // APPEND
      case 0x65: { const items = sinceMark(); stack.at(-1).push(...items); break; } // APPENDS
      case 0x73: { const [key, item] = stack.splice(stack.length - 2); stack.at(-1).set(key, item); break; } // SETITEM
      case 0x75: { const items = sinceMark(); fill(stack.at(-1), items); break; } // SETITEMS
      case 0x52: { const args = stack.pop(); const make = stack.pop(); if (typeof make !== "function") throw new FileError("The .pth file is damaged."); stack.push(make(args)); break; } // REDUCE
      case 0x51: { const [, type, key] = stack.pop(); stack.push({ dtype: type.dtype, key }); break; } // BINPERSID
      case 0x62: stack.pop(); break; // BUILD: attributes of a dictionary, which are not needed
      case 0x2e: return stack.pop(); // STOP
      default: throw new FileError(`The .pth file contains the instruction ${code}, which voice files do not use.`);
    }
  }
  throw new FileError("The .pth file is truncated.");
}

// A voice from a ZIP archive, a .pth or a .safetensors file: {tensors, about}.
export async function readVoice(bytes, name) {
  if (/\.safetensors$/i.test(name)) return readSafetensors(bytes);
  if (/\.pth$/i.test(name)) {
    const content = await readPth(bytes);
    const weight = content instanceof Map ? content.get("weight") : null;
    if (!(weight instanceof Map)) throw new FileError("The .pth file holds no voice. Choose a voice, not a training checkpoint.");
    return { tensors: weight, about: Object.fromEntries([...content].filter(([key]) => key !== "weight")) };
  }
  const entries = readZip(bytes);
  const models = [...entries.keys()].filter((entry) => /\.(pth|safetensors)$/i.test(entry));
  if (models.length !== 1) throw new FileError(`The archive holds ${models.length} voice models instead of one. Export the voice again.`);
  return readVoice(await entries.get(models[0])(), models[0]);
}
