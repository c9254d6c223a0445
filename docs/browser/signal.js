// Signal processing before and after the networks, with the constants of the Python program (infer/, lib/).

export const RATE = 16000; // Hz, of the analysis
export const HOP = 160; // samples, 10 ms
const [CUTOFF, ORDER, EXTENSION] = [48, 5, 18];
const [FADE, ENVELOPE_RATE, RMS_FLOOR] = [1, 2, 1e-6];
const [STEP, CORE, MARGIN, VOICED, SILENCE] = [256, 1024, 64, 0.5, 1e-3]; // of the pitch network
export const LIMITS = { pad: 100, longest: 23.5, center: 16, query: 3.5 }; // frames; seconds: the encoder takes 26 s at once

const times = ([a, b], [c, d]) => [a * c - b * d, a * d + b * c];
const over = ([a, b], [c, d]) => { const n = c * c + d * d; return [(a * c + b * d) / n, (b * c - a * d) / n]; };
const minus = ([a, b], [c, d]) => [a - c, b - d];

// Butterworth high-pass, as five first-order sections; runs over x from a settled state. Float64Array -> Float64Array.
function highpassOnce(x) {
  const poles = [];
  const warped = Math.tan((Math.PI * CUTOFF) / RATE);
  for (let k = 1; k <= ORDER; k++) {
    const angle = (Math.PI * (2 * k + ORDER - 1)) / (2 * ORDER);
    const analogue = [warped * Math.cos(angle), -warped * Math.sin(angle)];
    poles.push(over([1 + analogue[0], analogue[1]], [1 - analogue[0], -analogue[1]]));
  }
  const direct = poles.reduce((all, [a, b]) => times(all, [(1 + a) / 2, b / 2]), [1, 0])[0];
  const residues = poles.map((pole, i) => {
    let top = [direct, 0];
    for (let k = 0; k < ORDER; k++) top = times(top, [pole[0] - 1, pole[1]]);
    return over(top, poles.reduce((all, other, j) => (i === j ? all : times(all, minus(pole, other))), [1, 0]));
  });
  const state = poles.map((pole) => over([x[0], 0], [1 - pole[0], -pole[1]]));
  const out = new Float64Array(x.length);
  for (let i = 0; i < x.length; i++) {
    let sum = direct * x[i];
    for (let k = 0; k < ORDER; k++) {
      const [re, im] = state[k];
      sum += residues[k][0] * re - residues[k][1] * im;
      state[k][0] = poles[k][0] * re - poles[k][1] * im + x[i];
      state[k][1] = poles[k][0] * im + poles[k][1] * re;
    }
    out[i] = sum;
  }
  return out;
}

// Limit the peak, remove rumble in both directions. Float32Array -> Float32Array.
export function prepareInput(audio) {
  let peak = 0;
  for (const value of audio) peak = Math.max(peak, Math.abs(value));
  if (!(peak > 1e-5)) throw new Error("The recording holds only silence. Choose another one.");
  if (audio.length < 0.05 * RATE) throw new Error("The recording is shorter than 0.05 s. Choose a longer one.");
  const x = Float64Array.from(audio, (value) => value / Math.max(peak / 0.95, 1));
  const n = Math.min(EXTENSION, x.length - 1);
  const long = new Float64Array(x.length + 2 * n);
  long.set(x, n);
  for (let i = 1; i <= n; i++) {
    long[n - i] = 2 * x[0] - x[i];
    long[n + x.length - 1 + i] = 2 * x.at(-1) - x.at(-1 - i);
  }
  return Float32Array.from(highpassOnce(highpassOnce(long).reverse()).reverse().subarray(n, n + x.length));
}

// The audio with `pad` samples of its reflection at both ends.
export function reflected(audio, pad) {
  const last = audio.length - 1;
  const out = new Float32Array(audio.length + 2 * pad);
  for (let i = 0; i < out.length; i++) {
    const at = i - pad + last;
    out[i] = audio[Math.abs((((at % (2 * last)) + 2 * last) % (2 * last)) - last)];
  }
  return out;
}

