// The page at `/`: asks the server that it came from, and shows what it answers. What a person
// pastes reaches the document as text (textContent) only.

import { body, counted, facts, offered, readResults, splitPassages } from "./call.js";
import { cohereCode, curlCode, requestsCode } from "./call.js";

const $ = (id) => document.getElementById(id);
const BASE = new URL(".", location.href).href.replace(/\/$/, "");
const TABS = [...document.querySelectorAll("[role=tab]")];

// -- the server ----------------------------------------------------------------------------------

let needsKey = false;

/** Raises Error with what to tell the person: the server's own message where it has one. */
async function ask(path, options = {}) {
  const headers = { ...options.headers };
  // A header's characters are bytes: a key beyond ASCII goes as the bytes of its UTF-8.
  const key = String.fromCharCode(...new TextEncoder().encode($("key").value.trim()));
  if (key) headers.authorization = `Bearer ${key}`;
  const response = await fetch(BASE + path, { ...options, headers }).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Error(`The server does not answer: see whether it still runs (${error.message}).`);
  });
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return { answer, headers: response.headers };
  if (response.status === 401) askForKey();
  throw new Error(answer?.message ?? `The server answered ${response.status}, with no reason.`);
}

function askForKey() {
  needsKey = true;
  $("key-form").hidden = false;
  showCode();
}

async function rerank(call, signal) {
  const started = performance.now();
  const headers = { "content-type": "application/json" };
  const options = { method: "POST", headers, body: JSON.stringify(body(call)), signal };
  const answered = await ask("/v2/rerank", options);
  const ms = performance.now() - started;
  const cut = answered.headers.get("x-rerank-truncated");
  return { model: call.model, ms, results: readResults(answered.answer, cut, call.documents) };
}

// -- what is shown -------------------------------------------------------------------------------

let runs = []; // one for each model of the last call
let asking = new AbortController();

/** An element with properties and children; texts stay texts. */
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function badge(text, title, kind = "") {
  const made = element("span", { className: `badge ${kind}`, title, role: "img" }, text);
  made.setAttribute("aria-label", title);
  return made;
}

/** How far a passage is from its rank in the first column. */
function moved(result, first) {
  const by = first.results.find((other) => other.index === result.index).rank - result.rank;
  const places = counted(Math.abs(by), "place");
  if (by === 0) return badge("=", `the same rank as with ${first.model}`, "same");
  if (by > 0) return badge(`▲${by}`, `${places} higher than with ${first.model}`, "up");
  return badge(`▼${-by}`, `${places} lower than with ${first.model}`, "down");
}

function row(result, first) {
  const { score, raw, stage } = result;
  const bar = element("div", { className: "bar" }, element("div", { className: "filled" }));
  bar.firstChild.style.width = `${Math.min(1, Math.max(0, score)) * 100}%`;
  const exact = `score ${score}` + (raw === undefined ? "" : `, raw value ${raw}`);
  const badges = [
    ...(first ? [moved(result, first)] : []),
    ...(stage ? [badge(`stage: ${stage}`, `scored by the “${stage}” stage of the cascade`)] : []),
    ...(result.cut ? [badge("cut", "too long: the model did not read its end", "warn")] : []),
  ];
  const text = element("p", { className: result.open ? "text open" : "text" }, result.text);
  const more = element("button", { type: "button", className: "more" });
  const toggle = (open) => {
    result.open = open;
    text.classList.toggle("open", open);
    more.textContent = open ? "less" : "more";
    more.setAttribute("aria-expanded", open);
  };
  more.onclick = () => toggle(!result.open);
  toggle(Boolean(result.open));
  const figures = element(
    "div", { className: "figures" },
    element("span", { className: "rank" }, `${result.rank}`), bar,
    element("span", { className: "score", title: exact }, score.toFixed(4)),
  );
  const beside = element("div", { className: "badges" }, ...badges, more);
  return element("li", {}, figures, element("div", { className: "said" }, text, beside));
}

function column(run, first) {
  const cutoff = Number($("cutoff").value);
  const list = (results, kind) => {
    const made = element("ol", { className: kind }, ...results.map((one) => row(one, first)));
    made.setAttribute("role", "list");
    return made;
  };
  const kept = run.results.filter((result) => result.score >= cutoff);
  const below = run.results.filter((result) => !(result.score >= cutoff));
  return element(
    "article", { className: "card" },
    element("h2", {}, run.model || "the default model"),
    element("p", { className: "note" }, facts(run, kept.length, first).join(" · ")),
    list(kept, "kept"),
    ...(below.length ? [element("p", { className: "line" }, "below the cut-off")] : []),
    list(below, "below"),
  );
}

