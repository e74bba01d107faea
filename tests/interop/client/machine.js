// OlmMachine on our routes: its outgoing requests become HTTP requests, what comes over the socket becomes its "sync".
// docs/protocol.md, "Keys"; docs/interop.md says what must be set and in which order.
import {
  CollectStrategy,
  DecryptionErrorCode,
  DecryptionSettings,
  DeviceId,
  DeviceLists as ChangedDevices,
  EncryptionSettings,
  HistoryVisibility,
  OlmMachine,
  RequestType,
  RoomId,
  TrustRequirement,
  UserId,
} from "@matrix-org/matrix-sdk-crypto-wasm";
import { fromBytesField, toBytesField, toText } from "./encoding.js";

const MEGOLM = "m.megolm.v1.aes-sha2";
const userIds = (users) => users.map((user) => new UserId(user)); // made anew each time: a call takes them away
const trust = () => new DecryptionSettings(TrustRequirement.Untrusted);

/** Its key has not come, or begins later. */
export class NoKeyYet extends Error {}

/** The library's defaults share history with who joins later and rotate by its own rules: ours are set, every time. */
function encryptionSettings() {
  const settings = new EncryptionSettings();
  settings.historyVisibility = HistoryVisibility.Joined;
  settings.rotationPeriodMessages = 100n;
  settings.sharingStrategy = CollectStrategy.allDevices();
  return settings;
}

export class Machine {
  #machine;
  #api;
  #lists;
  #numbers;
  #turn = Promise.resolve();

  /** api: Api. lists: DeviceLists, which see an answer before the library does. numbers: SendNumbers. */
  static async open(user, device, { api, lists, numbers }) {
    const self = new Machine();
    self.#machine = await OlmMachine.initialize(new UserId(user), new DeviceId(device));
    self.#machine.roomKeyRequestsEnabled = false; // m.room_key_request is not on the server's allow-list
    self.#machine.roomKeyForwardingEnabled = false;
    self.user = user;
    self.device = device;
    self.published = new Set();
    self.claims = [];
    self.shares = [];
    self.#api = api;
    self.#lists = lists;
    self.#numbers = numbers;
    return self;
  }

  /** A text that begins with a domain of ours; unpadded base64. */
  async sign(canonical) {
    const signatures = await this.#machine.sign(canonical);
    return JSON.parse(signatures.asJSON())[this.user][`ed25519:${this.device}`];
  }

  /** Publish the device's keys, 50 one-time keys and a fallback key. */
  async publish() {
    await this.#receive([], [], new Map(), new Set());
    await this.#settle();
  }

  /** What the server has left of this device's keys. */
  async takeKeyCounts(counts, unusedFallbacks) {
    await this.#receive([], [], new Map(Object.entries(counts)), new Set(unusedFallbacks));
    await this.#settle();
  }

  /** Query these users' devices anew; afterwards library and lists both have them. */
  async learn(users) {
    await this.#machine.updateTrackedUsers(userIds(users));
    await this.#receive([], users, new Map());
    await this.#settle();
  }

  /** A row of the device mailbox, from a user whose devices are known. */
  async takeRow({ kind, sender, content }) {
    await this.#receive([{ type: kind, sender, content }], [], new Map());
    await this.#settle();
  }

