// Talks to the proxy that served this page, and to nobody else.

/** An error that the proxy told, or that kept it from telling anything. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const gone = "This page's proxy does not answer: is `hushlm proxy` still running?";

/** Send a request; a refusal becomes an exception with the proxy's own sentence. */
async function send(path, key, body, signal) {
  const headers = {};
  if (key) headers.authorization = `Bearer ${key}`;
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refused(0, gone);
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  throw new Refused(response.status, told?.error?.message ?? `The proxy answered with status ${response.status}.`);
}

export const models = async (key) => (await (await send("/v1/models", key)).json()).data;

export const estimate = async (key, body, signal) => (await send("/page/estimate", key, body, signal)).json();

/** The events of an answer as they come: progress and pieces of the text. Aborting the signal gives the session up at both ends. */
export async function* ask(key, body, signal) {
  const response = await send("/page/completions", key, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffered = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (signal.aborted) throw error;
      throw new Refused(0, gone);
    }
    if (part.done) throw new Refused(0, "The proxy ended before the answer was complete.");
    buffered += part.value;
    const frames = buffered.split("\n\n");
    buffered = frames.pop();
    for (const frame of frames) {
      if (!frame.startsWith("data: ")) continue;
      if (frame === "data: [DONE]") return;
      const event = JSON.parse(frame.slice(6));
      if (event.error) throw new Refused(502, event.error.message);
      yield event;
    }
  }
}
