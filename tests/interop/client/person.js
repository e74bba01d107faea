// A client: one device of one person, in memory. What a client on disk writes in which order stands in docs/protocol.md.
import { randomBytes } from "node:crypto";
import { eventId, leaf, roomId } from "./chain.js";
import { DeviceLists, Lie } from "./device_lists.js";
import { canonicalJson, fromBytesField, fromText, sha256, toText, toUrlText } from "./encoding.js";
import { Api, ServerError } from "./http.js";
import { Machine, NoKeyYet } from "./machine.js";
import { SendNumbers } from "./numbers.js";
import { derive, passwordSalt, wrap } from "./password.js";
import { KeysNeeded, Room } from "./room.js";
import { checkpointStatement, isSigned, loginStatement, publicKey, sign } from "./signing.js";
import { Socket } from "./socket.js";
import { messageIndex } from "./megolm.js";

const KEY_WAIT_MS = 10_000;
const TIMEOUT_MS = 30_000;

export class Person {
  #api;
  #lists = new DeviceLists();
  #numbers = new SendNumbers();
  #machine;
  #socket;
  #server;
  #serverKeys = new Map();
  #identityKey;
  #userSeq = 0;
  #resumedCount = 0;
  #intake = Promise.resolve();
  #sending = Promise.resolve();
  #watchers = new Set();
  #taken = { rows: new Set(), indexes: new Map(), mids: new Map() };
  #unread = [];

  rooms = new Map();
  invitations = new Map();
  messages = [];
  undecryptable = [];
  failure = null;

  /** Make an account whose first device this is, publish its keys, and connect. */
  static async register(origin, name, password) {
    const self = new Person();
    self.#api = new Api(origin);
    await self.#register(name, password);
    const parts = { api: self.#api, lists: self.#lists, numbers: self.#numbers };
    self.#machine = await Machine.open(self.user, self.device, parts);
    await self.#machine.publish();
    await self.connect();
    return self;
  }

  async #register(name, password) {
    const api = this.#api;
    const { server_name: server } = await api.get("/v1/server");
    this.#server = server;
    this.user = `@${name}:${server}`;
    this.device = `NODE${randomBytes(6).toString("hex").toUpperCase()}`;
    const { salt, nonce, key_derivation } = await api.post("/v1/salt", { user: this.user });
    const own = passwordSalt({ server, user: this.user, servedSalt: fromText(salt, 16) });
    const { wrappingKey, loginSeed } = await derive(password, own, key_derivation);
    const [identitySeed, recoverySecret] = [randomBytes(32), randomBytes(32)];
    this.#identityKey = publicKey(identitySeed);
    const statement = loginStatement({ origin: api.origin, user: this.user, nonce, dpop: api.dpop.thumbprint, purpose: "register" });
    const tokens = await api.post("/v1/register", {
      name,
      login_key: publicKey(loginSeed),
      identity_key: this.#identityKey,
      wrapped_recovery: wrap(recoverySecret, wrappingKey, "recovery").toString("base64"),
      wrapped_identity: wrap(identitySeed, recoverySecret, "identity").toString("base64"),
      key_derivation,
      new_device: { device: this.device, name: "Node" },
      nonce,
      signature: sign(loginSeed, statement),
      dpop_thumbprint: api.dpop.thumbprint,
    });
    api.accessToken = tokens.access_token;
  }

  // The socket

  /** Challenge, hello with our cursors, welcome; returns when all that was stored has been taken. */
  async connect() {
    this.#socket = new Socket(this.#api.origin, (event) => this.#queue(event));
    const { nonce } = await this.#socket.challenge;
    const cursors = [...this.rooms.values()].map((room) => ({ room: room.id, seq: room.seq }));
    const place = { low: this.#numbers.low(), user_seq: this.#userSeq, cursors };
    const before = this.#resumedCount;
    const shown = { access_token: this.#api.accessToken, dpop_proof: this.#api.socketProof(nonce) };
    const welcome = await this.#socket.ask("hello", { ...shown, ...place });
    if (welcome.user !== this.user || welcome.device !== this.device) throw new Error("welcomed as somebody else");
    await this.#until(() => (this.#resumedCount > before ? true : undefined), "resumed");
  }

  disconnect = () => this.#socket.close();

  #queue(event) {
    this.#intake = this.#intake.then(() => this.#take(event)).catch((error) => (this.failure ??= error));
    this.#intake.then(() => this.#look());
  }

  #look() {
    for (const watcher of [...this.#watchers]) watcher();
  }

  /** Wait until look() returns something. */
  #until(look, what) {
    return new Promise((resolve, reject) => {
      const finish = (settle, value) => {
        clearTimeout(timer);
        this.#watchers.delete(check);
        settle(value);
      };
      const check = () => {
        const found = this.failure ?? look();
        if (found !== undefined) finish(found === this.failure ? reject : resolve, found);
      };
      const timer = setTimeout(() => finish(reject, new Error(`waited too long for ${what}`)), TIMEOUT_MS);
      this.#watchers.add(check);
      check();
    });
  }

  async #take(event) {
    switch (event.type) {
      case "event":
      case "gap":
      case "erased":
        return this.#takeEntry(event);
      case "mailbox":
        return this.#takeRow(event);
      case "user_event":
        return this.#takeUserEvent(event);
      case "one_time_key_counts":
        return this.#machine.takeKeyCounts(event.counts, event.unused_fallback_algorithms);
      case "resumed":
        this.#resumedCount += 1;
        return undefined;
      case "lagging": {
        const cursors = [...this.rooms.values()].map((room) => ({ room: room.id, seq: room.seq }));
        return this.#socket.ask("resync", { user_seq: this.#userSeq, cursors });
      }
      default:
        return undefined; // a newer server may say more
    }
  }

