// Pure: a call as it is sent, its answer as it is shown, and itself as code that runs when pasted.

/** Passages are paragraphs: a blank line ends one. */
export const splitPassages = (text) =>
  text.split(/\n\s*\n/).map((passage) => passage.trim()).filter(Boolean);

export const counted = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

export const body = ({ model, query, documents }) => ({
  model,
  query,
  documents,
  return_documents: false,
});

/** The models to offer, the default one first: a model's other names are left out. */
export function offered(models) {
  const roots = models.filter((model) => (model.root ?? model.id) === model.id);
  return roots.sort((a, b) => Boolean(b.default) - Boolean(a.default));
}

/** The answer as a list of what the page shows of each passage, best first. */
export function readResults(answer, header, documents) {
  const cut = new Set((header ?? "").split(",").filter(Boolean).map(Number));
  return answer.results.map((result, place) => ({
    index: result.index,
    rank: place + 1,
    score: result.relevance_score,
    raw: result.raw_score,
    stage: result.stage,
    cut: cut.has(result.index),
    text: documents[result.index],
  }));
}

/** What stands above a list of which `kept` results reach the cut-off; `first` is compared with. */
export function facts({ ms, results }, kept, first) {
  const cut = results.filter((result) => result.cut).length;
  return [
    `${Math.round(ms)} ms, the network included`,
    `${kept} of ${results.length} reach the cut-off`,
    ...(cut ? [`${cut} cut: not read to the end`] : []),
    ...(results.some(({ stage }) => stage) ? ["scores compare within a stage only"] : []),
    ...(first ? [`▲▼ places against ${first.model}`] : []),
  ];
}

// -- as code -------------------------------------------------------------------------------------

// What JSON leaves as it is, but a terminal acts upon or an editor hides or moves about.
const UNSAFE = /[\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;

/** JSON, which is a Python literal too as long as it holds strings and lists of them only. */
function literal(value, indent) {
  const escape = (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0");
  return JSON.stringify(value, null, indent).replace(UNSAFE, escape);
}

const shellQuote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export const curlCode = (base, call, needsKey) =>
  [
    `curl -sS ${shellQuote(base + "/v2/rerank")}`,
    ...(needsKey ? ["-H 'authorization: Bearer YOUR_KEY'"] : []),
    "-H 'content-type: application/json'",
    `-d ${shellQuote(literal(body(call), 2))}`,
  ].join(" \\\n  ");

export const requestsCode = (base, { model, query, documents }, needsKey) => `import requests

documents = ${literal(documents, 4)}
answer = requests.post(
    ${literal(base + "/v2/rerank")},${
      needsKey ? '\n    headers={"Authorization": "Bearer YOUR_KEY"},' : ""
    }
    json={
        "model": ${literal(model)},
        "query": ${literal(query)},
        "documents": documents,
        "return_documents": False,
    },
    timeout=60,
)
if not answer.ok:
    raise SystemExit(answer.text)
for result in answer.json()["results"]:
    print(result["relevance_score"], documents[result["index"]])
`;

export const cohereCode = (base, { model, query, documents }, needsKey) => `import cohere

documents = ${literal(documents, 4)}
client = cohere.ClientV2("${needsKey ? "YOUR_KEY" : "no-key-needed"}", base_url=${literal(base)})
answer = client.rerank(
    model=${literal(model)},
    query=${literal(query)},
    documents=documents,
)
for result in answer.results:
    print(result.relevance_score, documents[result.index])
`;
