// What the kernel has sent: message.py says how a message is made, canvas.py what is in it.

const TYPES = { uint8: Uint8Array, uint16: Uint16Array, int32: Int32Array, uint32: Uint32Array };

function unpack(view) {
  const size = view.getUint32(0, true);
  const message = JSON.parse(new TextDecoder().decode(new Uint8Array(view.buffer, view.byteOffset + 4, size)));
  let at = 4 + size;
  for (const [name, kind, length, bytes] of message.arrays) {
    at += (8 - (at % 8)) % 8;
    const start = view.byteOffset + at;
    if (bytes === undefined) {
      message[name] = new TYPES[kind](view.buffer.slice(start, start + length * TYPES[kind].BYTES_PER_ELEMENT));
      at += message[name].byteLength;
    } else {
      message[name] = fromFewBits(new Uint8Array(view.buffer, start, bytes), kind, length);
      at += bytes;
    }
  }
  return message;
}

function fromFewBits(bytes, width, length) {
  const found = new Uint32Array(length), ones = 2 ** width - 1;
  let held = 0, bits = 0, at = 0;
  for (let i = 0; i < length; i++) {
    let sum = 0, code;
    do {
      while (bits < width) {
        held |= bytes[at++] << bits;
        bits += 8;
      }
      code = held & ones;
      held >>>= width;
      bits -= width;
      sum += code;
    } while (code === ones);
    found[i] = sum;
  }
  return found;
}

function summed(distances, from = 0, to = distances.length) { // in place
  for (let i = from + 1; i < to; i++) distances[i] += distances[i - 1];
}

// The picture after a message; null if the message builds on one that this view has not seen.
function after(picture, message) {
  const { base, rows, fan_in: fanIn, codes, slots } = message;
  if (base !== null && picture?.seq !== base) return null;
  const values = message.values.length ? codes.map((code) => message.values[code]) : codes;
  let taken = { ...picture, ...message, values };
  if (message.dead_rows) summed(message.dead_rows);
  if (!slots) for (let row = 0; row < rows; row++) summed(message.features, row * fanIn, (row + 1) * fanIn);
  else {
    const { features: held, values: before } = picture;
    for (let i = 0, slot = 0; i < slots.length; i++) {
      slot += slots[i];
      held[slot] = message.features[i];
      before[slot] = values[i];
    }
    taken = { ...taken, features: held, values: before };
  }
  const weight = "weight_step" in message ? message.weight ?? picture?.weight : undefined;
  return { ...taken, weight, dead_rows: message.dead_rows, dead_features: message.dead_features, levels: {} };
}
