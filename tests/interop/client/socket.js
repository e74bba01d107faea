// One connection: challenge, hello, welcome; then requests with ids and events in order. docs/protocol.md, "The socket".
import WebSocket from "ws";
import { ServerError } from "./http.js";

const ANSWERS = ["welcome", "ack", "done", "error", "checkpoint"];
const SUBPROTOCOL = "chatty.v1+json";

export class Socket {
  #socket;
  #waiting = new Map();
  #lastId = 0;
  #whenClosed;

  /** onEvent(event): everything that answers no request, in order. */
  constructor(origin, onEvent) {
    this.onEvent = onEvent;
    this.#socket = new WebSocket(origin.replace(/^http/, "ws") + "/v1/ws", SUBPROTOCOL);
    this.#whenClosed = new Promise((resolve) => this.#socket.on("close", resolve));
    this.challenge = new Promise((resolve, reject) => {
      this.#waiting.set("challenge", { resolve, reject });
    });
    this.#socket.on("error", (error) => this.#end(error));
    this.#socket.on("close", (code, reason) => this.#end(new Error(`closed with ${code} ${reason}`)));
    this.#socket.on("message", (data) => JSON.parse(data).forEach((event) => this.#take(event)));
  }

  /** Send one request; its answer, or the ServerError that answers it. */
  ask(type, fields) {
    const id = (this.#lastId += 1);
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#socket.send(JSON.stringify({ type, id, ...fields }));
    });
  }

  async close() {
    this.#socket.close();
    await this.#whenClosed;
  }

  #take(event) {
    const waiting = this.#waitingFor(event);
    if (event.type === "error") {
      const { code, message: text, is_retryable: isRetryable, retry_after_s: retryAfter, details = {} } = event;
      waiting?.reject(new ServerError({ code, text, isRetryable, retryAfter, details }));
    } else if (waiting) {
      waiting.resolve(event);
    } else {
      this.onEvent(event);
    }
  }

  /** Whose answer this is. A mailbox row has an id too, but of its own. */
  #waitingFor({ type, id }) {
    const key = ANSWERS.includes(type) ? id : type;
    const waiting = this.#waiting.get(key);
    this.#waiting.delete(key);
    return waiting;
  }

  #end(error) {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}