  /** receiveSyncChangesMsc4186: in the other one a count that is missing means "none", and 50 keys are uploaded again. */
  #receive(toDevice, changed, counts, unusedFallbacks) {
    const lists = new ChangedDevices(userIds(changed), []);
    return this.#machine.receiveSyncChangesMsc4186(JSON.stringify(toDevice), lists, counts, unusedFallbacks, trust());
  }

  /** Give the room's key to all devices of these users. Nothing leaves for those who have it. */
  async shareRoomKey(room, users) {
    const claim = await this.#machine.getMissingSessions(userIds(users));
    if (claim) await this.#send(claim);
    for (const request of await this.#machine.shareRoomKey(new RoomId(room), userIds(users), encryptionSettings())) {
      await this.#send(request);
    }
  }

  /** Somebody must no longer read: the next shareRoomKey() makes a new session. */
  endRoomKey = (room) => this.#machine.invalidateGroupSession(new RoomId(room));

  /** shareRoomKey() came before. Returns the envelope's fields of a send. */
  async encrypt(room, content) {
    const type = "chatty.message.v1";
    const encrypted = JSON.parse(await this.#machine.encryptRoomEvent(new RoomId(room), type, JSON.stringify(content)));
    const body = toBytesField(Buffer.from(encrypted.ciphertext, "base64"));
    return { algorithm: encrypted.algorithm, session_id: encrypted.session_id, body };
  }

  /** Returns the plaintext's `content`. Throws NoKeyYet; other errors mean that the message must not be believed. */
  async decrypt(event, eventId) {
    const { algorithm, session_id, device: device_id } = event;
    const ciphertext = toText(fromBytesField(event.body));
    const asMatrix = {
      event_id: eventId,
      room_id: event.room,
      sender: event.sender,
      origin_server_ts: event.time,
      type: "m.room.encrypted",
      content: { algorithm, session_id, device_id, ciphertext },
    };
    const decrypted = await this.#decrypt(asMatrix);
    if (algorithm !== MEGOLM || decrypted.sender.toString() !== event.sender || decrypted.senderDevice?.toString() !== device_id) {
      throw new Error("encrypted with another device's session");
    }
    const { type, content } = JSON.parse(decrypted.event);
    if (type !== "chatty.message.v1") throw new Error(`a plaintext of type ${type}`);
    return content;
  }

  async #decrypt(event) {
    try {
      return await this.#machine.decryptRoomEvent(JSON.stringify(event), new RoomId(event.room_id), trust());
    } catch (error) {
      const waitsFor = [DecryptionErrorCode.MissingRoomKey, DecryptionErrorCode.UnknownMessageIndex];
      throw waitsFor.includes(error.code) ? new NoKeyYet(error.description) : new Error(error.description ?? String(error));
    }
  }

  /** Send what the library wants sent, one caller at a time: it names a request again until that is marked as sent. */
  #settle() {
    const run = this.#turn.then(async () => {
      for (let requests = await this.#machine.outgoingRequests(); requests.length; ) {
        for (const request of requests) await this.#send(request);
        requests = await this.#machine.outgoingRequests();
      }
    });
    this.#turn = run.catch(() => {});
    return run;
  }

  async #send(request) {
    const answer = await this.#carry(request, JSON.parse(request.body));
    await this.#machine.markRequestAsSent(request.id, request.type, JSON.stringify(answer));
  }

  async #carry(request, body) {
    switch (request.type) {
      case RequestType.KeysUpload:
        for (const id of Object.keys(body.one_time_keys)) this.published.add(id);
        return this.#api.post("/v1/keys/upload", body);
      case RequestType.KeysQuery: {
        const answer = await this.#api.post("/v1/keys/query", body);
        this.#lists.accept(answer);
        return answer;
      }
      case RequestType.KeysClaim: {
        const answer = await this.#numbers.use((numbered) => this.#api.post("/v1/keys/claim", body, numbered));
        this.claims.push(...devicesOf(answer.one_time_keys));
        return answer;
      }
      case RequestType.ToDevice: {
        const { event_type: type } = request;
        const send = (numbered) => this.#api.post("/v1/to-device", { type, messages: body.messages }, numbered);
        await this.#numbers.use(send);
        if (type === "m.room.encrypted") this.shares.push(...devicesOf(body.messages));
        return {};
      }
      default:
        throw new Error(`no route for a request of type ${request.type}`);
    }
  }
}

const devicesOf = (nested) => Object.values(nested).flatMap((devices) => Object.keys(devices));
