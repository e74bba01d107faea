// One room as its verified history says: the chain, signatures, and who may do what. docs/protocol.md, "Rooms".
// Entries in, a verdict out; nothing here waits. The rule is written again from the table in the document, on purpose.
import { emptyHead, eventId, leaf, nextHead, roomId } from "./chain.js";
import { Lie } from "./device_lists.js";
import { canonicalJson, fromBytesField, toText } from "./encoding.js";
import { isSigned } from "./signing.js";

const RANK = { owner: 3, admin: 2, member: 1 };
const EPOCH_ACTIONS = ["join", "add", "leave", "kick", "ban", "remove"];
const REMOVALS = ["leave", "kick", "ban", "remove"];

const FIELDS = {
  create: ["domain", "server", "creator", "creator_identity", "device", "nonce", "policy", "direct", "n"],
  member: ["domain", "server", "room", "action", "sender", "device", "target", "target_identity", "last_seq", "last_head", "n"],
  invitation: ["domain", "server", "room", "sender", "device", "target", "target_identity", "last_seq", "last_head", "n"],
  policy: ["domain", "server", "room", "sender", "device", "policy", "last_seq", "last_head", "n"],
  removal: ["domain", "server", "room", "target", "reason", "last_seq", "last_head", "key_id"],
};

/** Raised when a signer's key is not known yet: query the users' keys, or the server's own, and give the entry again. */
export class KeysNeeded extends Error {
  constructor(users, { ofServer = false } = {}) {
    super(`the keys of ${ofServer ? "the server" : users} are needed`);
    Object.assign(this, { users, ofServer });
  }
}

const refuseUnless = (holds, text) => {
  if (!holds) throw new Lie(text);
};

export class Room {
  /** me: whose eyes. lists: DeviceLists. serverKeys: the server's own, by their ids. */
  constructor(id, { me, server, lists, serverKeys }) {
    Object.assign(this, { id, me, server, lists, serverKeys });
    this.promised = 0;
    this.seq = 0;
    this.time = 0;
    this.epoch = 0;
    this.stateSeq = 0;
    this.head = emptyHead(id);
    this.heads = new Map([[0, this.head]]);
    this.leaves = new Map();
    this.expected = new Map();
    this.create = null;
    this.policy = null;
    this.members = new Map();
  }

  joined = () => [...this.members].filter(([, member]) => member.standing === "joined").map(([user]) => user);
  isJoined = (user) => this.members.get(user)?.standing === "joined";
  /** What this device signs about its place in the chain. */
  position = () => ({ last_seq: this.seq, last_head: toText(this.head) });

  /** An ack says that our message stands there. */
  expect(seq, leaf_) {
    const shown = this.leaves.get(seq);
    refuseUnless(!shown || shown.equals(leaf_), `acked at ${seq}, another event is shown there`);
    this.expected.set(seq, leaf_);
  }

  /** Somebody's device verified this head there. */
  checkClaim(seq, head) {
    const own = this.heads.get(seq);
    refuseUnless(!own || toText(own) === head, `another head at ${seq} was shown to somebody else`);
  }

  /** The next entry. Returns {kind, …} of what it was. Throws Lie or KeysNeeded; then nothing changed. */
  accept(entry) {
    if (entry.type === "gap") return this.#acceptGap(entry);
    if (entry.type === "erased") return this.#acceptErased(entry);
    refuseUnless(entry.room === this.id && entry.seq === this.seq + 1, `${entry.seq} after ${this.seq}`);
    refuseUnless(entry.time >= this.time, "time went back");
    const leaf_ = leaf(entry);
    const acked = this.expected.get(entry.seq);
    refuseUnless(!acked || acked.equals(leaf_), `another event than ours at ${entry.seq}`);
    const take = entry.kind === "message" ? this.#checkMessage(entry) : this.#checkState(entry);
    const isDeletion = entry.kind === "member" && take.reason === "account_deleted";
    refuseUnless(entry.seq !== this.promised || isDeletion, "messages were erased, and nothing explains that");
    const taken = take();
    if (entry.kind !== "message") this.stateSeq = entry.seq;
    this.time = entry.time;
    this.leaves.set(entry.seq, leaf_);
    this.#moveTo(entry.seq, nextHead(this.head, leaf_));
    return { ...taken, kind: entry.kind, id: eventId(leaf_) };
  }

