import { $, body, change, copies, el, fields, finished, flags, guarded, mayWrite, send } from "./studio.js";

const found = $("#found");
const show = (head, ...inside) => { found.replaceChildren(el("section", { class: "card" }, el("h2", {}, head), ...inside)); found.focus(); found.scrollIntoView({ block: "nearest" }); };
const told = (one) => (one ? el("span", {}, one.prompt, " ", el("b", {}, one.target)) : el("i", { class: "quiet" }, "as the base"));

async function changed(path, given) {
  if (await change(path, given)) location.reload();
}

const acts = {
  drop: ({ id }) => ask("Undo", `errata drop ${id.slice(0, 8)}`, "/api/drop", (reason) => ({ ids: [id], reason })),
  restore: ({ id }) => ask("Restore", `errata restore ${id.slice(0, 8)}`, "/api/restore", (reason) => ({ ids: [id], reason })),
  checkout: ({ name }) => ask(`Go back to ${name}`, `errata checkout ${name}`, "/api/checkout", (reason) => ({ state: name, reason })),
  untag: ({ name }) => changed("/api/untag", { name }),
  async diff({ a }) {
    const path = `/api/diff?${new URLSearchParams({ a, b: "now" })}`, row = await send(path);
    show(`Since ${a}`,
      el("p", { class: "quiet" }, `${row.dropped.length} dropped, ${row.added.length} added, ${row.sites.length} ${row.sites.length === 1 ? "matrix differs" : "matrices differ"}`),
      row.facts.length ? el("ul", { class: "plain" }, row.facts.map((f) => el("li", {}, told(f.before), " → ", told(f.after)))) : el("p", {}, "Nothing is said otherwise."),
      copies({ command: `errata diff ${a} now`, path }));
  },
  async conflicts() {
    const row = await send("/api/conflicts");
    const none = !row.facts.length && !row.keys.length;
    show("Conflicts", none ? el("p", {}, "No two edits get in each other's way.") : null,
      el("ul", { class: "plain" }, row.facts.map((c) => el("li", {}, `${c.kind}: `, told(c.first), " · ", told(c.second))), row.keys.map((k) => el("li", {}, `keys at ${k.site}: ${k.edit_id.slice(0, 8)} and ${k.other_id.slice(0, 8)}, ${(100 * k.share).toFixed(0)} %`))),
      copies({ command: "errata conflicts", path: "/api/conflicts" }));
  },
  async check() {
    show("Asking…");
    const { job } = await finished(await send("/api/check", {}));
    show("Every fact, asked", el("p", { class: "quiet" }, Object.entries(job.result.counts).map(([k, n]) => `${n} ${k}`).join(", ") || "There are none."),
      el("ul", { class: "plain" }, job.result.facts.map((f) => el("li", {}, el("span", { class: `light ${f.status === "holds" ? "on" : "off"}` }, f.status), " ", f.prompt, " ", el("b", {}, f.said)))),
      copies({ command: "errata check", path: "/api/check", given: {} }));
  },
};

// A change is shown with its command before it is made, and takes a reason.
function ask(what, command, path, given) {
  const form = el("form", {}, el("label", {}, "Why ", el("input", { name: "reason", maxlength: "2000", autocomplete: "off" })), el("div", { class: "row" }, el("button", { class: "main", id: "do" }, what), copies({ command, path, given: given("") })));
  form.addEventListener("submit", guarded(() => changed(path, given(fields(form).reason))));
  show(`${what}?`, form);
  form.reason.focus();
}

for (const button of document.querySelectorAll("[data-do]")) {
  const reading = ["diff", "conflicts"].includes(button.dataset.do);
  if (!mayWrite && !reading) button.disabled = true;
  button.addEventListener("click", guarded(() => acts[button.dataset.do](button.dataset)));
}
$("#tag")?.addEventListener("submit", guarded(() => changed("/api/tags", fields($("#tag")))));
if ($("#tag")) $("#tag").append(copies({ command: `errata tag NAME${flags({})}`, path: "/api/tags", given: { name: "NAME" } }));
export { body };
