// Acts on commands, one JSON object a line: {"id", "person", "do", …arguments}. Answers {"id", "value"} or {"id", "error"}.
// With "person" the method `do` of that person is called with the values of `with`; "register" makes a person.
import { webcrypto } from "node:crypto";
import { createInterface } from "node:readline";
import { initAsync } from "@matrix-org/matrix-sdk-crypto-wasm";
import { Person } from "./person.js";
import { checkVectors } from "./vectors.js";

const [origin] = process.argv.slice(2);
const people = new Map();

async function act({ person, do: what, with: values = [] }) {
  if (what === "vectors") return checkVectors();
  if (what === "register") {
    const registered = await Person.register(origin, person, ...values);
    people.set(person, registered);
    return { user: registered.user, device: registered.device };
  }
  return people.get(person)[what](...values);
}

async function answer(line) {
  const { id, ...command } = JSON.parse(line);
  try {
    return { id, value: (await act(command)) ?? null };
  } catch (error) {
    process.stderr.write(`${error.stack ?? error}\n`);
    return { id, error: String(error.message ?? error) };
  }
}

globalThis.crypto ??= webcrypto; // Node 18 has it, but not where the library looks for randomness
await initAsync();
for await (const line of createInterface({ input: process.stdin })) {
  answer(line).then((done) => process.stdout.write(JSON.stringify(done) + "\n"));
}
process.exit(0);
