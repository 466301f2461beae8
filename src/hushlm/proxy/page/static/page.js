// The page's course: models, price, question, answer, history. Nothing is stored; all is gone when the page is closed.
import * as proxy from "./stream.js";
import * as view from "./view.js";

const at = (id) => document.getElementById(id);
const PAUSE_MS = 300;

let running = null;
let pricing = null;
let timer = null;

const body = () => ({ model: at("model").value, prompt: at("prompt").value, max_tokens: at("tokens").valueAsNumber });

function refused(error) {
  if (error.status === 401) {
    view.showAlert(at("key").value ? error.message : "This proxy asks for its API key: type it above.");
    const first = at("key-field").hidden;
    at("key-field").hidden = false;
    if (first) at("key").focus(); // once: not while somebody types elsewhere
  } else {
    view.showAlert(error.message);
  }
}

async function loadModels() {
  const found = await proxy.models(at("key").value);
  const chosen = at("model").value;
  at("model").replaceChildren(...found.map((model) => new Option(`${model.id} (${model.architecture}, up to ${model.context_length} tokens)`, model.id)));
  if (found.some((model) => model.id === chosen)) at("model").value = chosen;
}

/** The price of what stands in the form. Throws what the proxy says against it. */
async function price(signal) {
  if (!at("model").options.length) await loadModels();
  return proxy.estimate(at("key").value, body(), signal);
}

function schedulePrice() {
  clearTimeout(timer);
  pricing?.abort();
  if (!at("prompt").value) {
    view.showEstimateText("The price appears here before you ask.");
    return;
  }
  timer = setTimeout(async () => {
    pricing = new AbortController();
    const { signal } = pricing;
    try {
      view.showEstimate(await price(signal));
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 400) view.showEstimateText(error.message);
      else refused(error);
    }
  }, PAUSE_MS);
}

async function ask() {
  const controller = new AbortController();
  running = controller;
  at("ask").disabled = true;
  at("stop").disabled = false;
  view.showAlert("");
  const asked = body();
  let started = false;
  let answer = "";
  let how;
  try {
    const cost = await price(controller.signal);
    view.showEstimate(cost);
    view.startAnswer(asked.prompt, cost);
    started = true;
    view.say("Asked. The answer arrives token by token.");
    let setUp = null;
    let query = null;
    let tokens = 0;
    for await (const event of proxy.ask(at("key").value, asked, controller.signal)) {
      if (event.object === "hush.progress") {
        if (event.phase === "query") query = event;
        else if (event.phase === "set-up") setUp = event;
        view.showProgress(event);
        view.showServer(cost, setUp, query, event.seconds);
        view.showSample(event.sent_sample);
      } else if (event.choices?.length) {
        tokens += 1;
        answer += event.choices[0].text;
        view.addText(event.choices[0].text);
      }
    }
    how = `Done: ${tokens} tokens, ${view.megabytes((query?.sent_bytes ?? 0) + (query?.received_bytes ?? 0))} in ${view.time(query?.seconds ?? 0)}.`;
    view.say(`The answer is complete: ${answer}`);
  } catch (error) {
    how = controller.signal.aborted ? "Stopped: the session was given up at both ends." : "It failed.";
    view.say(controller.signal.aborted ? how : "");
    if (!controller.signal.aborted) refused(error);
  } finally {
    const hadFocus = document.activeElement === at("stop");
    running = null;
    at("ask").disabled = false;
    at("stop").disabled = true;
    if (hadFocus) at("ask").focus();
  }
  if (!started) return;
  view.endAnswer(how);
  view.remember(asked.prompt, answer, how);
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) ask();
});
at("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("form").requestSubmit();
});
at("stop").addEventListener("click", () => running?.abort());
at("clear").addEventListener("click", () => {
  view.forget();
  at("prompt").focus();
});
for (const id of ["prompt", "tokens", "model"]) at(id).addEventListener("input", schedulePrice);
at("key").addEventListener("change", () => {
  view.showAlert("");
  loadModels().then(schedulePrice, refused);
});
loadModels().then(schedulePrice, refused);