// Chunks [start, stop) in frames of 10 ms, cut at quiet points.
export function planChunks(audio) {
  const frames = Math.ceil(audio.length / HOP);
  const bounds = [0];
  const [center, query] = [LIMITS.center * RATE, LIMITS.query * RATE];
  if (audio.length + HOP > LIMITS.longest * RATE) {
    for (let middle = center; middle < audio.length; middle += center) {
      const [first, last] = [middle - query, Math.min(middle + query, audio.length - HOP)];
      let energy = 0;
      for (let i = 0; i < HOP; i++) energy += Math.abs(audio[first - HOP / 2 + i]);
      let [best, where] = [Infinity, first];
      for (let at = first; at < last; at++) {
        if (energy < best) [best, where] = [energy, at];
        energy += Math.abs(audio[at + HOP / 2] ?? 0) - Math.abs(audio[at - HOP / 2]);
      }
      const frame = Math.floor(where / HOP);
      if (frame > bounds.at(-1) && frame < frames) bounds.push(frame);
    }
  }
  bounds.push(frames);
  return bounds.slice(1).map((stop, i) => ({ start: bounds[i], stop, isLast: stop === frames }));
}

// Linear interpolation as numpy.interp: values at `at`, of points (xs, ys) in ascending order.
function interpolate(at, xs, ys) {
  const out = new Float64Array(at.length);
  let k = 0;
  for (let i = 0; i < at.length; i++) {
    while (k + 1 < xs.length && xs[k + 1] <= at[i]) k++;
    if (at[i] <= xs[0]) out[i] = ys[0];
    else if (k + 1 >= xs.length) out[i] = ys.at(-1);
    else out[i] = ys[k] + ((ys[k + 1] - ys[k]) * (at[i] - xs[k])) / (xs[k + 1] - xs[k]);
  }
  return out;
}

// F0 in Hz at 100 frames/s, 0 where unvoiced. `network` takes samples, returns [pitch, confidence] at every 256th.
export async function estimateF0(audio, network) {
  const steps = Math.floor(audio.length / STEP);
  const [when, pitch, confidence] = [[], [], []];
  const whole = steps <= CORE + 2 * MARGIN;
  for (let first = 0; first < steps; first += whole ? steps : CORE) {
    const start = whole ? 0 : Math.max(0, first - MARGIN);
    const stop = whole ? steps : Math.min(steps, first + CORE + MARGIN);
    const samples = audio.subarray(start * STEP, stop === steps ? audio.length : stop * STEP);
    const [hertz, sure] = await network(samples);
    const keep = whole ? steps : Math.min(first + CORE, steps) - start;
    for (let i = first - start; i < keep; i++) {
      let peak = 0;
      for (let j = i * STEP; j < (i + 1) * STEP; j++) peak = Math.max(peak, Math.abs(samples[j]));
      when.push(((start + i) * STEP) / RATE);
      pitch.push(hertz[i]);
      confidence.push(peak < SILENCE ? 0 : sure[i]);
    }
  }
  const frames = Float64Array.from({ length: Math.floor(audio.length / HOP) }, (_, i) => i / 100);
  const voiced = confidence.map((value, i) => (value >= VOICED ? i : -1)).filter((i) => i >= 0);
  if (!voiced.length) return new Float32Array(frames.length);
  const logarithm = interpolate(frames, voiced.map((i) => when[i]), voiced.map((i) => Math.log(pitch[i])));
  return Float32Array.from(interpolate(frames, when, confidence), (sure, i) => (sure >= VOICED ? Math.exp(logarithm[i]) : 0));
}

// The median of the voiced frames; 0 without any.
export function medianF0(f0) {
  const voiced = f0.filter((value) => value > 0).sort();
  return voiced.length ? voiced[voiced.length >> 1] : 0;
}

