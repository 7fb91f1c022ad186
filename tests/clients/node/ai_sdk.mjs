// Vercel's AI SDK: `rerank` with its Cohere provider.
import { createCohere } from "@ai-sdk/cohere";
import { rerank } from "ai";

export const WRONG_KEY = "AI_APICallError";
export const UNKNOWN_MODEL = "AI_APICallError";

export async function cohere({ url, key, model, query, documents, topN }) {
  const provider = createCohere({ apiKey: key, baseURL: `${url}/v2` });
  const answer = await rerank({ model: provider.reranking(model), query, documents, topN });
  return answer.ranking.map((r) => ({
    index: r.originalIndex,
    score: r.score,
    document: r.document,
  }));
}
