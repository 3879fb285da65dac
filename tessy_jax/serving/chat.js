// A conversation with the model or the pair behind this server. Texts are only ever put in as text.
"use strict";

const $ = (id) => document.getElementById(id);
const state = { model: null, pair: null, messages: [], running: null };

// -- the server -------------------------------------------------------------------------------------------------------

async function ask(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  if ($("key").value) headers.Authorization = `Bearer ${$("key").value.trim()}`;
  const options = body ? { method: "POST", body: JSON.stringify(body) } : {};
  const answer = await fetch(`v1/${path}`, { headers, signal, ...options });
  $("key-field").hidden = answer.status !== 401 && !$("key").value;
  if (answer.ok) return answer;
  throw new Error((await answer.json()).error.message);
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("the server has ended the answer early");
    const parts = (waiting + value).split("\n\n");
    waiting = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

async function meet() {
  try {
    const [model] = (await (await ask("models")).json()).data;
    state.model = model.id;
    state.pair = model.tessy ?? null;
    $("about").textContent = `${model.id}: ${model.max_model_len} tokens for the conversation`;
    for (const author of ["student", "teacher"]) $(author).textContent = state.pair ? `${author}: ${state.pair[author]}` : "";
    $("legend").hidden = !state.pair;
    for (const field of document.getElementsByClassName("one-model")) field.hidden = Boolean(state.pair);
    complain("");
  } catch (error) {
    complain(error.message);
  }
  ready();
}

// -- the page ---------------------------------------------------------------------------------------------------------

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function complain(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

function ready() {
  $("send").disabled = state.running !== null;
  $("stop").disabled = state.running === null;
  $("clear").disabled = state.running !== null;
}

function show(change) {
  const log = $("log");
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  change();
  if (follows) log.scrollTop = log.scrollHeight;
}

function said(role, title) {
  const article = element("article", role);
  article.append(element("h2", "", title));
  show(() => $("log").append(article));
  return article;
}

// Puts more text behind what is there: into the last span, where that is by the same author.
function extend(place, text, author) {
  const last = place.lastElementChild;
  if (last && last.className === author) last.firstChild.appendData(text);
  else place.append(element("span", author, text));
}

function reply() {
  const article = said("assistant", state.model);
  article.setAttribute("aria-busy", "true"); // read out when it is whole
  const details = element("details", "");
  const thinking = element("div", "text thinking");
  const answer = element("div", "text answer");
  const facts = element("p", "facts");
  details.open = true;
  details.hidden = true;
  details.append(element("summary", "", "thinking"), thinking);
  article.append(details, answer, facts);
  return { article, details, thinking, answer, facts };
}

// -- a turn -----------------------------------------------------------------------------------------------------------

function request() {
  const body = { model: state.model, messages: state.messages, stream: true, stream_options: { include_usage: true } };
  for (const name of ["seed", "temperature", "max_tokens"]) {
    const field = $(name);
    if (!field.value.trim() || field.parentElement.hidden) continue;
    if (!Number.isFinite(Number(field.value))) throw new Error(`${name}: ${field.value} is no number`);
    body[name] = Number(field.value);
  }
  return body;
}

async function listen(shown, signal) {
  const began = performance.now();
  let content = "", finish = "", usage = null;
  for await (const event of events(await ask("chat/completions", request(), signal))) {
    usage = event.usage ?? usage;
    for (const { delta, finish_reason } of event.choices) {
      const author = delta.tessy?.by ?? "";
      show(() => {
        if (delta.reasoning_content) {
          shown.details.hidden = false;
          extend(shown.thinking, delta.reasoning_content, author);
        }
        if (delta.content) extend(shown.answer, delta.content, "");
      });
      content = shown.answer.textContent;
      if (finish_reason) finish = finish_reason === "length" ? "cut off: no more tokens" : "";
      if (delta.tessy?.spans) finish += ` seed ${delta.tessy.seed}`;
    }
  }
  const seconds = (performance.now() - began) / 1000;
  const speed = usage ? `${usage.completion_tokens} tokens in ${seconds.toFixed(1)} s` : "";
  show(() => { shown.facts.textContent = [speed, finish.trim()].filter(Boolean).join(", "); });
  return content;
}

async function send() {
  const text = $("message").value;
  if (!text.trim() || state.running) return;
  if (!state.model) await meet();
  if (!state.model) return;
  complain("");
  const mine = said("user", "you");
  mine.append(element("div", "text", text));
  state.messages.push({ role: "user", content: text });
  $("message").value = "";
  state.running = new AbortController();
  ready();
  const shown = reply();
  try {
    const content = await listen(shown, state.running.signal);
    state.messages.push({ role: "assistant", content });
  } catch (error) {
    if (state.running.signal.aborted) {
      show(() => { shown.facts.textContent = "stopped"; });
      state.messages.push({ role: "assistant", content: shown.answer.textContent });
    } else { // as if it had not been sent
      state.messages.pop();
      mine.remove();
      shown.article.remove();
      $("message").value ||= text;
      complain(error.message);
    }
  } finally {
    shown.article.removeAttribute("aria-busy");
    state.running = null;
    ready();
    $("message").focus();
  }
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("message").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
$("stop").addEventListener("click", () => state.running?.abort());
$("clear").addEventListener("click", () => {
  state.messages = [];
  $("log").replaceChildren();
  complain("");
});
$("key").addEventListener("change", meet);
meet();
