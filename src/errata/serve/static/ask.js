import { $, body, change, copied, copies, el, fields, finished, flags, guarded, lights, mayWrite, pythonFact, say, send } from "./studio.js";

const form = $("#ask"), answers = $("#answers"), tools = $("#tools"), panel = $("#correct"), fact = $("#fact"), tried = $("#tried");
let picked = { from: -1, to: -1 };

const words = (text) => text.match(/\s*\S+|\s+$/g) ?? [];

// Which words of each text are not in the other, by the longest common run of words.
function others(one, two) {
  const grid = Array.from({ length: one.length + 1 }, () => new Uint16Array(two.length + 1));
  for (let i = one.length - 1; i >= 0; i--)
    for (let j = two.length - 1; j >= 0; j--)
      grid[i][j] = one[i].trim() === two[j].trim() ? grid[i + 1][j + 1] + 1 : Math.max(grid[i + 1][j], grid[i][j + 1]);
  const left = new Set(one.keys()), right = new Set(two.keys());
  for (let i = 0, j = 0; i < one.length && j < two.length; ) {
    if (one[i].trim() === two[j].trim()) { left.delete(i++); right.delete(j++); } else if (grid[i + 1][j] >= grid[i][j + 1]) i++; else j++;
  }
  return [left, right];
}

