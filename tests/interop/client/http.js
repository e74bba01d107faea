// The routes under /v1. Numbered requests carry the device's n and low; what may be retried is, with the same bytes.
import { setTimeout as sleep } from "node:timers/promises";
import { DpopKey } from "./dpop.js";

const TRIES_MAX = 8;

export class ServerError extends Error {
  /** A problem document, or the `error` frame of a socket: the members that mend it stand in `details`. */
  constructor({ code, text, isRetryable, retryAfter, details }) {
    super(`${code}: ${text}`);
    Object.assign(this, { code, isRetryable, retryAfter, details });
  }
}

export class Api {
  #nonce;

  constructor(origin) {
    this.origin = origin;
    this.accessToken = "";
    this.dpop = new DpopKey();
    this.#nonce = "";
  }

  /** For the hello on a socket whose challenge holds this nonce. */
  socketProof = (nonce) => this.#proof("GET", "/v1/ws", nonce);

  #proof(method, path, nonce) {
    const url = this.origin + path.split("?")[0];
    return this.dpop.proof({ method, url, nonce, accessToken: this.accessToken });
  }

  get = (path) => this.#ask("GET", path);
  post = (path, body, numbered) => this.#ask("POST", path, body, numbered);

  /** numbered: {n, low} of a durable write. */
  async #ask(method, path, body, numbered) {
    for (let tries = 1; ; tries += 1) {
      try {
        return await this.#once(method, path, body, numbered);
      } catch (error) {
        if (error.code === "use_dpop_nonce" && tries < TRIES_MAX) continue; // the answer brought one
        const isSafe = method === "GET" || numbered !== undefined;
        const isRetryable = error instanceof ServerError ? error.isRetryable : isSafe;
        if (!isRetryable || tries === TRIES_MAX) throw error;
        await sleep(1000 * (error.retryAfter ?? 0.1 * tries) * (1 + Math.random()));
      }
    }
  }

  async #once(method, path, body, numbered) {
    const headers = {};
    if (this.accessToken) headers.Authorization = `DPoP ${this.accessToken}`;
    if (this.accessToken) headers.DPoP = this.#proof(method, path, this.#nonce);
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (numbered) Object.assign(headers, { "Idempotency-Key": String(numbered.n), "Chatty-Low": String(numbered.low) });
    const response = await fetch(this.origin + path, { method, headers, body: body && JSON.stringify(body) });
    this.#nonce = response.headers.get("dpop-nonce") ?? this.#nonce;
    const answer = await response.json();
    if (response.ok) return answer;
    const { code, detail: text, is_retryable: isRetryable, retry_after_s: retryAfter } = answer;
    throw new ServerError({ code, text, isRetryable, retryAfter, details: answer });
  }
}
