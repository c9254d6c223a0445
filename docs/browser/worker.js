// Web worker: loads ONNX Runtime, the networks and the voice, and converts.

import { readSafetensors, readVoice } from "./files.js";
import { HOP, LIMITS, Noise, RATE, estimateF0, finish, fourierBasis, join, medianF0, planChunks, prepareInput, reflected } from "./signal.js";

const VERSION = "1.30.0";
const RUNTIME = {
  "ort.wasm.bundle.min.mjs": "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
  "ort-wasm-simd-threaded.wasm": "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
};
const PLACES = ["ort/", `https://cdn.jsdelivr.net/npm/onnxruntime-web@${VERSION}/dist/`]; // a copy beside the page first
const ENCODER = "../../pretrained/lite/encoder.safetensors";
const CODE = { rate: 24000, hop: 240, nFft: 1024, receptive: 26, maxShift: 24 };
const [F0_MIN, F0_MAX] = [50, 1100]; // Hz

const tell = (text) => postMessage({ kind: "progress", text });
let ready; // {ort, sessions, weights}, a promise

async function runtimeFile(name) {
  for (const place of PLACES) {
    const answer = await fetch(place + name, { integrity: RUNTIME[name] }).catch(() => null);
    if (answer?.ok) return answer.arrayBuffer();
  }
  throw new Error(`ONNX Runtime (${name}) could not be loaded, neither from the folder ort beside this page nor from the network.`);
}

