// The message index of a Megolm message, which decryption does not tell: version, then fields of the protocol-buffer kind.

export function messageIndex(message) {
  if (message[0] !== 3 || message[1] !== 0x08) throw new Error("no Megolm message");
  let index = 0;
  for (let at = 2, shift = 0; ; at += 1, shift += 7) {
    index += (message[at] & 0x7f) * 2 ** shift;
    if (message[at] < 0x80) return index;
  }
}
