// What all pages share: asking the server, saying what came of it, and the same action as a command, curl and Python.

export const body = document.body.dataset;
export const mayWrite = body.mayWrite === "yes";
export const $ = (selector, root = document) => root.querySelector(selector);

// Elements are only ever made with text, never from markup.
export function el(name, given = {}, ...inside) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(given)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key in made && typeof value !== "string") made[key] = value;
    else if (value !== false && value != null) made.setAttribute(key === "className" ? "class" : key, value);
  }
  made.append(...inside.flat().filter((one) => one != null && one !== false));
  return made;
}

export function say(text, bad = false, action = null) {
  const box = $("#say");
  const line = el("p", { class: bad ? "bad" : "" }, el("span", {}, text), el("span", { class: "acts" }, action, el("button", { onclick: () => line.remove() }, "Close")));
  box.replaceChildren(line);
}

export class Refused extends Error {
  constructor(message, status, row) { super(message); this.status = status; this.row = row; }
}

export async function send(path, given, { seen = false, key = "" } = {}) {
  const headers = { "content-type": "application/json", "x-errata": "studio" };
  if (seen) headers["if-match"] = `"v${body.version}"`;
  if (key) headers["idempotency-key"] = key;
  let answer;
  try {
    answer = await fetch(path, given === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(given) });
  } catch {
    throw new Refused("The server does not answer. It may be starting again; try once more in a moment.", 0, null);
  }
  const row = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(row.error?.message ?? `${answer.status}: ${answer.statusText}`, answer.status, row);
  return row;
}

// A change that goes by what this page shows: refused if the book has changed since.
export async function change(path, given) {
  try {
    const row = await finished(await send(path, given, { seen: true, key: crypto.randomUUID() }));
    if (row.job.result?.version != null) shown(row.job.result.version);
    return row.job.result;
  } catch (error) {
    if (error.status === 409 && error.row?.error?.code === "VersionPassed") {
      say(`Nothing was changed: ${error.message}`, true, el("button", { onclick: () => location.reload() }, "Look again"));
      return null;
    }
    throw error;
  }
}

export function shown(version) {
  body.version = version;
  $("#version").textContent = version;
}

// Wait for a job that takes longer than one request.
export async function finished(row, told = () => {}) {
  while (["queued", "running"].includes(row.job.status)) {
    told(row.job);
    await new Promise((next) => setTimeout(next, 300));
    row = await send(`/api/jobs/${row.job.id}`);
  }
  told(row.job);
  if (row.job.status === "failed") throw new Refused(row.job.error.message, row.job.error.status, row);
  return row;
}

export function guarded(work) {
  return async (event) => {
    event?.preventDefault?.();
    const button = event?.submitter ?? (event?.currentTarget instanceof HTMLButtonElement ? event.currentTarget : null);
    if (button) button.disabled = true;
    document.body.setAttribute("aria-busy", "true");
    try { await work(event); } catch (error) { say(error.message, true); } finally {
      if (button) button.disabled = false;
      document.body.removeAttribute("aria-busy");
    }
  };
}

export const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${String(text).replaceAll("'", `'\\''`)}'`);
const py = (value) => JSON.stringify(value).replaceAll(/\btrue\b/g, "True").replaceAll(/\bfalse\b/g, "False").replaceAll(/\bnull\b/g, "None");

export function asCurl(path, given) {
  const data = given === undefined ? "" : ` \\\n  -H 'content-type: application/json' -d ${quoted(JSON.stringify(given))}`;
  return `curl -H "Authorization: Bearer $ERRATA_TOKEN" ${quoted(location.origin + path)}${data}`;
}

export const flags = (given) => Object.entries(given).filter(([, v]) => v).map(([k, v]) => ` --${k} ${quoted(v)}`).join("");

// Buttons that copy an action in three forms.
export function copies({ command, path, given, python }) {
  const forms = { command, curl: asCurl(path, given), Python: python ?? viaHttp(path, given) };
  return el("span", { class: "copy" }, "copy as ", Object.entries(forms).filter(([, text]) => text).map(([name, text]) =>
    el("button", { type: "button", title: text, onclick: () => copied(text, name) }, name)));
}

function viaHttp(path, given) {
  const more = given === undefined ? "" : `, json=${py(given)}`;
  return `import httpx, os\n\nhttpx.${given === undefined ? "get" : "post"}(${py(location.origin + path)}${more}, headers={"Authorization": f"Bearer {os.environ['ERRATA_TOKEN']}"}, timeout=60).json()`;
}

export const pythonFact = (f, method, reason) =>
  `import errata\nfrom errata import Fact\n\nwith errata.open(${py(body.model)}) as editor:\n    editor.write(Fact(prompt=${py(f.prompt)}, subject=${py(f.subject)}, target=${py(f.target)}), method=${py(method)}, reason=${py(reason)})`;

export async function copied(text, name) {
  try { await navigator.clipboard.writeText(text); say(`Copied as ${name}.`); } catch { say(text); }
}

export const fields = (form) => Object.fromEntries(new FormData(form));

export function lights(gates) {
  return el("ul", { class: "lights", "aria-label": "Gates" }, gates.map((g) => {
    const value = g.value == null ? (g.asked ? "no finite number" : "nothing to ask") : `${+g.value.toPrecision(3)}${g.gate === "perplexity" ? " %" : ""}${g.made ? `, ${g.made} of ${g.asked} made` : ""}`;
    const limit = g.limit == null || g.value == null ? "" : `, ${["perplexity", "norm_ratio"].includes(g.gate) ? "at most" : "at least"} ${g.limit}`;
    return el("li", {}, el("span", { class: `light ${g.value == null && !g.asked ? "" : g.passed ? "on" : "off"}`, title: g.lost.join("\n") }, g.value == null && !g.asked ? g.gate : `${g.gate} ${g.passed ? "open" : "closed"}`), el("span", { class: "quiet small" }, ` ${value}${limit}`));
  }));
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.target.form?.requestSubmit();
});