  #moveTo(seq, head) {
    this.seq = seq;
    this.head = head;
    this.heads.set(seq, head);
  }

  #acceptGap({ room, from_seq: from, to_seq: to, head }) {
    refuseUnless(room === this.id && from === this.seq + 1 && to >= from, "a gap at another place");
    refuseUnless(this.create && !this.isJoined(this.me), "messages are hidden from a member");
    this.#moveTo(to, fromBytesField(head));
    return { kind: "gap" };
  }

  #acceptErased({ room, seq, leaf: text, removal_seq: removal }) {
    refuseUnless(room === this.id && seq === this.seq + 1, `an erased message after ${this.seq}`);
    refuseUnless(removal > seq && this.promised !== seq, "an erased message that nothing explains");
    const leaf_ = fromBytesField(text);
    const acked = this.expected.get(seq);
    refuseUnless(leaf_.length === 32 && (!acked || acked.equals(leaf_)), `another event than ours at ${seq}`);
    this.promised = Math.max(this.promised, removal);
    this.leaves.set(seq, leaf_);
    this.#moveTo(seq, nextHead(this.head, leaf_));
    return { kind: "erased" };
  }

  #checkMessage(event) {
    refuseUnless(this.isJoined(event.sender), `${event.sender} is no member`);
    refuseUnless(event.epoch === this.epoch, `encrypted for epoch ${event.epoch}, the chain says ${this.epoch}`);
    refuseUnless(event.body != null, "the content is withheld, and nothing explains it");
    return () => ({});
  }

  #checkState(event) {
    const text = fromBytesField(event.body ?? "").toString("utf8");
    const content = JSON.parse(text);
    refuseUnless(canonicalJson(content) === text, "a body that is not canonical");
    if (event.kind === "create") return this.#checkCreate(event, content, text);
    refuseUnless(this.create, "before the room was created");
    refuseUnless(content.previous === this.stateSeq, `${event.seq} names ${content.previous} before it, not ${this.stateSeq}`);
    if (event.kind === "member" && !event.sender) return this.#checkRemoval(event, content);
    if (event.kind === "member") return this.#checkMember(event, content);
    if (event.kind === "policy") return this.#checkPolicy(event, content);
    refuseUnless(event.kind === "devices", `an event of kind ${event.kind}`);
    return this.#checkDevices(event, content);
  }

  #checkCreate(event, content, text) {
    refuseUnless(event.seq === 1 && roomId(text) === this.id, "the room id certifies another creation");
    this.#checkSigned(content, "create", event, signatureOf(event));
    return () => {
      this.create = content;
      this.policy = content.policy;
      this.lists.pin(content.creator, content.creator_identity);
      return { content };
    };
  }

  #checkMember(event, { signed, list_version: version, list_digest: digest }) {
    const { action, target } = signed;
    this.#checkSigned(signed, "member", event, signatureOf(event), ["role", "invitation"]);
    refuseUnless((signed.role !== undefined) === (action === "role"), "a role belongs to the action role");
    refuseUnless(signed.sender === event.sender && target === event.target, "envelope and signed object differ");
    refuseUnless((version !== undefined) === ["join", "add"].includes(action), "a device list belongs to join and add");
    this.#authorize(signed);
    refuseUnless(signed.last_seq < event.seq, "its signer knew the future");
    this.checkClaim(signed.last_seq, signed.last_head);
    this.lists.pin(target, signed.target_identity);
    if (version !== undefined) this.lists.noteDigest(target, version, digest);
    return () => {
      this.#takeMember(signed, event.seq, version);
      return { action, target, sender: signed.sender, changedList: version !== undefined ? target : undefined };
    };
  }

  /** By the server itself: the one member event that has no sender. */
  #checkRemoval(event, { signed }) {
    const { target, reason, key_id: keyId } = signed;
    refuseUnless(canonicalJson(Object.keys(signed).sort()) === canonicalJson([...FIELDS.removal].sort()), "no removal");
    refuseUnless(signed.domain === "chatty.removal.v1" && signed.server === this.server, "for another purpose or server");
    refuseUnless(signed.room === this.id && signed.last_seq + 1 === event.seq, "signed for another place");
    refuseUnless(event.target === target && !event.device && !event.n, "envelope and signed object differ");
    refuseUnless(["account_deleted", "account_locked"].includes(reason), "removed without a reason");
    refuseUnless(this.members.has(target), `${target} never was a member`);
    const key = this.serverKeys.get(keyId);
    if (key === undefined) throw new KeysNeeded([], { ofServer: true });
    refuseUnless(isSigned(key, canonicalJson(signed), signatureOf(event)), "the removal has a bad signature");
    this.checkClaim(signed.last_seq, signed.last_head);
    const action = this.members.get(target).standing === "banned" ? "ban" : "remove";
    const take = () => {
      this.#takeMember({ action, target }, event.seq);
      return { action: "remove", target };
    };
    return Object.assign(take, { reason });
  }

  #takeMember({ action, target, role }, seq, version) {
    const before = this.members.get(target);
    const removed = REMOVALS.includes(action) ? seq : before?.removed ?? 0;
    if (action === "role") {
      before.role = role;
    } else if (action === "join" || action === "add") {
      const isOwner = target === this.create.creator && !this.create.direct && !before;
      this.members.set(target, { standing: "joined", role: isOwner ? "owner" : "member", version, removed });
    } else {
      this.members.set(target, { standing: action === "ban" ? "banned" : "left", role: "member", version: 0, removed });
    }
    if (EPOCH_ACTIONS.includes(action)) this.epoch = seq;
  }

  #checkPolicy(event, { signed }) {
    this.#checkSigned(signed, "policy", event, signatureOf(event));
    refuseUnless(this.#rank(signed.sender) >= RANK.admin && !this.create.direct, `${signed.sender} may not set the policy`);
    this.checkClaim(signed.last_seq, signed.last_head);
    return () => {
      this.policy = signed.policy;
      return {};
    };
  }

  #checkDevices(event, { user, list_version: version, list_digest: digest }) {
    refuseUnless(this.isJoined(user) && event.target === user && !event.sender, "the devices of somebody who is no member");
    refuseUnless(version > this.members.get(user).version, `${user} went back to an older device list`);
    this.lists.noteDigest(user, version, digest);
    return () => {
      this.members.get(user).version = version;
      this.epoch = event.seq;
      return { changedList: user };
    };
  }

  /** Form, names and signature of a signed object. envelope: {sender, device, n} it must agree with; signature: a text field. */
  #checkSigned(signed, purpose, envelope, signature, optional = []) {
    const names = Object.keys(signed).filter((name) => !optional.includes(name));
    const wanted = FIELDS[purpose].filter((name) => name !== "direct" || "direct" in signed);
    refuseUnless(canonicalJson(names.sort()) === canonicalJson([...wanted].sort()), `another form than ${purpose}`);
    refuseUnless(signed.domain === `chatty.${purpose}.v1` && signed.server === this.server, "for another purpose or server");
    refuseUnless(signed.room === undefined || signed.room === this.id, "for another room");
    const sender = signed.sender ?? signed.creator;
    refuseUnless(sender === envelope.sender && signed.device === envelope.device && signed.n === envelope.n, "another's act");
    const key = this.lists.signingKey(sender, signed.device);
    if (key === undefined) throw new KeysNeeded([sender]);
    refuseUnless(isSigned(key, canonicalJson(signed), signature), `${purpose} has a bad signature`);
  }

  #rank = (user) => (this.isJoined(user) ? RANK[this.members.get(user).role] : 0);

  #authorize(change) {
    const { action, sender, target, role } = change;
    const before = this.members.get(target);
    const isSelf = sender === target;
    const isAbove = !isSelf && this.#rank(sender) >= RANK.admin && this.#rank(target) < this.#rank(sender);
    const allowed = {
      join: () => isSelf && !this.isJoined(target) && this.#mayJoin(change, before),
      add: () => this.create.direct?.includes(target) && sender === this.create.creator && this.isJoined(sender) && !before,
      leave: () => isSelf && this.isJoined(target) && !this.#isLastOwner(target),
      kick: () => isAbove && this.isJoined(target),
      ban: () => isAbove,
      unban: () => this.#rank(sender) >= RANK.admin && before?.standing === "banned",
      role: () => !isSelf && this.#rank(sender) === RANK.owner && this.isJoined(target) && ["admin", "member"].includes(role),
    };
    refuseUnless(Object.hasOwn(allowed, action) && allowed[action](), `${sender} may not ${action} ${target}`);
  }

  #isLastOwner(user) {
    const owners = this.joined().filter((one) => this.#rank(one) === RANK.owner);
    return owners.length === 1 && owners[0] === user && this.joined().length > 1;
  }

  #mayJoin({ target, target_identity: identity, invitation }, before) {
    if (target === this.create.creator && !before) return identity === this.create.creator_identity;
    if (!invitation || before?.standing === "banned" || this.create.direct) return false;
    const { signed, signature } = invitation;
    this.checkInvitation(signed, signature);
    this.checkClaim(signed.last_seq, signed.last_head);
    const isFresh = signed.last_seq >= (before?.removed ?? 0);
    const isForTarget = signed.target === target && signed.target_identity === identity;
    return isFresh && isForTarget && this.#rank(signed.sender) >= RANK[this.policy.invite];
  }

  /** Form and signature of an invitation to this room. */
  checkInvitation(signed, signature) {
    this.#checkSigned(signed, "invitation", signed, signature);
  }
}

/** A byte field in frames, a text field for isSigned(). */
const signatureOf = (event) => toText(fromBytesField(event.signature ?? ""));
