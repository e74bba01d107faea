// Bytes and texts: base64 in its three forms, canonical JSON, lengths before parts. docs/protocol.md, "Names".
import { createHash } from "node:crypto";

export const sha256 = (...parts) => createHash("sha256").update(Buffer.concat(parts.map((part) => Buffer.from(part)))).digest();

/** Text fields: no padding, one text for each value. */
export const toText = (bytes) => Buffer.from(bytes).toString("base64").replace(/=+$/, "");

export function fromText(text, length) {
  const bytes = Buffer.from(text, "base64");
  if (toText(bytes) !== text) throw new Error("not the one base64 form of its value");
  if (length !== undefined && bytes.length !== length) throw new Error(`${bytes.length} bytes where ${length} are expected`);
  return bytes;
}

/** Byte fields of JSON frames and bodies: padded. */
export const toBytesField = (bytes) => Buffer.from(bytes).toString("base64");
export const fromBytesField = (text) => Buffer.from(text, "base64");

/** Ids: URL alphabet, no padding. */
export const toUrlText = (bytes) => Buffer.from(bytes).toString("base64url");

export const integer = (value) => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
};

/** Each part behind its length, 4 bytes, big-endian. */
export function framed(parts) {
  return Buffer.concat(
    parts.flatMap((part) => {
      const bytes = Buffer.from(part);
      const length = Buffer.alloc(4);
      length.writeUInt32BE(bytes.length);
      return [length, bytes];
    }),
  );
}

/** The one JSON that is signed and hashed, as text. Throws for what has none. */
export function canonicalJson(value) {
  if (value === null || typeof value === "boolean") return String(value);
  if (typeof value === "number") {
    if (!Number.isSafeInteger(value)) throw new Error("a number without canonical form");
    return String(value);
  }
  if (typeof value === "string") {
    if (!isWellFormed(value)) throw new Error("a lone surrogate");
    return JSON.stringify(value);
  }
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
  if (typeof value !== "object") throw new Error(`${typeof value} has no canonical form`);
  const names = Object.keys(value)
    .filter((name) => value[name] !== undefined)
    .sort(byCodePoint);
  return `{${names.map((name) => `${canonicalJson(name)}:${canonicalJson(value[name])}`).join(",")}}`;
}

const isWellFormed = (text) => !/\p{Surrogate}/u.test(text);

/** JavaScript compares UTF-16 units, which puts U+E000 … U+FFFF behind what needs two units. UTF-8 has the order we need. */
function byCodePoint(one, other) {
  return Buffer.compare(Buffer.from(one), Buffer.from(other));
}