const bars = (top) => el("ul", { class: "bars", "aria-label": "Likeliest next tokens" }, top.map(({ token, p }) => {
  const bar = el("span");
  bar.style.width = `${100 * p}%`;
  return el("li", {}, el("span", { class: "token", title: token }, token.replaceAll("\n", "⏎")), el("span", { class: "track", "aria-hidden": "true" }, bar), el("span", { class: "p" }, p < 0.0005 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`));
}));

function card(row, list, other, side) {
  const said = el("p", { class: "said" }, el("span", { class: "asked" }, row.prompt));
  list.forEach((word, place) => said.append(el("button", {
    type: "button", class: `word${other.has(place) ? " other" : ""}`, "aria-pressed": "false", title: mayWrite ? "wrong? choose it" : "",
    onclick: (event) => choose(said, row, list, place, event.shiftKey),
  }, word)));
  if (!list.length) said.append(el("i", { class: "quiet" }, " (nothing)"));
  const head = el("h2", {}, row.model, el("span", { class: "quiet small" }, `${row.edits.length} edit${row.edits.length === 1 ? "" : "s"}`));
  const fix = mayWrite && side ? el("button", { type: "button", class: "fix", onclick: () => correct(said, row, list) }, "Correct this") : null;
  return el("article", { class: `card answer ${side ? "right" : ""}`, "aria-label": row.model }, head, said, bars(row.top), row.notes.map((n) => el("p", { class: "quiet small" }, n)), fix);
}

function choose(said, row, list, place, more) {
  if (!mayWrite) return;
  picked = more && picked.said === said ? { said, from: Math.min(picked.from, place), to: Math.max(picked.to, place) } : { said, from: place, to: place };
  for (const one of document.querySelectorAll(".word")) one.setAttribute("aria-pressed", "false");
  [...said.querySelectorAll(".word")].slice(picked.from, picked.to + 1).forEach((one) => one.setAttribute("aria-pressed", "true"));
  correct(said, row, list);
}

async function correct(said, row, list) {
  const from = picked.said === said ? picked.from : 0;
  const prompt = (row.prompt + list.slice(0, from).join("")).replace(/\s+$/, "");
  panel.hidden = false;
  tried.replaceChildren();
  fact.prompt.value = prompt;
  fact.target.value = "";
  fact.target.placeholder = `instead of ${list.slice(from, Math.max(from, picked.to) + 1).join("").trim() || "nothing"}`;
  fact.dataset.chat = row.chat;
  fact.target.focus();
  panel.scrollIntoView({ block: "nearest" });
  try {
    const { job } = await finished(await send("/api/subject", { prompt }));
    fact.subject.value = job.result.subject;
    $("#found").textContent = job.result.subject ? "The subject was found by itself; put in another where it is wrong." : "Name what the prompt is about, as it stands there.";
  } catch (error) { $("#found").textContent = error.message; }
}

const ask = guarded(async () => {
  const given = fields(form), asked = { prompt: given.prompt, states: [given.a, given.b], max_new_tokens: Number(given.length) };
  const { states } = await send("/api/ask", asked);
  const lists = states.map((row) => words(row.text));
  const [left, right] = others(...lists);
  picked = { from: -1, to: -1 };
  answers.replaceChildren(...states.map((row, i) => card(row, lists[i], i ? right : left, i)));
  const link = new URL(location.href);
  link.search = new URLSearchParams({ prompt: given.prompt, a: given.a, b: given.b, length: given.length });
  history.replaceState(null, "", link);
  const fixed = new URL(link);
  for (const side of ["a", "b"]) fixed.searchParams.set(side, given[side].replace(/@now$/, `@${body.version}`));
  tools.hidden = false;
  tools.replaceChildren(
    copies({
      command: `errata ask ${given.prompt.startsWith("-") ? "-- " : ""}${quotedPrompt(given.prompt)}`, path: "/v1/completions",
      given: { model: given.b, prompt: given.prompt, max_tokens: Number(given.length) },
      python: `from openai import OpenAI\n\nclient = OpenAI(base_url=${JSON.stringify(location.origin + "/v1")}, api_key="…")\nclient.completions.create(model=${JSON.stringify(given.b)}, prompt=${JSON.stringify(given.prompt)}, max_tokens=${given.length}).choices[0].text`,
    }),
    el("button", { type: "button", onclick: () => copied(fixed.href, "a link to exactly these states") }, "Link to these states"),
    el("a", { class: "button", href: `/where?${new URLSearchParams({ prompt: given.prompt })}` }, "Where is it?"),
  );
});
const quotedPrompt = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
form.addEventListener("submit", ask);

const factOf = () => {
  const { prompt, subject, target } = fields(fact);
  return { prompt, subject, target, ...(fact.dataset.chat === "true" ? { chat: true } : {}) };
};

const LABELS = { fact: "the fact", paraphrase: "in other words", neighborhood: "a neighbour", unrelated: "unrelated", portability: "what follows", alias: "another name" };

fact.addEventListener("submit", guarded(async () => {
  const one = factOf(), { method, reason } = fields(fact), given = { facts: [one], method };
  tried.replaceChildren(el("p", { class: "quiet" }, "Trying it on the model…"));
  let result;
  try { result = (await finished(await send("/api/try", given))).job.result; } catch (error) { tried.replaceChildren(el("p", { class: "bad" }, error.message)); return; }
  const moved = result.rows.filter((r) => ["neighborhood", "unrelated"].includes(r.kind) && r.moved).length;
  const rows = result.rows.map((r) => {
    const stays = ["neighborhood", "unrelated"].includes(r.kind);
    return el("tr", { class: stays ? (r.moved ? "moved" : "") : r.said ? "good" : "moved" }, el("td", {}, `${LABELS[r.kind] ?? r.kind}${r.made ? " (made)" : ""}`), el("td", {}, r.prompt), el("td", {}, r.before), el("td", { class: "after" }, r.after));
  });
  tried.replaceChildren(
    lights(result.gates),
    el("p", {}, moved ? `${moved} neighbour${moved === 1 ? "" : "s"} moved.` : "No neighbour moved."),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Before and after" }, el("table", {}, el("thead", {}, el("tr", {}, ["", "asked", "before", "after"].map((h) => el("th", {}, h)))), el("tbody", {}, rows))),
    el("div", { class: "row" },
      el("button", { type: "button", class: "main", id: "keep", onclick: guarded(() => keep(one, method, fields(fact).reason)) }, "Keep it"),
      el("button", { type: "button", id: "discard", onclick: () => { panel.hidden = true; say("Nothing was written."); } }, "Drop it"),
      copies({ command: `errata edit${flags({ prompt: one.prompt, subject: one.subject, target: one.target, method, reason })}`, path: "/api/edits", given: { ...given, label: { reason } }, python: pythonFact(one, method, reason) })),
  );
}));

async function keep(one, method, reason) {
  const result = await change("/api/edits", { facts: [one], method, label: { reason } });
  if (!result) return;
  const id = result.edits[0].id;
  panel.hidden = true;
  say(`Kept as edit ${id.slice(0, 8)}: it says “${result.edits[0].facts[0].after.trim()}”. ${result.notes.join(" ")}`, false,
    el("button", { id: "undo", onclick: guarded(async () => { if (await change("/api/drop", { ids: [id], reason: "undone at once" })) { say("Undone; everything is as it was, to the bit."); await ask(); } }) }, "Undo"));
  const now = [...form.b.options].find((o) => o.value.endsWith("@now"));
  form.b.value = now.value;
  await ask();
}

$("#close").addEventListener("click", () => { panel.hidden = true; });

const given = new URLSearchParams(location.search);
for (const name of ["prompt", "length"]) if (given.get(name)) form[name].value = given.get(name);
for (const side of ["a", "b"]) {
  const state = given.get(side);
  if (state && ![...form[side].options].some((o) => o.value === state)) form[side].append(el("option", { value: state }, state));
  if (state) form[side].value = state;
}
if (given.get("prompt")) ask();
