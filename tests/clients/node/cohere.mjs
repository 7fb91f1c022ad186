// Cohere's SDK for Node: both versions of its API.
import { CohereClient, CohereClientV2 } from "cohere-ai";

export const WRONG_KEY = "UnauthorizedError";
export const UNKNOWN_MODEL = "NotFoundError";

export async function v2({ url, key, model, query, documents, topN }) {
  const client = new CohereClientV2({ token: key, environment: url });
  const answer = await client.rerank({ model, query, documents, topN });
  return answer.results.map((r) => ({ index: r.index, score: r.relevanceScore }));
}

export async function v1({ url, key, model, query, documents, topN }) {
  const client = new CohereClient({ token: key, environment: url });
  const answer = await client.rerank({ model, query, documents, topN, returnDocuments: true });
  return answer.results.map((r) => ({
    index: r.index,
    score: r.relevanceScore,
    document: r.document.text,
  }));
}