  // What comes in

  #room(id) {
    if (!this.rooms.has(id)) {
      this.rooms.set(id, new Room(id, { me: this.user, server: this.#server, lists: this.#lists, serverKeys: this.#serverKeys }));
    }
    return this.rooms.get(id);
  }

  /** Check with the keys that are known; when a signer's are not, query them once. */
  async #withKeys(check) {
    try {
      return check();
    } catch (error) {
      if (!(error instanceof KeysNeeded)) throw error;
      if (error.ofServer) await this.#learnServerKeys();
      else await this.#machine.learn(error.users);
      return check();
    }
  }

  /** Each named by its own thumbprint (RFC 7638), so that no id has two keys. */
  async #learnServerKeys() {
    const { keys } = await this.#api.get("/v1/jwks");
    for (const { kty, crv, kid, x } of keys) {
      const name = toUrlText(sha256(canonicalJson({ crv, kty, x })));
      if (kty === "OKP" && crv === "Ed25519" && kid === name) this.#serverKeys.set(kid, toText(Buffer.from(x, "base64url")));
    }
  }

  async #takeEntry(entry) {
    const room = this.#room(entry.room);
    if ((entry.seq ?? entry.from_seq) <= room.seq) return this.#checkRepeated(room, entry);
    const taken = await this.#withKeys(() => room.accept(entry));
    if (taken.changedList) await this.#catchUpLists(room);
    if (["leave", "kick", "ban", "remove"].includes(taken.action)) room.isKeyOver = true;
    if (taken.kind === "message") await this.#read(room, entry, taken.id);
  }

  #checkRepeated(room, entry) {
    const known = room.leaves.get(entry.seq);
    const shown = entry.type === "erased" ? fromBytesField(entry.leaf) : known && leaf(entry);
    if (known && !known.equals(shown)) throw new Lie(`two events at ${entry.seq}`);
  }

  /** Lists as new as those that the chain names; queried after the chain was read. */
  async #catchUpLists(room) {
    const outdated = () => room.joined().filter((user) => this.#lists.version(user) < room.members.get(user).version);
    if (outdated().length) await this.#machine.learn(outdated());
    if (outdated().length) throw new Lie(`the server shows an older list of ${outdated()} than the chain names`);
  }

  async #takeRow(row) {
    const name = `${row.sender_device}/${row.n}`;
    if (!this.#taken.rows.has(name)) {
      this.#taken.rows.add(name);
      if (this.#lists.signingKey(row.sender, row.sender_device) === undefined) await this.#machine.learn([row.sender]);
      await this.#machine.takeRow(row);
    }
    await this.#socket.ask("mailbox_ack", { ids: [row.id] });
    const unread = this.#unread.splice(0);
    for (const { room, event, id, since } of unread) await this.#read(room, event, id, since);
  }

  async #takeUserEvent({ seq, kind, content }) {
    if (kind === "invitation") await this.#takeInvitation(content.invitation);
    this.#userSeq = seq;
  }

  async #takeInvitation(invitation) {
    const { signed, signature } = invitation;
    const room = new Room(signed.room, { me: this.user, server: this.#server, lists: this.#lists, serverKeys: this.#serverKeys });
    await this.#withKeys(() => room.checkInvitation(signed, signature));
    if (signed.target !== this.user || signed.target_identity !== this.#identityKey) throw new Lie("invites somebody else");
    this.invitations.set(signed.room, invitation);
  }

  /** Decrypt and check one message; without its key it waits, and after ten seconds it counts as undecryptable. */
  async #read(room, event, id, since = Date.now()) {
    try {
      const content = await this.#machine.decrypt(event, id);
      this.#checkContent(room, event, id, content);
      if (this.#isFirst(`${event.sender}/${content.mid}`, id, this.#taken.mids)) {
        this.messages.push({ ...describe(event, id), text: content.text });
      }
    } catch (error) {
      if (error instanceof Lie) throw error;
      if (!(error instanceof NoKeyYet)) return void this.undecryptable.push({ ...describe(event, id), reason: error.message });
      this.#unread.push({ room, event, id, since });
      if (since + KEY_WAIT_MS > Date.now()) setTimeout(() => this.#giveUp(event, id), KEY_WAIT_MS).unref();
    }
  }

  #giveUp(event, id) {
    if (!this.#unread.some((one) => one.id === id) || this.undecryptable.some((one) => one.event_id === id)) return;
    this.undecryptable.push({ ...describe(event, id), reason: "no_key_yet" });
    this.#look();
  }

  /** Inside and outside agree, the ciphertext stood nowhere before, and the sender saw the history that we saw. */
  #checkContent(room, event, id, content) {
    const named = ["n", "epoch", "sender", "device"].every((name) => content[name] === event[name]);
    if (!named || content.expiry !== (event.expiry ?? 0) || content.target !== (event.target ?? "")) {
      throw new Error("the envelope differs from what its sender repeated inside");
    }
    const index = `${event.session_id}/${messageIndex(fromBytesField(event.body))}`;
    if (!this.#isFirst(index, id, this.#taken.indexes)) throw new Error("its ciphertext stood elsewhere before");
    if (content.last_seq >= event.seq) throw new Lie("its sender knew the future");
    room.checkClaim(content.last_seq, content.last_head);
  }

  #isFirst(name, id, taken) {
    if (!taken.has(name)) taken.set(name, id);
    return taken.get(name) === id;
  }

  // What goes out

  async #signed(object) {
    return { signed: object, signature: await this.#machine.sign(canonicalJson(object)) };
  }

  async #identityOf(user) {
    if (user !== this.user && !this.#lists.identity(user)) await this.#machine.learn([user]);
    return user === this.user ? this.#identityKey : this.#lists.identity(user);
  }

  #member = async (room, action, target, n, more = {}) =>
    this.#signed({
      domain: "chatty.member.v1",
      server: this.#server,
      room: room.id,
      action,
      sender: this.user,
      device: this.device,
      target,
      target_identity: await this.#identityOf(target),
      ...room.position(),
      n,
      ...more,
    });

  /** A room of one's own, or with `other` the direct room of the two. */
  async create({ history = "joined", other } = {}) {
    const nonce = toText(randomBytes(16));
    const policy = { history, invite: other ? "owner" : "member" };
    const numbers = [1, 2, ...(other ? [3] : [])].map(() => this.#numbers.take());
    const [n, joinN, addN] = numbers;
    const create = await this.#signed({
      domain: "chatty.create.v1",
      server: this.#server,
      creator: this.user,
      creator_identity: this.#identityKey,
      device: this.device,
      nonce,
      policy,
      ...(other && { direct: [this.user, other].sort() }),
      n,
    });
    const room = this.#room(roomId(canonicalJson(create.signed)));
    const members = [await this.#member(room, "join", this.user, joinN)];
    if (other) members.push(await this.#member(room, "add", other, addN));
    const committed = await this.#api.post("/v1/rooms", { create, members }, { n, low: this.#numbers.low() });
    numbers.forEach(this.#numbers.settle);
    await this.#readUpTo(committed.room, committed.seq);
    return committed.room;
  }

  async invite(id, target) {
    const room = this.rooms.get(id);
    const target_identity = await this.#identityOf(target);
    await this.#numbers.use(async (numbered) => {
      const invitation = await this.#signed({
        domain: "chatty.invitation.v1",
        server: this.#server,
        room: id,
        sender: this.user,
        device: this.device,
        target,
        target_identity,
        ...room.position(),
        n: numbered.n,
      });
      return this.#api.post(`/v1/rooms/${id}/invitations`, invitation, numbered);
    });
  }

  async join(id) {
    await this.#until(() => this.invitations.get(id), "an invitation");
    await this.#change(id, "join", this.user, { invitation: this.invitations.get(id) });
  }

  leave = (id) => this.#change(id, "leave", this.user);
  kick = (id, target) => this.#change(id, "kick", target);

  async #change(id, action, target, more) {
    const committed = await this.#numbers.use(async (numbered) => {
      const change = await this.#member(this.#room(id), action, target, numbered.n, more);
      return this.#api.post(`/v1/rooms/${id}/members`, change, numbered);
    });
    await this.#readUpTo(id, committed.seq);
  }

  #readUpTo = (id, seq) => this.#until(() => (this.#room(id).seq >= seq ? true : undefined), `${id} up to ${seq}`);

  /** One message at a time. Returns its place, the Megolm session, and who was given what for it. */
  send(id, text) {
    const sent = this.#sending.then(() => this.#sendNow(id, text));
    this.#sending = sent.catch(() => {});
    return sent;
  }

  async #sendNow(id, text) {
    const n = this.#numbers.take();
    const mid = toText(randomBytes(16));
    const [shared, claimed] = [this.#machine.shares.length, this.#machine.claims.length];
    try {
      for (;;) {
        const request = await this.#encrypted(this.rooms.get(id), { text, n, mid });
        const committed = await this.#ask(id, request);
        if (!committed) continue;
        const given = { given_to: this.#machine.shares.slice(shared), claimed: this.#machine.claims.slice(claimed) };
        return { ...committed, session_id: request.session_id, ...given };
      }
    } finally {
      this.#numbers.settle(n);
    }
  }

  /** Everybody who must read has the key; then encrypted for that epoch, without a wait in between. */
  async #encrypted(room, { text, n, mid }) {
    const epoch = await this.#shareKey(room);
    const { last_seq, last_head } = room.position();
    const inside = { text, n, epoch, expiry: 0, target: "", mid, last_seq, last_head, sender: this.user, device: this.device };
    return { n, low: this.#numbers.low(), room: room.id, epoch, ...(await this.#machine.encrypt(room.id, inside)) };
  }

  /** Returns the epoch that the key is ready for. */
  async #shareKey(room) {
    for (;;) {
      const { epoch, isKeyOver } = room;
      room.isKeyOver = false;
      // The library compares members only: who left and came back in between would go unnoticed.
      if (isKeyOver) await this.#machine.endRoomKey(room.id);
      await this.#catchUpLists(room);
      await this.#machine.shareRoomKey(room.id, room.joined());
      if (room.epoch === epoch) return epoch;
    }
  }

  /** Returns {seq, event_id}; undefined: somebody came or went, encrypt anew under the same n. */
  async #ask(id, request) {
    const room = this.rooms.get(id);
    try {
      const ack = await this.#socket.ask("send", request);
      const { low, ...envelope } = request;
      const event = { ...envelope, kind: "message", sender: this.user, device: this.device, seq: ack.seq, time: ack.time };
      const own = leaf(event);
      if (toText(own) !== toText(fromBytesField(ack.leaf))) throw new Lie("another message than ours was acked");
      room.expect(ack.seq, own);
      return { seq: ack.seq, event_id: eventId(own) };
    } catch (error) {
      if (!(error instanceof ServerError) || error.code !== "device_set_stale") throw error;
      await this.#readUpTo(id, error.details.epoch);
      return undefined;
    }
  }

  // What a transcript asks for

  /** Wait for a message with this text. */
  read = (id, text) =>
    this.#until(() => this.messages.find((one) => one.room === id && one.text === text), `the message "${text}"`);

  /** Wait until the message at this place counts as undecryptable. */
  unreadable = (id, seq) =>
    this.#until(() => this.undecryptable.find((one) => one.room === id && one.seq === seq), `${seq} to be undecryptable`);

  /** The verified place in a room's chain, compared with a checkpoint that the server signed. */
  async place(id, seq) {
    await this.#readUpTo(id, seq);
    const room = this.rooms.get(id);
    return { seq: room.seq, head: toText(room.head), epoch: room.epoch, members: room.joined() };
  }

  async checkpoint(id) {
    const signed = await this.#socket.ask("checkpoint", { room: id });
    const { keys } = await this.#api.get("/v1/jwks");
    const key = toText(Buffer.from(keys.find((one) => one.kid === signed.key_id).x, "base64url"));
    const head = toText(fromBytesField(signed.head));
    const statement = checkpointStatement({ ...signed, server: this.#server, head });
    if (!isSigned(key, statement, toText(fromBytesField(signed.signature)))) throw new Lie("a checkpoint with a bad signature");
    await this.#readUpTo(id, signed.seq);
    this.rooms.get(id).checkClaim(signed.seq, head);
    return { seq: signed.seq, head };
  }

  /** How many one-time keys of this device were claimed: published, and not left. An upload of nothing tells what is left. */
  async keysClaimed() {
    const { one_time_key_counts: counts, unused_fallback_key_types: unused } = await this.#api.post("/v1/keys/upload", {});
    return { claimed: this.#machine.published.size - counts.signed_curve25519, left: counts.signed_curve25519, unused };
  }

  mailboxRows = () => this.#taken.rows.size;
}

const describe = ({ room, seq, sender, device, session_id }, id) => ({ room, seq, sender, device, session_id, event_id: id });