// Kernels of the windowed DFT, real parts then imaginary ones: (2 * (n / 2 + 1)) * n numbers.
export function fourierBasis(n) {
  const bins = n / 2 + 1;
  const out = new Float32Array(2 * bins * n);
  for (let k = 0; k < bins; k++) {
    for (let i = 0; i < n; i++) {
      const angle = (((k * i) % n) * 2 * Math.PI) / n;
      const window = 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / n);
      out[k * n + i] = Math.cos(angle) * window;
      out[(bins + k) * n + i] = -Math.sin(angle) * window;
    }
  }
  return out;
}

// Normal noise as PyTorch draws it on a CPU: Mersenne twister, then Box-Muller on blocks of 16.
export class Noise {
  constructor(seed) {
    this.state = new Uint32Array(624);
    this.state[0] = seed;
    for (let i = 1; i < 624; i++) {
      const before = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
      this.state[i] = Math.imul(before, 1812433253) + i;
    }
    this.at = 624;
  }

  next() {
    const s = this.state;
    if (this.at === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (s[i] & 0x80000000) | (s[(i + 1) % 624] & 0x7fffffff);
        s[i] = s[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      this.at = 0;
    }
    let y = s[this.at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  normal(count) { // at least 16
    const out = new Float32Array(count);
    for (let i = 0; i < count; i++) out[i] = (this.next() & 0xffffff) / 16777216;
    const shape = (first) => {
      for (let i = first; i < first + 8; i++) {
        const [radius, angle] = [Math.sqrt(-2 * Math.log(1 - out[i])), 2 * Math.PI * out[i + 8]];
        out[i] = radius * Math.cos(angle);
        out[i + 8] = radius * Math.sin(angle);
      }
    };
    for (let first = 0; first + 15 < count; first += 16) shape(first);
    if (count % 16) {
      for (let i = count - 16; i < count; i++) out[i] = (this.next() & 0xffffff) / 16777216;
      shape(count - 16);
    }
    return out;
  }
}

// Join the samples of chunks, each with a cross-fade frame at its inner ends.
export function join(parts, samples, hop) {
  const out = new Float32Array(samples);
  const fade = 2 * FADE * hop;
  for (const { chunk, audio } of parts) {
    const begin = Math.max(chunk.start - FADE, 0) * hop;
    for (let i = 0; i < audio.length && begin + i < samples; i++) {
      const weight = chunk.start && i < fade ? Math.sin((Math.PI / 2) * ((i + 0.5) / fade)) ** 2 : 1;
      out[begin + i] += weight * (audio[i] - out[begin + i]);
    }
  }
  return out;
}

function envelope(audio, rate) {
  const hop = Math.floor(rate / ENVELOPE_RATE);
  const energy = [0];
  for (let i = 0; i <= Math.floor(audio.length / hop); i++) {
    let sum = 0;
    for (let j = i * hop; j < Math.min((i + 1) * hop, audio.length); j++) sum += audio[j] * audio[j];
    energy.push(sum);
  }
  return energy.slice(1).map((value, i) => Math.sqrt((energy[i] + value) / (2 * hop)));
}

// Apply the loudness envelope of the source to the audio (`mix` 0: fully, 1: not at all), and limit the peak.
export function finish(audio, rate, source, mix = 0.25) {
  const [wanted, own] = [envelope(source, RATE), envelope(audio, rate)];
  const places = (curve) => {
    const at = Float64Array.from(audio, (_, i) => ((i + 0.5) / audio.length) * curve.length - 0.5);
    return interpolate(at, curve.map((_, i) => i), curve);
  };
  const [target, present] = [places(wanted), places(own)];
  const out = audio.map((value, i) => value * (target[i] / Math.max(present[i], RMS_FLOOR)) ** (1 - mix));
  const peak = out.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return peak > 0.99 ? out.map((value) => (value * 0.99) / peak) : out;
}
