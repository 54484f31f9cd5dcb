import { $, copies, el, fields, finished, flags, guarded, send } from "./studio.js";

const form = $("#where"), map = $("#map");
const TITLES = { block: "hidden state", mlp: "MLP output", attention: "attention output" };

function heat(rows, names, layers, peak, describe, readout, subject = []) {
  const box = el("div", { class: "heat", role: "img" });
  box.style.gridTemplateColumns = `minmax(3.5rem, 8rem) repeat(${layers.length}, minmax(4px, 1fr))`;
  rows.forEach((row, y) => {
    box.append(el("span", { class: `name${subject.includes(y) ? " subject" : ""}`, title: names[y] }, names[y]));
    row.forEach((value, x) => {
      const tell = () => { readout.textContent = describe(y, x, value); };
      const cell = el("span", { class: `cell${value < 0 ? " cold" : ""}`, title: describe(y, x, value), onmouseenter: tell, onclick: tell });
      cell.style.setProperty("--heat", Math.min(1, Math.abs(value) / peak).toFixed(3));
      box.append(cell);
    });
  });
  box.append(el("span"), ...layers.map((layer, i) => el("span", { class: "layer" }, layers.length > 12 && i % 5 ? "" : layer)));
  return box;
}

function traced(row) {
  const tokens = row.tokens.map((t) => t.trim() || JSON.stringify(t)), [first, last] = row.subject, subject = tokens.map((_, i) => i).filter((i) => i >= first && i <= last);
  const peak = Math.max(1e-9, ...Object.values(row.effect).flat(2));
  return Object.entries(row.effect).map(([state, effect]) => {
    const readout = el("p", { class: "readout quiet small" }, "Point at a cell.");
    const layers = effect[0].map((_, i) => String(i));
    const best = effect.flatMap((r, y) => r.map((v, x) => [v, y, x])).sort((a, b) => b[0] - a[0])[0];
    const map = heat(effect, tokens, layers, peak, (y, x, v) => `“${tokens[y]}”, layer ${x}: brings back ${(100 * v).toFixed(1)} % of probability`, readout, subject);
    map.setAttribute("aria-label", `${TITLES[state]} restored: most at “${tokens[best[1]]}”, layer ${best[2]}, ${(100 * best[0]).toFixed(1)} %`);
    return el("section", { class: "card" }, el("h2", {}, `${TITLES[state] ?? state} restored`), map, readout);
  });
}

function neurons(row) {
  const layers = Object.keys(row.map), bins = row.map[layers[0]].length, step = Math.ceil(bins / 48), wide = Math.ceil(bins / step), readout = el("p", { class: "readout quiet small" }, "Point at a cell.");
  const rows = layers.map((layer) => {
    return Array.from({ length: wide }, (_, i) => row.map[layer].slice(i * step, (i + 1) * step).reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a), 0));
  }).map((r) => r.map((v) => Math.sign(v) * Math.sqrt(Math.abs(v))));
  const peak = Math.max(1e-9, ...rows.flat().map(Math.abs)), size = Math.round((step * row.inner) / bins);
  const drawn = heat(rows, layers.map((l) => `layer ${l}`), rows[0].map(() => ""), peak, (y, x, v) => `layer ${layers[y]}, neurons ${x * size} to ${Math.min(row.inner, (x + 1) * size) - 1}: strongest ${(v * Math.abs(v)).toPrecision(3)} ${v < 0 ? "against" : "for"} the answer`, readout);
  drawn.setAttribute("aria-label", `${row.size} of ${row.candidates} neurons hold it, most of them in layer ${row.layer}`);
  const shares = el("ul", { class: "bars", "aria-label": "Share of the ensemble by layer" }, layers.map((layer) => {
    const bar = el("span"), share = row.share[layer] ?? 0;
    bar.style.width = `${100 * share}%`;
    return el("li", {}, el("span", { class: "token" }, `layer ${layer}`), el("span", { class: "track", "aria-hidden": "true" }, bar), el("span", { class: "p" }, `${(100 * share).toFixed(0)} %`));
  }));
  return [el("section", { class: "card whole" }, el("h2", {}, `${row.size} of ${row.candidates.toLocaleString("en")} neurons`), el("p", { class: "quiet small" }, `each row a layer, from neuron 0 to ${row.inner - 1}; red for the answer, blue against it`), drawn, readout), el("section", { class: "card" }, el("h2", {}, "Where the ensemble is"), shares)];
}

form.addEventListener("submit", guarded(async () => {
  const given = fields(form);
  map.replaceChildren(el("p", { class: "quiet" }, "Looking…"));
  try {
    if (!given.subject) {
      given.subject = (await finished(await send("/api/subject", { prompt: given.prompt }))).job.result.subject;
      form.subject.value = given.subject;
    }
    const { job } = await finished(await send("/api/locate", given));
    const row = job.result;
    map.replaceChildren(
      el("p", {}, row.method === "trace" ? `“${row.target}” has ${(100 * row.clean).toFixed(1)} % and, with noise on the subject, ${(100 * row.corrupted).toFixed(1)} %. Layer ${row.layer}'s MLP brings most of it back.` : `“${row.target}”: most of it in layer ${row.layer}.`),
      ...row.notes.map((n) => el("p", { class: "bad" }, n)), ...(row.method === "trace" ? traced(row) : neurons(row)),
      copies({ command: `errata locate${flags({ prompt: given.prompt, subject: given.subject, target: given.target, method: given.method })}`, path: "/api/locate", given }));
    const link = new URL(location.href);
    link.search = new URLSearchParams(given);
    history.replaceState(null, "", link);
  } catch (error) { map.replaceChildren(); throw error; }
}));

const given = new URLSearchParams(location.search);
for (const name of ["prompt", "subject", "target", "method"]) if (given.get(name)) form[name].value = given.get(name);
if (given.get("prompt")) form.requestSubmit();
