// Unpacks the gateway's binary messages: u32 little-endian length of the JSON | JSON | image.

const decoder = new TextDecoder("utf-8", { fatal: true });

/** Returns {header, image}; throws an error if the message violates the protocol. */
export function unpack(buffer) {
  if (buffer.byteLength < 4) throw new Error("message too short");
  const length = new DataView(buffer).getUint32(0, true);
  if (length > buffer.byteLength - 4) throw new Error("header longer than the message");
  const header = JSON.parse(decoder.decode(new Uint8Array(buffer, 4, length)));
  if (header === null || typeof header !== "object") throw new Error("header is not an object");
  return { header, image: new Uint8Array(buffer, 4 + length) };
}
