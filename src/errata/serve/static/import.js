import { $, copies, el, fields, flags, guarded, lights, mayWrite, say, send, shown } from "./studio.js";

const text = $("#text"), preview = $("#preview"), write = $("#write"), box = $("#job");
let facts = [];

$("#file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (!file) return;
  text.text.value = await file.text();
  text.form.value = file.name.endsWith(".csv") ? "csv" : file.name.endsWith(".json") ? "json" : "jsonl";
});

text.addEventListener("submit", guarded(async () => {
  const row = await send("/api/preview", { text: text.text.value, form: text.elements.form.value });
  facts = row.facts;
  preview.replaceChildren(
    el("p", {}, el("span", { class: `light ${facts.length ? "on" : "off"}` }, `${facts.length} fact${facts.length === 1 ? "" : "s"}`), " ", el("span", { class: `light ${row.bad.length ? "off" : "on"}` }, `${row.bad.length} bad row${row.bad.length === 1 ? "" : "s"}`)),
    ...row.bad.slice(0, 50).map((b) => el("p", { class: "bad" }, b)), row.error && !row.bad.length ? el("p", { class: "bad" }, row.error) : "",
    facts.length ? el("div", { class: "card scroll", tabindex: "0", role: "region", "aria-label": "Facts" }, el("table", {}, el("thead", {}, el("tr", {}, ["prompt", "subject", "target"].map((h) => el("th", {}, h)))), el("tbody", {}, facts.slice(0, 100).map((f) => el("tr", {}, el("td", {}, f.prompt), el("td", {}, f.subject ?? ""), el("td", {}, f.target)))))) : "",
    facts.length > 100 ? el("p", { class: "quiet" }, `and ${facts.length - 100} more`) : "",
  );
  write.hidden = !facts.length || !mayWrite;
}));

write.addEventListener("submit", guarded(async () => {
  const { method, reason } = fields(write), given = { facts, method, label: { reason }, atomic: write.atomic.checked };
  const { job } = await send("/api/edits?wait=0", given, { key: crypto.randomUUID() });
  write.hidden = true;
  const bar = el("progress", { max: 1, value: 0, "aria-label": "Written" }), line = el("p", {}, "Waiting…");
  const stop = el("button", { type: "button", onclick: guarded(() => send(`/api/jobs/${job.id}/cancel`, {})) }, "Cancel");
  box.replaceChildren(el("div", { class: "card" }, line, bar, el("div", { class: "row" }, stop, copies({ command: `errata edit --facts facts.jsonl${flags({ method, reason })}`, path: "/api/edits", given }))));
  const events = new EventSource(`/api/jobs/${job.id}/events`);
  events.addEventListener("job", (event) => {
    const now = JSON.parse(event.data);
    bar.max = now.of || 1;
    bar.value = now.status === "done" ? bar.max : now.done;
    line.textContent = { queued: "Waiting for its turn.", running: `${now.done} of ${now.of || facts.length}`, done: "Written.", cancelled: "Cancelled; what was not finished is not written.", failed: now.error?.message }[now.status];
    if (["queued", "running"].includes(now.status)) return;
    events.close();
    stop.remove();
    if (now.status === "failed") { line.className = "bad"; return; }
    const done = now.result?.edits.flatMap((e) => e.facts) ?? [];
    if (now.result) {
      shown(now.result.version);
      line.textContent = `${done.length} fact${done.length === 1 ? "" : "s"} written in ${now.result.edits.length} edit${now.result.edits.length === 1 ? "" : "s"}; ${done.filter((f) => f.said).length} said by the model itself.`;
      box.append(lights(now.result.gates), ...now.result.notes.map((n) => el("p", { class: "bad" }, n)), el("p", {}, el("a", { href: "/book" }, "See the book")));
    }
    say(line.textContent);
  });
}));
