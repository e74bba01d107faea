// The hash chain of a room and the digest of a device list. docs/protocol.md, "The chain".
import { canonicalJson, framed, fromBytesField, integer, sha256, toUrlText } from "./encoding.js";

export const emptyHead = (room) => sha256("chatty.room.v1", room);
export const nextHead = (head, leaf) => sha256([1], head, leaf);
export const eventId = (leaf) => "$" + toUrlText(leaf);
export const roomId = (createBody) => "!" + toUrlText(sha256(createBody));

/** event: as in a JSON frame; fields at their default are absent. */
export function meta(event) {
  return framed([
    event.room,
    integer(event.seq),
    integer(event.time),
    event.kind,
    event.sender ?? "",
    event.device ?? "",
    integer(event.n ?? 0),
    event.algorithm ?? "",
    event.session_id ?? "",
    integer(event.epoch ?? 0),
    [event.silent ? 1 : 0],
    integer(event.expiry ?? 0),
    event.target ?? "",
    fromBytesField(event.signature ?? ""),
  ]);
}

export function leaf(event) {
  const bodyHash = event.body != null ? sha256(fromBytesField(event.body)) : fromBytesField(event.body_hash ?? "");
  return sha256([0], meta(event), bodyHash);
}

/** devices: triples (device id, curve25519, ed25519), in any order. */
export function deviceListDigest(devices) {
  const sorted = [...devices].sort((one, other) => (one[0] < other[0] ? -1 : 1));
  return sha256(canonicalJson(["chatty.device_list.v1", sorted]));
}
