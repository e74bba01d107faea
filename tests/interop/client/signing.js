// Ed25519 with raw keys, over node:crypto, and what is signed. docs/protocol.md, "Rooms" and "Keys".
import { createPrivateKey, createPublicKey, sign as signWith, verify as verifyWith } from "node:crypto";
import { canonicalJson, fromText, sha256, toText } from "./encoding.js";

// RFC 8410: what stands before the 32 bytes of a key in its DER form.
const SEED_PREFIX = Buffer.from("302e020100300506032b657004220420", "hex");
const KEY_PREFIX = Buffer.from("302a300506032b6570032100", "hex");

const privateKey = (seed) => createPrivateKey({ key: Buffer.concat([SEED_PREFIX, seed]), format: "der", type: "pkcs8" });

/** The public key of a seed, unpadded base64. */
export const publicKey = (seed) =>
  toText(createPublicKey(privateKey(seed)).export({ format: "der", type: "spki" }).subarray(-32));

/** Unpadded base64. */
export const sign = (seed, message) => toText(signWith(null, Buffer.from(message), privateKey(seed)));

/** key and signature: unpadded base64. */
export function isSigned(key, message, signature) {
  const spki = Buffer.concat([KEY_PREFIX, fromText(key, 32)]);
  const object = createPublicKey({ key: spki, format: "der", type: "spki" });
  return verifyWith(null, Buffer.from(message), object, fromText(signature, 64));
}

/** about: what is to be done, 32 bytes, where the purpose alone does not say it. */
export const loginStatement = ({ origin, user, nonce, dpop, purpose, about }) =>
  canonicalJson({ domain: "chatty.login.v1", origin, user, nonce, dpop, purpose, ...(about && { about: toText(about) }) });

/** What a log-in makes and ends. */
export const logInDigest = ({ device, name = "", replaces = "" }) =>
  sha256(canonicalJson({ domain: "chatty.log_in.v1", device, name, replaces }));

export const checkpointStatement = ({ server, room, generation, seq, head, time }) =>
  canonicalJson({ domain: "chatty.checkpoint.v1", server, room, generation, seq, head, time });

/** A Matrix object's signature by one device of one user covers all but `signatures` and `unsigned`. */
export function isMatrixSigned(object, { user, device, key }) {
  const { signatures, unsigned, ...covered } = object;
  const signature = signatures?.[user]?.[`ed25519:${device}`];
  return signature !== undefined && isSigned(key, canonicalJson(covered), signature);
}
