// Proofs that whoever sends a token holds its key (RFC 9449). docs/protocol.md, "Identity".
import { createHash, randomBytes } from "node:crypto";
import { canonicalJson, fromText, sha256, toUrlText } from "./encoding.js";
import { publicKey, sign } from "./signing.js";

const toJson = (value) => toUrlText(JSON.stringify(value));

export class DpopKey {
  #seed;
  #jwk;

  constructor(seed = randomBytes(32)) {
    this.#seed = seed;
    this.#jwk = { crv: "Ed25519", kty: "OKP", x: toUrlText(fromText(publicKey(seed), 32)) };
    this.thumbprint = toUrlText(sha256(canonicalJson(this.#jwk)));
  }

  /** For one request. url: without query. now: ms since 1970. */
  proof({ method, url, nonce, accessToken, jti = toUrlText(randomBytes(12)), now = Date.now() }) {
    const claims = { jti, htm: method, htu: url, iat: Math.floor(now / 1000), nonce };
    if (accessToken) claims.ath = toUrlText(createHash("sha256").update(accessToken).digest());
    const signed = `${toJson({ alg: "EdDSA", typ: "dpop+jwt", jwk: this.#jwk })}.${toJson(claims)}`;
    return `${signed}.${toUrlText(fromText(sign(this.#seed, signed), 64))}`;
  }
}
