// Everybody's devices, as far as they were verified: identities pinned, keys that never change, one digest a list version.
// docs/protocol.md, "Keys", Query.
import { deviceListDigest } from "./chain.js";
import { toText } from "./encoding.js";
import { isMatrixSigned } from "./signing.js";

export class Lie extends Error {}

export class DeviceLists {
  #users = new Map();

  #of(user) {
    if (!this.#users.has(user)) {
      this.#users.set(user, { identity: "", version: -1, devices: new Map(), digests: new Map() });
    }
    return this.#users.get(user);
  }

  version = (user) => this.#of(user).version;
  identity = (user) => this.#of(user).identity;
  /** Ed25519 key of a device, also of one that left the set. */
  signingKey = (user, device) => this.#of(user).devices.get(device)?.ed25519;
  /** The devices that a message to this user is encrypted for. */
  inSet = (user) => [...this.#of(user).devices].filter(([, keys]) => keys.inSet).map(([device]) => device);

  /** The identity key that a signed event or an answer names. */
  pin(user, identity) {
    const known = this.#of(user);
    if (known.identity && known.identity !== identity) throw new Lie(`${user} has another identity key than before`);
    known.identity = identity;
  }

  /** The digest that a room's chain or an answer names for a version. */
  noteDigest(user, version, digest) {
    const { digests } = this.#of(user);
    if ((digests.get(version) ?? digest) !== digest) throw new Lie(`two lists of ${user} at version ${version}`);
    digests.set(version, digest);
  }

  /** A /v1/keys/query answer. Throws Lie. */
  accept({ device_keys: deviceKeys, device_lists: deviceLists }) {
    for (const [user, list] of Object.entries(deviceLists)) this.#acceptUser(user, list, deviceKeys[user] ?? {});
  }

  #acceptUser(user, list, devices) {
    const found = Object.entries(devices).map(([device, keys]) => this.#checkedDevice(user, device, keys));
    const digest = toText(deviceListDigest(found.map(({ device, curve25519, ed25519 }) => [device, curve25519, ed25519])));
    if (digest !== list.list_digest) throw new Lie(`the list of ${user} has not the digest it names`);
    for (const [device, ed25519] of Object.entries(list.removed)) this.#checkUnchanged(user, device, ed25519);
    this.pin(user, list.identity_key);
    this.noteDigest(user, list.list_version, list.list_digest);
    const known = this.#of(user);
    if (list.list_version < known.version) return;
    known.version = list.list_version;
    for (const keys of known.devices.values()) keys.inSet = false;
    for (const [device, ed25519] of Object.entries(list.removed)) known.devices.set(device, { ed25519, inSet: false });
    for (const { device, ...keys } of found) known.devices.set(device, { ...keys, inSet: true });
  }

  #checkedDevice(user, device, object) {
    const ed25519 = object.keys[`ed25519:${device}`];
    const curve25519 = object.keys[`curve25519:${device}`];
    const isNamed = object.user_id === user && object.device_id === device;
    if (!isNamed || !isMatrixSigned(object, { user, device, key: ed25519 })) {
      throw new Lie(`device ${device} of ${user} did not sign its keys`);
    }
    this.#checkUnchanged(user, device, ed25519, curve25519);
    return { device, ed25519, curve25519 };
  }

  #checkUnchanged(user, device, ed25519, curve25519) {
    const known = this.#of(user).devices.get(device);
    const isOtherCurve = known?.curve25519 && curve25519 && known.curve25519 !== curve25519;
    if (known && (known.ed25519 !== ed25519 || isOtherCurve)) throw new Lie(`${device} of ${user} has other keys than before`);
  }
}
