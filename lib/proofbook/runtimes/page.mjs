// What the page does when it is asked: onnxruntime-web as its users call it, with tensors as safetensors.

// by their names in safetensors: those of ONNX Runtime, and the arrays that hold them
const KINDS = {
  F64: ["float64", Float64Array],
  F32: ["float32", Float32Array],
  F16: ["float16", globalThis.Float16Array ?? Uint16Array],
  I64: ["int64", BigInt64Array],
  I32: ["int32", Int32Array],
  I16: ["int16", Int16Array],
  I8: ["int8", Int8Array],
  U8: ["uint8", Uint8Array],
  BOOL: ["bool", Uint8Array],
};
const sessions = new Map();
let ort;

// Load the library, once.
export async function load(library, threads) {
  ort ??= await import(library);
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
}

// Make a session of a file, under a number.
export async function open(number, file, provider, options) {
  sessions.set(number, await ort.InferenceSession.create(file, { executionProviders: [provider], ...options }));
}

// Take inputs from an address, and send the outputs of some names there.
export async function run(number, address, names) {
  const session = sessions.get(number);
  const inputs = Object.entries(unpacked(await (await fetch(address)).arrayBuffer()));
  // what no output depends on is not an input
  const read = Object.fromEntries(inputs.filter(([name]) => session.inputNames.includes(name)));
  const made = await session.run(read, names);
  await fetch(address, { method: "POST", body: packed(made) });
}

// Print what ran where to the console.
export function profile(number) {
  sessions.get(number).endProfiling();
}

export async function close(number) {
  await sessions.get(number)?.release();
  sessions.delete(number);
}

// The graphics adapter: that which the library computes with once it does, else the first; null where there is none.
export async function adapter() {
  const used = (ort?.env.webgpu?.device && (await ort.env.webgpu.device)) || (await navigator.gpu?.requestAdapter());
  const info = used?.adapterInfo ?? used?.info;
  if (!info) return null;
  const name = [info.description, info.device, info.architecture, info.vendor].filter(Boolean).join(", ");
  return { name, software: info.isFallbackAdapter };
}

// The product of two 8×8 matrices, computed by the graphics adapter.
export async function product(a, b) {
  const device = await (await navigator.gpu.requestAdapter()).requestDevice();
  const code = `
    @group(0) @binding(0) var<storage, read> a: array<f32>;
    @group(0) @binding(1) var<storage, read> b: array<f32>;
    @group(0) @binding(2) var<storage, read_write> c: array<f32>;
    @compute @workgroup_size(8, 8) fn main(@builtin(local_invocation_id) at: vec3u) {
      for (var k = 0u; k < 8u; k++) { c[at.y * 8 + at.x] += a[at.y * 8 + k] * b[k * 8 + at.x]; }
    }`;
  const pipeline = device.createComputePipeline({ layout: "auto", compute: { module: device.createShaderModule({ code }) } });
  const { STORAGE, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
  const size = 256;
  const buffers = [0, 1, 2].map(() => device.createBuffer({ size, usage: STORAGE | COPY_SRC | COPY_DST }));
  const read = device.createBuffer({ size, usage: MAP_READ | COPY_DST });
  [a, b].forEach((values, at) => device.queue.writeBuffer(buffers[at], 0, new Float32Array(values)));
  const entries = buffers.map((buffer, binding) => ({ binding, resource: { buffer } }));
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }));
  pass.dispatchWorkgroups(1);
  pass.end();
  encoder.copyBufferToBuffer(buffers[2], 0, read, 0, size);
  device.queue.submit([encoder.finish()]);
  await read.mapAsync(GPUMapMode.READ);
  return [...new Float32Array(read.getMappedRange())];
}

// The layout of safetensors: the length of a table, the table as JSON, then the bytes that it points into.
function unpacked(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const table = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(table)) {
    const [kind, Values] = KINDS[dtype];
    tensors[name] = new ort.Tensor(kind, new Values(buffer.slice(8 + length + from, 8 + length + to)), shape);
  }
  return tensors;
}

function packed(tensors) {
  const table = {};
  const parts = [];
  let end = 0;
  for (const [name, tensor] of Object.entries(tensors)) {
    const dtype = Object.keys(KINDS).find((one) => KINDS[one][0] === tensor.type);
    if (!dtype) throw new TypeError(`output ${name} is of type ${tensor.type}, which is not handed over`);
    const bytes = new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);
    table[name] = { dtype, shape: tensor.dims, data_offsets: [end, (end += bytes.length)] };
    parts.push(bytes.slice()); // what is shared with threads can't be sent
  }
  const head = new TextEncoder().encode(JSON.stringify(table));
  const length = new DataView(new ArrayBuffer(8));
  length.setBigUint64(0, BigInt(head.length), true);
  return new Blob([length, head, ...parts]);
}