function showResults() {
  $("results").style.setProperty("--cutoff", `${Number($("cutoff").value) * 100}%`);
  $("results").replaceChildren(...runs.map((run, place) => column(run, place ? runs[0] : null)));
  showMore();
}

/** "more" stands only under a text that does not fit. */
function showMore() {
  for (const text of document.querySelectorAll("p.text:not(.open)"))
    text.nextElementSibling.lastChild.hidden = text.scrollHeight <= text.clientHeight + 1;
}

function currentCall(model = $("model").value) {
  return { model, query: $("query").value, documents: splitPassages($("passages").value) };
}

function showCode() {
  const call = currentCall();
  $("count").textContent = counted(call.documents.length, "passage");
  $("panel-curl").textContent = curlCode(BASE, call, needsKey);
  $("panel-requests").textContent = requestsCode(BASE, call, needsKey);
  $("panel-cohere").textContent = cohereCode(BASE, call, needsKey);
}

function alertOf(messages) {
  $("alert").hidden = messages.length === 0;
  $("alert").textContent = messages.join("\n");
}

// -- what a person does --------------------------------------------------------------------------

async function loadModels() {
  const models = offered((await ask("/v1/models")).answer.data);
  const options = () =>
    models.map(({ id, llm, ready }) => {
      const label = id + (llm ? " (LLM)" : "") + (ready === false ? " (not ready)" : "");
      return element("option", { value: id }, label);
    });
  $("model").replaceChildren(...options());
  $("other").replaceChildren(element("option", { value: "" }, "none"), ...options());
  showCode();
}

/** One model after the other, so that neither takes time from the other. */
async function run() {
  asking.abort(); // a second press starts anew
  const { signal } = (asking = new AbortController());
  const [found, failures] = [[], []];
  $("results").setAttribute("aria-busy", "true");
  alertOf([]);
  try {
    if (!$("model").options.length) await loadModels();
    const call = currentCall();
    for (const model of [call.model, $("other").value].filter(Boolean)) {
      $("status").textContent = `Asking ${model} …`;
      const failed = ({ message }) => failures.push({ model, message });
      await rerank({ ...call, model }, signal).then((one) => found.push(one), failed);
    }
  } catch ({ message }) {
    failures.push({ message });
  }
  if (signal.aborted) return;
  runs = found;
  showResults();
  const differ = new Set(failures.map(({ message }) => message)).size > 1;
  alertOf([...new Set(failures.map((one) => (differ ? `${one.model}: ` : "") + one.message))]);
  const told = ({ model, results }) => `${model} ranked ${counted(results.length, "passage")}.`;
  $("status").textContent = runs.map(told).join(" ");
  $("results").setAttribute("aria-busy", "false");
}

function selectTab(tab) {
  for (const one of TABS) {
    one.setAttribute("aria-selected", one === tab);
    one.tabIndex = one === tab ? 0 : -1;
    $(one.getAttribute("aria-controls")).hidden = one !== tab;
  }
}

function moveTab(event) {
  const at = TABS.indexOf(event.target);
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: -1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  const tab = TABS.at(to % TABS.length);
  selectTab(tab);
  tab.focus();
}

/** The clipboard needs https or localhost; elsewhere the older way does it. */
async function copyCode() {
  const panel = document.querySelector("[role=tabpanel]:not([hidden])");
  const write = navigator.clipboard?.writeText(panel.textContent);
  const copied = await write?.then(() => true, () => false);
  if (!copied) getSelection().selectAllChildren(panel);
  const done = copied || document.execCommand("copy");
  $("copy").textContent = done ? "Copied" : "Press Ctrl+C";
  $("status").textContent = done ? "The code is in the clipboard." : "The code is selected.";
  setTimeout(() => ($("copy").textContent = "Copy"), 2000);
}

function setCutoff(value) {
  if (!(value >= 0 && value <= 1)) return;
  $("slider").value = $("cutoff").value = value;
  showResults();
}

const onSubmit = (form, act) =>
  $(form).addEventListener("submit", (event) => {
    event.preventDefault();
    act();
  });

onSubmit("ask", run);
onSubmit("key-form", () => loadModels().then(() => alertOf([]), ({ message }) => alertOf([message])));
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
});
for (const id of ["query", "passages", "model"]) $(id).addEventListener("input", showCode);
for (const id of ["cutoff", "slider"])
  $(id).addEventListener("input", (event) => setCutoff(event.target.valueAsNumber));
for (const tab of TABS) tab.onclick = () => selectTab(tab);
document.querySelector("[role=tablist]").addEventListener("keydown", moveTab);
$("copy").onclick = copyCode;
new ResizeObserver(showMore).observe($("results"));
showCode();
loadModels().catch((error) => alertOf(needsKey ? [] : [error.message]));
