// Recomputes tests/vectors with this client's own code. Returns how many values it compared; throws at the first that differs.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import * as chain from "./chain.js";
import { DpopKey } from "./dpop.js";
import { canonicalJson, fromBytesField, fromText, sha256, toBytesField, toText } from "./encoding.js";
import { derive, passwordSalt, wrap } from "./password.js";
import { Room } from "./room.js";
import { checkpointStatement, isMatrixSigned, isSigned, logInDigest, loginStatement, publicKey, sign } from "./signing.js";

const FOLDER = new URL("../../vectors/", import.meta.url);
const read = async (name) => JSON.parse(await readFile(new URL(`${name}.json`, FOLDER), "utf8"));
const hex = (bytes) => Buffer.from(bytes).toString("hex");

export async function checkVectors() {
  let count = 0;
  const same = (actual, expected, what) => {
    assert.deepEqual(actual, expected, what);
    count += 1;
  };
  await checkCanonicalJson(same);
  await checkSignatures(same);
  await checkChain(same);
  await checkHiddenChanges(same);
  await checkPassword(same);
  await checkDpop(same);
  return count;
}

async function checkDpop(same) {
  const { dpop: one } = await read("tokens");
  const key = new DpopKey(Buffer.from(one.seed, "hex"));
  same(key.thumbprint, one.thumbprint, "thumbprint");
  const { method, url, nonce, jti, access_token: accessToken, issued_at_s: at } = one;
  const [ours, theirs] = [key.proof({ method, url, nonce, jti, accessToken, now: at * 1000 }), one.proof].map(parsed);
  same(ours, theirs, "DPoP proof");
}

/** Members of a JWT's objects may stand in any order. */
const parsed = (jwt) => jwt.split(".").slice(0, 2).map((part) => JSON.parse(Buffer.from(part, "base64url")));

async function checkCanonicalJson(same) {
  const { cases, refused } = await read("canonical_json");
  for (const { value, canonical, sha256: digest } of cases) {
    same(canonicalJson(value), canonical, "canonical JSON");
    same(hex(sha256(canonical)), digest, "its digest");
  }
  // JSON.parse makes 1 of 1.0: a body that says 1.0 is refused because its canonical form differs from it.
  for (const value of refused.filter((one) => one !== 1)) assert.throws(() => canonicalJson(value));
}

async function checkSignatures(same) {
  const { objects, logins, checkpoint, matrix } = await read("signatures");
  for (const one of [...objects, ...logins, checkpoint, ...matrix]) {
    const seed = Buffer.from(one.seed, "hex");
    same(publicKey(seed), one.public_key, one.name);
    same(sign(seed, one.message), one.signature, one.name);
    same(isSigned(one.public_key, one.message, one.signature), true, one.name);
  }
  for (const one of objects) same(canonicalJson(one.object), one.message, one.name);
  for (const { name, parts, log_in, about, message } of logins) {
    const digest = log_in && logInDigest(log_in);
    if (digest) same(hex(digest), about, `${name}: about`);
    same(loginStatement({ ...parts, dpop: parts.dpop_thumbprint, about: digest }), message, name);
  }
  const head = toText(Buffer.from(checkpoint.parts.head, "hex"));
  same(checkpointStatement({ ...checkpoint.parts, head }), checkpoint.message, "checkpoint");
  for (const { object, public_key: key } of matrix) {
    const [[user, signatures]] = Object.entries(object.signatures);
    const device = Object.keys(signatures)[0].split(":")[1];
    same(isMatrixSigned(object, { user, device, key }), true, "a Matrix object");
  }
}

async function checkChain(same) {
  const { create_body: body, room, head_0: first, events, removal, erased } = await read("chain");
  same(chain.roomId(body), room, "room id");
  let head = chain.emptyHead(room);
  let previous;
  same(hex(head), first, "head(0)");
  same(hex(Buffer.from(erased.leaf, "base64")), events[erased.seq - 1].leaf, "an erased message's leaf");
  for (const vector of [...events, removal]) {
    const { seq, kind, body: stateBody } = vector.event;
    if (kind !== "message") {
      same(JSON.parse(fromBytesField(stateBody)).previous, previous, "previous");
      previous = seq;
    }
    const leaf = chain.leaf(vector.event);
    head = chain.nextHead(head, leaf);
    same(hex(chain.meta(vector.event)), vector.meta, "meta");
    same([hex(leaf), chain.eventId(leaf), hex(head)], [vector.leaf, vector.event_id, vector.head], "leaf, id, head");
  }
  const { device_lists: lists } = await read("digests");
  for (const { devices, digest } of lists) same(hex(chain.deviceListDigest(devices)), digest, "device list");
}

/** A newcomer is shown no message; hide a change too, and the next one names what is missing. */
async function checkHiddenChanges(same) {
  const { room: id, events } = await read("chain");
  const { objects } = await read("signatures");
  const keys = new Map(objects.map(({ object, public_key: key }) => [object.device, key]));
  const lists = { signingKey: (_, device) => keys.get(device), pin: () => {}, noteDigest: () => {} };
  const gap = ({ event: { seq }, head }) => {
    return { type: "gap", room: id, from_seq: seq, to_seq: seq, head: toBytesField(Buffer.from(head, "hex")) };
  };
  const fold = (hidden) => {
    const room = new Room(id, { me: "@newcomer:example.org", server: "example.org", lists });
    for (const one of events) room.accept(one.event.kind === "message" || one.event.seq === hidden ? gap(one) : one.event);
    return room.seq;
  };
  same(fold(), events.length, "a room without its messages");
  const between = events.slice(1, -1).map(({ event }) => event);
  for (const { seq } of between.filter(({ kind }) => kind !== "message")) assert.throws(() => fold(seq), new RegExp(`names ${seq} before it`));
}

async function checkPassword(same) {
  const vector = await read("password");
  const { server, user } = vector;
  const salt = passwordSalt({ server, user, servedSalt: fromText(vector.served_salt, 16) });
  same(hex(salt), vector.salt, "salt");
  const keys = await derive(vector.password, salt, vector.key_derivation);
  same([hex(keys.wrappingKey), hex(keys.loginSeed)], [vector.wrapping_key, vector.login_seed], "Argon2id");
  same(publicKey(keys.loginSeed), vector.login_public_key, "log-in key");
  const recovery = Buffer.from(vector.recovery_secret, "hex");
  const identity = Buffer.from(vector.identity_seed, "hex");
  const nonces = [vector.recovery_nonce, vector.identity_nonce].map((nonce) => Buffer.from(nonce, "hex"));
  same(hex(wrap(recovery, keys.wrappingKey, "recovery", nonces[0])), vector.wrapped_recovery, "wrapped recovery secret");
  same(hex(wrap(identity, recovery, "identity", nonces[1])), vector.wrapped_identity, "wrapped identity seed");
}
