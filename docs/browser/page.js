// The page: accepts the files, decodes the recording, and shows the result with a download link.

const RATE = 16000; // Hz, of the analysis
const byId = (id) => document.getElementById(id);
const worker = new Worker("worker.js", { type: "module" });
const files = { voice: null, recording: null };

function showStatus(text, isError = false) {
  byId("status").textContent = text;
  byId("status").className = isError ? "error" : "";
}

function setFile(kind, file) {
  if (!file) return;
  files[kind] = file;
  byId(`${kind}-name`).textContent = file.name;
  byId("convert").disabled = !(files.voice && files.recording);
}

for (const kind of Object.keys(files)) {
  const field = byId(kind);
  const zone = field.closest(".zone");
  field.addEventListener("change", () => setFile(kind, field.files[0]));
  zone.addEventListener("dragover", (event) => event.preventDefault());
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    setFile(kind, event.dataTransfer.files[0]);
  });
}

// Any recording that the browser can decode -> mono samples at 16 kHz.
async function decode(file) {
  let buffer;
  try {
    buffer = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new Error(`${file.name} cannot be decoded by this browser. Save it as WAV, MP3 or FLAC.`);
  }
  const mono = new Float32Array(buffer.length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    buffer.getChannelData(channel).forEach((value, i) => { mono[i] += value / buffer.numberOfChannels; });
  }
  return mono;
}

// A WAV file of 16-bit samples.
function wav(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, word) => [...word].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  const size = 2 * samples.length;
  text(0, "RIFF"); view.setUint32(4, 36 + size, true); text(8, "WAVEfmt "); view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); view.setUint16(22, 1, true); view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true); view.setUint16(34, 16, true); text(36, "data"); view.setUint32(40, size, true);
  samples.forEach((value, i) => view.setInt16(44 + 2 * i, Math.round(Math.max(-1, Math.min(1, value)) * 32767), true));
  return new Blob([view.buffer], { type: "audio/wav" });
}

byId("convert").addEventListener("click", async () => {
  byId("convert").disabled = true;
  byId("result").hidden = true;
  try {
    showStatus("Decoding the recording …");
    const audio = await decode(files.recording);
    const voice = new Uint8Array(await files.voice.arrayBuffer());
    const wanted = byId("shift").value;
    const job = { audio, voice, voiceName: files.voice.name, shift: wanted === "" ? null : Number(wanted), speaker: 0 };
    worker.postMessage(job, [audio.buffer, voice.buffer]);
  } catch (error) {
    showStatus(error.message, true);
    byId("convert").disabled = false;
  }
});

worker.onerror = (event) => showStatus(event.message || "The page could not start. Serve its folder by HTTP; a file opened directly does not work.", true);

worker.onmessage = ({ data }) => {
  if (data.kind === "progress") return showStatus(data.text);
  byId("convert").disabled = false;
  if (data.kind === "error") return showStatus(data.text, true);
  const seconds = data.samples.length / data.rate;
  showStatus(`${seconds.toFixed(1)} s converted in ${data.seconds.toFixed(1)} s, transposed by ${data.shift} semitones.`);
  const address = URL.createObjectURL(wav(data.samples, data.rate));
  byId("player").src = address;
  byId("save").href = address;
  byId("save").download = `${files.recording.name.replace(/\.[^.]*$/, "")}-converted.wav`;
  byId("result").hidden = false;
};
