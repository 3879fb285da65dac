// The viewer of traces. Texts are only ever put in by textContent; blocks of traces are unpacked when one is shown.
"use strict";

const $ = (id) => document.getElementById(id);
const ROW = 68; // pixels, as in viewer.css
const COLUMNS = ["id", "set", "tokens", "switches", "share", "novelty", "correct", "think", "answer", "flags", "prompt", "block", "at"];
const SORTS = {
  "as they stand": (row) => row.number,
  "most surprising": (row) => -row.novelty,
  "least surprising": (row) => row.novelty,
  longest: (row) => -row.tokens,
  shortest: (row) => row.tokens,
  "most switches": (row) => -row.switches,
  "most by the teacher": (row) => -row.share,
  "least by the teacher": (row) => row.share ?? 2,
};
const BLOCKS = 8; // unpacked at the same time
const PIECE = 1500; // pieces of text put in before the browser may draw
const view = { rows: [], shown: [], sets: [], flags: [], now: null, trace: null, found: null, search: 0, drawing: 0, jump: -1 };

// -- blocks -----------------------------------------------------------------------------------------------------------

async function unpack(element) {
  const text = atob(element.textContent);
  const bytes = Uint8Array.from(text, (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const kept = new Map(); // the blocks used last, the latest behind
function block(number) {
  const found = kept.get(number) ?? unpack(document.getElementsByClassName("block")[number]);
  kept.delete(number);
  kept.set(number, found);
  if (kept.size > BLOCKS) kept.delete(kept.keys().next().value);
  return found;
}

// -- the list ---------------------------------------------------------------------------------------------------------

function element(kind, name, text) {
  const made = document.createElement(kind);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

const flagsOf = (row) => view.flags.filter((_, n) => row.flags & (1 << n));

function facts(row) {
  const said = [`${row.tokens} tokens`, `${row.novelty.toFixed(2)} nats`];
  if (row.switches !== null) said.push(`${row.switches} switches`);
  if (row.share !== null) said.push(`teacher ${Math.round(100 * row.share)} %`);
  if (row.correct !== null) said.push(row.correct ? "right" : "wrong");
  if (row.think !== null) said.push(`${row.think} / ${row.answer}`);
  return said.join(" · ");
}

function drawRow(row, place) {
  const made = element("div", row === view.now ? "row now" : "row");
  made.style.top = `${place * ROW}px`;
  made.setAttribute("role", "option");
  made.setAttribute("aria-selected", row === view.now);
  const flags = flagsOf(row).join(", ");
  made.append(element("div", "id", `${row.id}${view.sets.length > 1 ? ` (${view.sets[row.set]})` : ""}`));
  made.append(element("div", "", row.prompt), element("div", flags ? "flags" : "facts", flags ? `${facts(row)} · ${flags}` : facts(row)));
  made.onclick = () => choose(row);
  return made;
}

function drawList() {
  const list = $("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
  const last = Math.min(view.shown.length, first + Math.ceil(list.clientHeight / ROW) + 10);
  $("rows").style.height = `${view.shown.length * ROW}px`;
  $("rows").replaceChildren(...view.shown.slice(first, last).map((row, n) => drawRow(row, first + n)));
}

function range(name) {
  const bound = (end, none) => ($(`${name}-${end}`).value === "" ? none : Number($(`${name}-${end}`).value));
  return [bound("min", -Infinity), bound("max", Infinity)];
}

function passes(row) {
  for (const [name, scale] of [["tokens", 1], ["switches", 1], ["share", 100], ["novelty", 1]]) {
    const [low, high] = range(name);
    if (low === -Infinity && high === Infinity) continue;
    if (row[name] === null || scale * row[name] < low || scale * row[name] > high) return false;
  }
  for (const name of ["set", "think", "answer", "correct"]) {
    if ($(name).value !== "" && $(name).value !== String(row[name])) return false;
  }
  return $("flag").value === "" || Boolean(row.flags & (1 << Number($("flag").value)));
}

function filter() {
  const key = SORTS[$("sort").value];
  view.shown = view.rows.filter((row) => passes(row) && (view.found === null || view.found.has(row)));
  view.shown.sort((a, b) => key(a) - key(b) || a.number - b.number);
  $("count").textContent = `${view.shown.length.toLocaleString("en")} of ${view.rows.length.toLocaleString("en")} traces`;
  $("list").scrollTop = 0;
  drawList();
}

// Ids and prompts at once, then the texts of all blocks, one after the other.
async function search() {
  const wanted = $("search").value.toLowerCase();
  const mine = ++view.search;
  if (!wanted) {
    view.found = null;
    filter();
    return;
  }
  view.found = new Set(view.rows.filter((row) => `${row.id}\n${row.prompt}`.toLowerCase().includes(wanted)));
  filter();
  const blocks = Map.groupBy(view.rows.filter((row) => row.block >= 0), (row) => row.block);
  let done = 0;
  for (const [number, rows] of blocks) {
    const traces = await (kept.get(number) ?? unpack(document.getElementsByClassName("block")[number]));
    if (mine !== view.search) return; // another search has begun
    for (const row of rows) {
      const trace = traces[row.at];
      const said = [trace.t, ...trace.m.map((message) => message[1])];
      if (said.some((text) => text.toLowerCase().includes(wanted))) view.found.add(row);
    }
    if (++done % 50 === 0) filter();
  }
  filter();
}

// -- one trace --------------------------------------------------------------------------------------------------------

const addressOf = (row) => `#trace/${row.set}/${encodeURIComponent(row.id)}`;

async function choose(row, fromAddress = false) {
  view.now = row;
  if (!fromAddress) history.replaceState(null, "", addressOf(row));
  drawList();
  const trace = row.block < 0 ? null : (await block(row.block))[row.at];
  if (view.now !== row) return;
  view.trace = trace;
  view.jump = -1;
  drawTrace();
}

function drawTrace() {
  const row = view.now, trace = view.trace;
  $("about").textContent = `${row.id} · ${view.sets[row.set]} · ${facts(row)}${row.flags ? ` · ${flagsOf(row).join(", ")}` : ""}`;
  $("link").href = addressOf(row);
  $("text").replaceChildren();
  $("messages").replaceChildren();
  if (trace === null) {
    $("text").textContent = "The page holds as many traces as fit; the text of this one is in its file only.";
    return;
  }
  for (const [role, content] of trace.m) $("messages").append(element("b", "", role), element("pre", "", content));
  drawKey();
  drawText(trace, ++view.drawing);
}

function drawKey() {
  const colour = $("colour").value;
  const authors = [["student", "student"], ["teacher", "teacher"], ["answer", "answer (student)"]];
  const said = { author: authors, surprise: [], style: [], none: [] }[colour];
  $("key").replaceChildren(...said.map(([name, text]) => element("span", name, text)));
  if (colour === "surprise") {
    for (const nats of [0.5, 2, 4, 8]) {
      const made = element("span", "", `${nats} nats`);
      made.style.background = heat(100 * nats);
      $("key").append(made);
    }
  }
  if (colour === "style") {
    for (const style of [0, 250, 500, 750, 1000]) {
      const made = element("span", "", `P(style) ${style / 1000}`);
      made.style.background = mixed(style);
      $("key").append(made);
    }
    $("key").append(element("span", "cut", "0.1"), element("span", "", "the span ended: the next word had this P(style)"));
  }
}

const heat = (nats) => `rgba(var(--hot), ${Math.min(0.85, nats / 900).toFixed(3)})`;

const mixed = (style) => `color-mix(in srgb, var(--student) ${style / 10}%, var(--teacher))`;

// Every place at which the look may change, and what the text from there on is.
function pieces(trace) {
  const colour = $("colour").value, tokens = $("student-tokens").checked, others = $("teacher-tokens").checked;
  const tails = $("dropped-text").checked ? trace.x : undefined;
  const cuts = new Map([[0, {}]]);
  const at = (place) => cuts.get(place) ?? cuts.set(place, {}).get(place);
  let end = 0;
  for (const [a, b, by, phase, , dropped] of trace.s) {
    Object.assign(at(a), { span: phase ? "answer" : by ? "teacher" : "student" });
    if (dropped && !tails) at(b).dropped = dropped;
    if (!("span" in at(b))) at(b).span = "";
  }
  if (tokens || colour === "surprise") {
    let place = trace.o;
    trace.e.forEach((step, n) => {
      end += step;
      const cut = at(place); // of tokens that end in one character, the surprise is added up
      Object.assign(cut, { nats: (cut.token ? cut.nats : 0) + trace.n[n], token: true });
      place = end;
    });
    if (place < trace.t.length) Object.assign(at(place), { nats: null });
  }
  if (colour === "style") {
    for (const [a, b, style] of trace.w ?? []) {
      if (a === b) (at(a).rejected ??= []).push(style);
      else {
        at(a).style = style;
        if (!("style" in at(b))) at(b).style = null;
      }
    }
  }
  for (const [place, ...tail] of tails ?? []) (at(place).tails ??= []).push(tail);
  if (others && trace.d) {
    let place = 0;
    for (const step of trace.d) {
      at(place).other = true;
      place += step;
    }
  }
  return [...cuts].sort((a, b) => a[0] - b[0]);
}

async function drawText(trace, mine) {
  const colour = $("colour").value, tokens = $("student-tokens").checked;
  const cuts = pieces(trace), text = $("text");
  let span = "", nats = null, style = null, made = document.createDocumentFragment();
  for (let n = 0; n < cuts.length; n++) {
    const [place, what] = cuts[n];
    const end = n + 1 < cuts.length ? cuts[n + 1][0] : trace.t.length;
    if ("span" in what) span = what.span;
    if ("nats" in what) nats = what.nats;
    if ("style" in what) style = what.style;
    for (const said of what.rejected ?? []) {
      const note = element("span", "cut", (said / 1000).toFixed(2));
      note.title = `a word was rejected here: P(style) ${said / 1000}`;
      made.append(note);
    }
    if (what.dropped) {
      const note = element("span", "dropped", ` ⟲${what.dropped} `);
      note.title = `${what.dropped} tokens were sampled here and rolled back`;
      made.append(note);
    }
    for (const [by, count, said] of what.tails ?? []) {
      const author = by ? "teacher" : "student";
      const note = element("span", `dropped text ${author}`, said);
      note.title = `${count} tokens of the ${author}, sampled here and rolled back`;
      made.append(note);
    }
    if (end > place) made.append(piece(trace.t.slice(place, end), { span, ...what, nats, style }, colour, tokens));
    if (n % PIECE === PIECE - 1) {
      text.append(made);
      made = document.createDocumentFragment();
      await new Promise((resume) => setTimeout(resume));
      if (mine !== view.drawing) return;
    }
  }
  text.append(made);
}

function piece(text, what, colour, tokens) {
  const made = element("span", colour === "author" ? what.span : "", text);
  const said = what.span ? [what.span] : [];
  if (what.style !== null) {
    made.style.background = mixed(what.style);
    made.dataset.style = what.style;
    said.unshift(`P(style) ${what.style / 1000}`);
  }
  if (what.nats !== null) {
    if (colour === "surprise") made.style.background = heat(what.nats);
    made.dataset.nats = what.nats;
    said.unshift(`${(what.nats / 100).toFixed(2)} nats`);
  }
  if (said.length) made.title = said.join(", ");
  if (tokens && what.token) made.classList.add("b-student");
  if (what.other) made.classList.add("b-teacher");
  return made;
}

// The next token that costs more than four nats.
function jump() {
  if (!$("text").querySelector("[data-nats]")) set("colour", "surprise");
  const hot = [...$("text").querySelectorAll("[data-nats]")].filter((one) => Number(one.dataset.nats) > 400);
  $("text").querySelector(".found")?.classList.remove("found");
  if (!hot.length) return;
  view.jump = (view.jump + 1) % hot.length;
  hot[view.jump].classList.add("found");
  hot[view.jump].scrollIntoView({ block: "center" });
}

// -- moving -----------------------------------------------------------------------------------------------------------

function move(step) {
  const at = view.shown.indexOf(view.now);
  const row = view.shown[at < 0 ? 0 : Math.max(0, Math.min(view.shown.length - 1, at + step))];
  if (!row) return;
  const top = view.shown.indexOf(row) * ROW, list = $("list");
  if (top < list.scrollTop) list.scrollTop = top;
  if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
  choose(row);
}

function set(id, value) {
  const box = $(id);
  if (box.type === "checkbox") box.checked = !box.checked;
  else box.value = value;
  if (view.now) drawTrace();
}

const KEYS = {
  j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1), x: jump, "/": () => $("search").focus(),
  a: () => set("colour", "author"), s: () => set("colour", "surprise"), p: () => set("colour", "none"),
  w: () => $("style-choice") && set("colour", "style"),
  t: () => set("student-tokens"), r: () => set("teacher-tokens"), d: () => set("dropped-text"),
};

function pressed(event) {
  const typing = event.target.matches("input:not([type=checkbox]), select");
  if (typing && event.key === "Escape") event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || $("traces").hidden || !(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
}

// #report, #traces, or #trace/<number of the data set>/<id>
function go() {
  const [place, number, id] = location.hash.slice(1).split("/");
  const report = place !== "traces" && place !== "trace";
  $("report").hidden = !report;
  $("traces").hidden = report;
  document.querySelectorAll("nav a").forEach((link, n) => link.classList.toggle("now", report === (n === 0)));
  if (report) return;
  const name = place === "trace" ? decodeURIComponent(id ?? "") : null;
  const row = name === null ? view.now ?? view.shown[0] : view.rows.find((one) => one.id === name && String(one.set) === number);
  drawList();
  if (!row) $("text").textContent = name === null ? "" : "There is no such trace in this page.";
  else {
    const at = view.shown.indexOf(row);
    if (at >= 0) $("list").scrollTop = Math.max(0, at * ROW - $("list").clientHeight / 2);
    choose(row, true);
  }
}

function offer(id, values) {
  $(id).append(...values.map(([value, text]) => Object.assign(element("option", "", text), { value })));
}

async function start() {
  const index = await unpack($("index"));
  Object.assign(view, { sets: index.sets, flags: index.flags });
  view.rows = index.rows.map((row, number) => ({ number, ...Object.fromEntries(row.map((value, n) => [COLUMNS[n], value])) }));
  offer("set", [["", "any"], ...view.sets.map((name, n) => [n, name])]);
  for (const name of ["think", "answer"]) offer(name, [["", "any"], ...[...new Set(view.rows.map((row) => row[name]))].sort().map((v) => [String(v), v ?? "not known"])]);
  offer("flag", [["", "any"], ...view.flags.map((name, n) => [n, name])]);
  offer("sort", Object.keys(SORTS).map((name) => [name, name]));
  $("teacher-choice").hidden = !(view.rows.length && view.rows[0].block >= 0 && "d" in (await block(view.rows[0].block))[0]);
  for (const one of $("filters").querySelectorAll("select, input[type=number]")) one.oninput = filter;
  let wait = 0;
  $("search").oninput = () => {
    clearTimeout(wait);
    wait = setTimeout(search, 150);
  };
  $("clear").onclick = () => {
    for (const one of $("filters").querySelectorAll("select, input")) one.value = one.id === "sort" ? Object.keys(SORTS)[0] : "";
    search();
  };
  $("dropped-choice").hidden = !index.dropped;
  if (!index.scores) $("style-choice").remove();
  for (const one of ["colour", "student-tokens", "teacher-tokens", "dropped-text"]) $(one).onchange = () => view.now && drawTrace();
  $("list").onscroll = drawList;
  addEventListener("resize", drawList);
  addEventListener("keydown", pressed);
  addEventListener("hashchange", go);
  filter();
  go();
  document.body.dataset.ready = "yes";
}

start();
