// What the page shows. Text is always set as text, never as HTML.

const at = (id) => document.getElementById(id);

export const megabytes = (bytes) => `${(bytes / 1e6).toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 })} MB`;

export function time(seconds) {
  if (seconds < 120) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

const count = (number) => number.toLocaleString("en");

export function showEstimate(found) {
  const [local, wide] = Object.values(found.seconds);
  at("estimate").textContent =
    `${count(found.prompt_tokens)} tokens and ${count(found.new_tokens)} new ones: about ${megabytes(found.bytes)}, ` +
    `${time(local)} on a local network, ${time(wide)} on a wide one (80 ms, 100 Mbps). ` +
    `Opening the session moves ${megabytes(found.set_up_bytes)} more.` +
    (found.prepared_bytes === null ? "" : ` An answer is prepared for this length: with it only ${megabytes(found.prepared_bytes)} move now.`);
}

export function showEstimateText(text) {
  at("estimate").textContent = text;
}

export function showAlert(text) {
  at("alert").textContent = text;
  at("alert").hidden = !text;
}

/** For screen readers: a sentence now and then, not every token. */
export function say(text) {
  at("said").textContent = text;
}

export function startAnswer(prompt, price) {
  showAlert("");
  at("asked").textContent = prompt;
  at("text").textContent = "";
  at("bar").value = 0;
  at("where").textContent = "Waiting for a place";
  at("layers").replaceChildren(...Array.from({ length: price.layers }, (_, layer) => {
    const item = document.createElement("li");
    item.textContent = layer + 1;
    return item;
  }));
  for (const id of ["progress", "sides"]) at(id).hidden = false;
  at("sample").hidden = true;
  showServer(price, null, null, 0);
}

export function addText(piece) {
  at("text").textContent += piece;
  at("answer").scrollTop = at("answer").scrollHeight;
}

export function showProgress(progress) {
  if (progress.phase === "note") return; // on prepared answers; the price has said it
  at("where").textContent = `${progress.description[0].toUpperCase()}${progress.description.slice(1)}`;
  at("bar").value = progress.done_share;
  if (progress.phase !== "query") return;
  const done = progress.step === progress.steps;
  [...at("layers").children].forEach((item, layer) => {
    const now = !done && progress.layer === layer + 1;
    const past = done || (progress.layer === null ? progress.step * 2 > progress.steps : layer + 1 < progress.layer);
    item.className = now ? "now" : past ? "done" : "";
    if (now) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  });
}

/** The table of what the server knows: `setUp` and `query` are the last reports of progress of each phase. */
export function showServer(price, setUp, query, seconds) {
  const sum = (name) => (setUp?.[name] ?? 0) + (query?.[name] ?? 0);
  const rows = [
    ["Session", setUp || query ? "opened" : "not open yet"],
    ["Your text", "nothing"],
    ["Its length", `${count(price.prompt_tokens)} tokens`],
    ["Tokens asked for", count(price.new_tokens)],
    ["What you learn of each step", price.reveal === "token" ? "the token alone" : price.reveal],
    ["Left this machine", megabytes(sum("sent_bytes"))],
    ["Came from the server", megabytes(sum("received_bytes"))],
    ["Messages", count(sum("sent_messages") + sum("received_messages"))],
    ["Time so far", time(seconds)],
  ];
  at("server").replaceChildren(...rows.flatMap(([name, value]) => {
    const term = document.createElement("dt");
    const text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value;
    return [term, text];
  }));
}

/** Bytes that really left, a list of hexadecimal texts, one for each link: in rows of 16 bytes. */
export function showSample(links) {
  at("sample").hidden = !links.length;
  at("bytes").textContent = links.map((hex) => hex.match(/.{1,32}/g).map((row) => row.match(/../g).join(" ")).join("\n")).join("\n\n");
}

export function endAnswer(how) {
  at("where").textContent = how;
  for (const item of at("layers").children) item.removeAttribute("aria-current");
}

export function remember(prompt, answer, how) {
  const item = document.createElement("li");
  const text = document.createElement("p");
  const mark = document.createElement("mark");
  const note = document.createElement("p");
  text.className = "answer";
  note.className = "help";
  mark.textContent = answer;
  text.append(prompt, mark);
  note.textContent = how;
  item.append(text, note);
  at("entries").prepend(item);
  at("history").hidden = false;
}

export function forget() {
  at("entries").replaceChildren();
  at("history").hidden = true;
}
