// Calls every function of one client's script: what `run.py` does, on Node.
import path from "node:path";
import { json } from "node:stream/consumers";

const WRONG = { unknown_model: { model: "no-such-model" }, wrong_key: { key: "wrong-key" } };

async function attempt(call, task) {
  try {
    return await call(task);
  } catch (error) {
    return { error: error.name === "Error" ? error.constructor.name : error.name, text: error.message };
  }
}

async function facts(call, task) {
  const found = { all: await attempt(call, { ...task, topN: task.documents.length }) };
  found.top = await attempt(call, task);
  for (const [name, wrong] of Object.entries(WRONG)) {
    found[name] = await attempt(call, { ...task, ...wrong });
  }
  return found;
}

const { top_n: topN, ...rest } = await json(process.stdin);
const script = await import(path.resolve(process.argv[2]));
const found = {};
for (const [name, call] of Object.entries(script)) {
  if (typeof call === "function") found[name] = await facts(call, { ...rest, topN });
}
console.log("\n" + JSON.stringify(found));
