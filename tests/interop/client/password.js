// From a password to the log-in key and the wrapped secrets. docs/protocol.md, "Identity".
import { randomBytes } from "node:crypto";
import { xchacha20poly1305 } from "@noble/ciphers/chacha";
import { argon2id } from "hash-wasm";
import { framed, sha256 } from "./encoding.js";

const MIB = 1024 * 1024;

export const passwordSalt = ({ server, user, servedSalt }) => sha256("chatty.salt.v1", framed([server, user, servedSalt]));

/** Returns {wrappingKey, loginSeed}, 32 bytes each. Throws for parameters outside a client's limits. */
export async function derive(password, salt, { algorithm, memory_bytes, passes }) {
  if (algorithm !== "argon2id") throw new Error(`the server asks for ${algorithm} instead of argon2id`);
  if (memory_bytes < 64 * MIB || memory_bytes > 1024 * MIB || passes < 2 || passes > 16) {
    throw new Error("the server asks for too weak or too strong parameters");
  }
  const derived = await argon2id({
    password: password.normalize("NFC"),
    salt: salt.subarray(0, 16),
    parallelism: 1,
    iterations: passes,
    memorySize: memory_bytes / 1024,
    hashLength: 64,
    outputType: "binary",
  });
  return { wrappingKey: Buffer.from(derived.subarray(0, 32)), loginSeed: Buffer.from(derived.subarray(32)) };
}

export function wrap(secret, key, purpose, nonce = randomBytes(24)) {
  const sealed = xchacha20poly1305(key, nonce, Buffer.from(`chatty.wrap.v1/${purpose}`)).encrypt(secret);
  return Buffer.concat([Buffer.from([1]), nonce, sealed]);
}