async function bytesOf(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address} could not be loaded (${answer.status}). Serve the project's folder, not only this page's.`);
  return new Uint8Array(await answer.arrayBuffer());
}

async function load() {
  tell("Loading ONNX Runtime …");
  const script = new Blob([await runtimeFile("ort.wasm.bundle.min.mjs")], { type: "text/javascript" });
  const ort = await import(URL.createObjectURL(script));
  ort.env.wasm.wasmBinary = await runtimeFile("ort-wasm-simd-threaded.wasm");
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  tell("Loading the networks …");
  const sessions = {};
  for (const name of ["swift_f0", "lite_encoder", "lite_prior", "lite_vocoder"]) {
    sessions[name] = await ort.InferenceSession.create(await bytesOf(`${name}.onnx`), { executionProviders: ["wasm"] });
  }
  const encoder = readSafetensors(await bytesOf(ENCODER)).tensors;
  encoder.set("basis", { shape: [402, 1, 400], data: fourierBasis(400) });
  const basis = { shape: [CODE.nFft + 2, 1, CODE.nFft], data: fourierBasis(CODE.nFft) };
  return { ort, sessions, encoder, basis };
}

// Run a network. `weights` holds its tensors under their names without `prefix`.
async function run({ ort, sessions }, name, inputs, weights = new Map(), prefix = "") {
  const session = sessions[name];
  const feeds = { ...inputs };
  for (const key of session.inputNames) {
    if (key in feeds) continue;
    const own = key.replace(/^network\./, prefix);
    const tensor = weights.get(own) ?? weights.get(key);
    if (!tensor) throw new Error(`The voice has no tensor ${own}. Only voices of the current lite family can be used here.`);
    feeds[key] = new ort.Tensor("float32", tensor.data, tensor.shape);
  }
  try {
    return await session.run(feeds);
  } finally {
    for (const key of Object.keys(feeds)) feeds[key].dispose?.();
  }
}

function floats(ort, data, shape) {
  return new ort.Tensor("float32", data, shape);
}

// {audio, voice, voiceName, shift, speaker} -> {samples, rate, shift}; audio is mono at 16 kHz, shift null: to the voice
async function convert({ audio, voice, voiceName, shift, speaker }) {
  const model = await readVoice(voice, voiceName);
  if (!model.tensors.has("enc_p.first.weight")) throw new Error("This is not a voice of the lite family. Only those can be used in a browser.");
  ready ??= load();
  ready.catch(() => { ready = undefined; });
  const loaded = await ready;
  const { ort } = loaded;
  const input = prepareInput(audio);
  const padded = reflected(input, LIMITS.pad * HOP);
  tell("Estimating F0 …");
  const f0 = await estimateF0(padded, async (samples) => {
    const scalar = (value) => new ort.Tensor("float32", [value], []);
    const found = await run(loaded, "swift_f0", { audio: floats(ort, samples, [1, samples.length]), fmin: scalar(F0_MIN), fmax: scalar(F0_MAX) });
    return [found.pitch.data, found.confidence.data];
  });
  shift ??= suggestedShift(f0, model);
  const target = f0.map((hertz) => hertz * Math.fround(2 ** (shift / 12)));
  const [chunks, noise, parts] = [planChunks(input), new Noise(0), []];
  const weights = new Map(model.tensors).set("basis", loaded.basis);
  for (const [i, chunk] of chunks.entries()) {
    tell(`Converting part ${i + 1} of ${chunks.length} …`);
    parts.push({ chunk, audio: await convertChunk(loaded, { chunk, padded, target, noise, weights, speaker }) });
  }
  const samples = Math.ceil((input.length * CODE.rate) / RATE);
  return { samples: finish(join(parts, samples, CODE.hop), CODE.rate, input), rate: CODE.rate, shift };
}

async function convertChunk(loaded, { chunk, padded, target, noise, weights, speaker }) {
  const { ort } = loaded;
  const end = chunk.stop + 2 * LIMITS.pad;
  const samples = padded.subarray(chunk.start * HOP, chunk.isLast ? padded.length : (end + 1) * HOP);
  const part = target.subarray(chunk.start, chunk.isLast ? target.length : end);
  const encoded = (await run(loaded, "lite_encoder", { audio: floats(ort, samples, [1, samples.length]) }, loaded.encoder)).content;
  const width = encoded.dims[2];
  const frames = Math.min(2 * encoded.dims[1], part.length);
  const content = new Float32Array(frames * width);
  for (let i = 0; i < frames; i++) content.set(encoded.data.subarray((i >> 1) * width, ((i >> 1) + 1) * width), i * width);
  const hertz = part.slice(0, frames);
  const speakers = new ort.Tensor("int64", BigInt64Array.of(BigInt(speaker)), [1]);
  const mel = (await run(loaded, "lite_prior", { content: floats(ort, content, [1, frames, width]), f0: floats(ort, hertz, [1, frames]), speaker: speakers }, weights)).mel;
  const first = LIMITS.pad - (chunk.start ? 1 : 0);
  const last = chunk.stop - chunk.start + LIMITS.pad + (chunk.isLast ? 0 : 1);
  const [begin, stop] = [Math.max(first - CODE.receptive, 0), Math.min(last + CODE.receptive, frames)];
  const bands = mel.dims[2];
  const made = await run(loaded, "lite_vocoder", {
    mel: floats(ort, mel.data.slice(begin * bands, stop * bands), [1, stop - begin, bands]),
    f0: floats(ort, hertz.slice(begin, stop), [1, stop - begin]),
    noise: floats(ort, noise.normal((stop - begin) * CODE.hop), [1, (stop - begin) * CODE.hop]),
  }, weights, "dec.");
  return made.audio.data.slice((first - begin) * CODE.hop, (last - begin) * CODE.hop);
}

// Whole semitones from the median F0 of the recording to that of the voice's recordings; 0 if either is unknown.
function suggestedShift(f0, model) {
  const stored = model.about.training_f0;
  const range = typeof stored === "string" ? JSON.parse(stored) : stored;
  const [from, to] = [medianF0(f0), range?.[1]];
  if (!(from > 0 && to > 0)) return 0;
  return Math.max(-CODE.maxShift, Math.min(CODE.maxShift, Math.round(12 * Math.log2(to / from))));
}

onmessage = async ({ data }) => {
  try {
    const begin = performance.now();
    const made = await convert(data);
    postMessage({ kind: "done", ...made, seconds: (performance.now() - begin) / 1000 }, [made.samples.buffer]);
  } catch (error) {
    postMessage({ kind: "error", text: error.message });
  }
};
