/* The book's players: recorded searches, and the cost explorer. Only a page that has one loads the library and data.
   Each takes over the table that stands in the page (see wiring_book/site.py) and keeps it in step with the pictures. */
"use strict";
(() => {
  // Opened from disk, a page may load scripts and nothing else: neither data nor a search result's text by fetch.
  if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS === "object") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

  const here = new URL("players/", document.currentScript.src);
  const loading = {};
  const load = (name) => (loading[name] ??= new Promise((resolve, reject) => {
    const script = Object.assign(document.createElement("script"), { src: new URL(name, here), onload: resolve, onerror: reject });
    document.head.append(script);
  }));
  const data = async (name) => { await load(`${name}.js`); return window.wiring[name]; };

  // ---- small helpers ----
  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const signed = (value, digits = 4) => {
    const size = Math.abs(value).toFixed(digits);
    return (Number(size) === 0 ? "" : value < 0 ? "−" : "+") + size;
  };
  const short = (operation) => operation.replace("_connect", "").replace("_conv_", " ").replace("_pool_3x3", " pool").replace("x", "×");
  const select = (label, options, chosen, change) => {
    const menu = element("select", {}, ...options.map(([value, text]) => element("option", { value }, text)));
    menu.value = chosen;
    menu.addEventListener("change", () => change(menu.value));
    return element("label", {}, `${label} `, menu);
  };
  const fill = (root, caption, rows) => {
    root.querySelector("caption").textContent = caption;
    root.querySelector("tbody").replaceChildren(...rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, String(cell))))));
  };

  // ---- the look: the page's own colours, light or dark ----
  const COSTS = "#d6604d", EARNS = "#4393c3";  // as in the book's cost maps: red costs, blue earns
  const page = () => {
    const style = getComputedStyle(document.documentElement);
    return {
      ink: style.getPropertyValue("--pst-color-text-base").trim(),
      muted: style.getPropertyValue("--pst-color-text-muted").trim(),
      paper: style.getPropertyValue("--pst-color-background").trim(),
      grid: style.getPropertyValue("--pst-color-border").trim(),
    };
  };
  const layout = (more) => {
    const { ink } = page();
    return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, size: 13 }, hovermode: false,
      margin: { l: 8, r: 8, t: 8, b: 8 }, showlegend: false, ...more };
  };
  const axis = (more) => {
    const { grid, muted } = page();
    return { gridcolor: grid, zerolinecolor: muted, linecolor: grid, fixedrange: true, ...more };
  };
  const draw = (plot, label, traces, shape) => {
    plot.setAttribute("aria-label", label);
    return Plotly.react(plot, traces, shape, { displayModeBar: false, responsive: true, staticPlot: true });
  };
  const picture = (kind) => element("div", { class: `wiring-${kind}`, role: "img" });

  /* The cell. An edge has a width, an opacity, a colour, a dash and the lines of its label. */
  const cell = (plot, label, { nodes, edges, output }, looks) => {
    const { ink, muted, paper } = page();
    const end = (edge, value) => edge.x.map((_, k) => (k === edge.x.length - 1 ? value : 0));  // at the last point only
    const line = (edge, { colour, width, opacity, dash }) => ({
      x: edge.x, y: edge.y, mode: "lines+markers", opacity, cliponaxis: false,
      line: { color: colour, width, dash, backoff: end(edge, 12) },
      marker: { color: colour, symbol: "arrow", angleref: "previous", standoff: end(edge, 14), opacity: 1, line: { width: 0 },
        size: end(edge, 9 + 1.2 * width) },
    });
    const traces = [
      ...output.map((edge) => line(edge, { colour: muted, width: 1, opacity: 0.5, dash: "solid" })),
      ...edges.map((edge, k) => line(edge, looks[k])),
      { x: nodes.map((n) => n.x), y: nodes.map((n) => n.y), text: nodes.map((_, k) => String(k)), mode: "markers+text", cliponaxis: false,
        textfont: { color: ink }, marker: { size: 26, color: paper, line: { color: ink, width: 1.2 } } },
    ];
    // A level, straight edge is short: its label stands beside it, towards the outside.
    const level = ({ x, y }) => (x.length === 2 && y[0] === y[1] ? Math.sign(y[0] || 1) : 0);
    const labels = edges.map((edge, k) => ({ x: edge.label[0], y: edge.label[1], yshift: 20 * level(edge), text: looks[k].lines.join("<br>"), showarrow: false,
      bgcolor: paper, borderpad: 1, font: { size: 12, color: looks[k].ink } }));
    const names = nodes.filter((n) => n.name).map((n) => ({ x: n.x, y: n.y, xshift: n.x < 0 ? -6 : 0, yshift: n.y < 0 ? -26 : 26, text: n.name.replace("before ", "before<br>"), showarrow: false, font: { color: muted, size: 11 } }));
    const xs = nodes.map((n) => n.x), ys = [...nodes.map((n) => n.y), ...edges.flatMap((edge) => edge.y)];
    return draw(plot, label, traces, layout({
      height: 240 + 12 * edges.length, annotations: [...labels, ...names],
      xaxis: { visible: false, fixedrange: true, range: [Math.min(...xs) - 0.62, Math.max(...xs) + 0.4] },
      yaxis: { visible: false, fixedrange: true, range: [Math.min(...ys) - 0.55, Math.max(...ys) + 0.55] },
    }));
  };

  // ---- recorded searches ----
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  const search = async (root) => {
    const names = root.dataset.runs.split(" ");
    const { operations, colours, titles } = await data("common");
    const graph = picture("graph"), curves = picture("curves");
    const slider = element("input", { type: "range", min: 0, step: 1 });
    const play = element("button", { type: "button" }, "Play");
    const spoken = element("output", { class: "wiring-spoken", "aria-live": "polite" });
    const seeds = element("select"), controls = element("div", { class: "wiring-controls" });
    let recorded, run, timer;

    const choose = async (name) => {
      recorded = await data(name);
      seeds.replaceChildren(...recorded.runs.map((own, k) => element("option", { value: k }, own.seed)));
      start(0);
    };
    const start = (number) => {
      run = recorded.runs[number];
      slider.max = run.cost.length;
      slider.value = slider.max;  // the end of the search says most to one who touches nothing
      show();
    };
    const state = (epoch) => recorded.cell.edges.map((edge, k) => {
      const p = run.probability[epoch][k], cost = epoch ? run.cost[epoch - 1][k] : null;
      const best = p.indexOf(Math.max(...p));
      return { edge, number: k, p, best, cost, dropped: best === 0 };
    });
    const show = () => {
      const epoch = Number(slider.value), last = run.cost.length, edges = state(epoch), { ink, muted } = page();
      const crowded = edges.length > 6;  // then the table alone names operations and curves
      const caption = `${recorded.title}, seed ${run.seed}, epoch ${epoch} of ${last}`;
      const gone = edges.filter((own) => own.dropped).map((own) => own.number);
      const story = `Epoch ${epoch} of ${last}: ${gone.length > 1 ? `edges ${gone.join(", ")} are` : gone.length ? `edge ${gone[0]} is` : "no edge is"} dropped; ` +
        (epoch ? `at the output L − H is ${signed(run.output[epoch - 1], 3)} nats.` : "no cost is measured yet.");
      slider.setAttribute("aria-valuetext", `epoch ${epoch} of ${last}`);
      spoken.setAttribute("aria-live", timer ? "off" : "polite");
      spoken.replaceChildren(element("strong", {}, story));
      fill(root, caption, edges.map(({ edge, number, p, best, cost }) => [`${number}: ${edge.ends.join(" → ")}`, operations[best],
        p[best].toFixed(3), p[0].toFixed(3), cost === null ? "not measured" : signed(cost)]));
      cell(graph, `The cell. ${caption}. ${edges.map((own) => `Edge ${own.number}: ${operations[own.best]}, probability ${own.p[own.best].toFixed(2)}`).join("; ")}.`,
        recorded.cell, edges.map(({ edge, number, p, best, cost, dropped }) => ({
          width: 1.5 + 9 * p[best], opacity: 1 - 0.75 * p[0], dash: dropped ? "dot" : "solid",
          colour: cost === null ? muted : cost > 0 ? COSTS : EARNS, ink: ink,
          lines: crowded ? [number] : [`${number}: ${short(operations[best])}`, `${(100 * p[best]).toFixed(0)} %`],
        })));
      const epochs = run.probability.map((_, k) => k);
      const named = (edge, k) => ({ mode: "lines", line: { color: colours[edge.kind], width: 2,
        dash: DASHES[recorded.cell.edges.slice(0, k).filter((e) => e.kind === edge.kind).length % DASHES.length] } });
      const traces = recorded.cell.edges.flatMap((edge, k) => [
        { ...named(edge, k), x: epochs, y: run.probability.map((p) => p[k][0]), name: `edge ${k}`, yaxis: "y2" },
        { ...named(edge, k), x: epochs.slice(1), y: run.cost.map((c) => c[k]), showlegend: false },
      ]);
      traces.push({ mode: "lines", x: epochs.slice(1), y: run.output, name: "L − H", line: { color: ink, width: 1.2 } });
      const cursor = { type: "line", x0: epoch, x1: epoch, y0: 0, y1: 1, yref: "paper", line: { color: muted, width: 1.5, dash: "dot" } };
      draw(curves, `Curves over the epochs, with a cursor at epoch ${epoch}: the probability of None on every edge (${edges.map((own) => own.p[0].toFixed(2)).join(", ")}), and the edges' costs in nats.`,
        traces, layout({ height: 380, showlegend: !crowded, shapes: [cursor], margin: { l: 58, r: 8, t: 8, b: 40 },
          legend: { orientation: "h", y: 1.02, yanchor: "bottom", font: { size: 12 } },
          xaxis: axis({ title: { text: "epoch", standoff: 4 }, range: [0, last + 0.2], anchor: "y" }),
          yaxis: axis({ title: { text: "cost (nats)" }, domain: [0, 0.46] }),
          yaxis2: axis({ title: { text: "p(None)" }, domain: [0.54, 1], rangemode: "tozero" }) }));
    };

    const stop = () => { clearInterval(timer); timer = undefined; play.textContent = "Play"; show(); };
    play.addEventListener("click", () => {
      if (timer) return stop();
      if (slider.value === slider.max) slider.value = 0;
      play.textContent = "Pause";
      const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
      timer = setInterval(() => { slider.stepUp(); slider.value === slider.max ? stop() : show(); }, still ? 1000 : 200);
      show();
    });
    slider.addEventListener("input", () => (timer ? stop() : show()));
    seeds.addEventListener("change", () => start(Number(seeds.value)));
    if (names.length > 1) controls.append(select("Search", names.map((name) => [name, titles[name]]), names[0], choose));
    controls.append(element("label", {}, "Seed ", seeds), play, element("label", { class: "wiring-slider" }, "Epoch ", slider));
    root.prepend(controls, spoken, element("div", { class: "wiring-pictures" }, graph, curves),
      element("p", { class: "wiring-key" }, "An edge is as thick as its most probable operation is probable and as faint as None is; dotted, None itself is the most probable. Its operations together cost (red) or earn (blue), by their mean costs in the epoch, weighed by their probabilities and summed over the cells; an edge is lost by what it costs over many epochs, so that a dotted one may earn in a single one. Curves are green for edges from the cell before last, blue for those from the last cell, orange for intermediate ones."));
    await choose(names[0]);
    return show;
  };

  // ---- the cost explorer ----
  const unpack = async (text) => {
    const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer()), half = bytes.length / 2;
    return Int16Array.from({ length: half }, (_, k) => bytes[k] | (bytes[k + half] << 8));
  };
  const costs = async (root) => {
    const { operations, minimal, step, quantities, states } = await data("common");
    const chosen = root.dataset.chosen.split(" ").map(Number), unpacked = {};
    let state = root.dataset.state;
    const graph = picture("graph"), bars = picture("curves");
    const spoken = element("output", { class: "wiring-spoken", "aria-live": "polite" });
    const measured = () => {
      const at = chosen.reduce((place, k) => place * operations.length + k, 0), count = operations.length ** chosen.length;
      return Object.fromEntries(quantities.map((name, k) => [name, unpacked[state][k * count + at] * step]));
    };
    const show = async () => {
      unpacked[state] ??= await unpack(await data(`costs-${state}`));
      const value = measured(), { ink, muted } = page();
      const direct = chosen.map((_, e) => value[`direct ${e}`]), through = chosen.map((_, e) => value[`through ${e}`] ?? 0);
      const total = direct.map((cost, e) => cost + through[e]), returned = through[0] + through[1];
      const nodes = { 2: direct[0] + direct[1], 3: direct[2] + direct[3] + direct[4] }, output = value.loss - value.entropy;
      const carrier = operations[chosen[4]];
      const law = chosen[4] === 0 ? "None on edge 4: there is no path 4-3-2" :
        chosen[4] === 1 ? "skip_connect on edge 4 is not normalised: cost comes back through it" :
        `${carrier} on edge 4 is normalised: what comes back through it sums to nothing (Theorem 1)`;
      spoken.replaceChildren(
        element("strong", {}, `L − H is ${signed(output)} nats: ${signed(nodes[2])} at node 2 and ${signed(nodes[3])} at node 3.`),
        ` ${law}: ${signed(through[0])} on edge 0 and ${signed(through[1])} on edge 1, together ${signed(returned)}.`);
      fill(root, `One minimal cell ${states[state]}, 32 images of digits`, chosen.map((k, e) => [e, operations[k], signed(direct[e]), e < 2 ? signed(through[e]) : "–", signed(total[e])]));
      const top = Math.max(...total.map(Math.abs), 1e-9);
      cell(graph, `The cell. ${chosen.map((k, e) => `Edge ${e}: ${operations[k]}, cost ${signed(total[e])} nats`).join("; ")}.`, minimal,
        chosen.map((k, e) => ({ width: k ? 1.5 + 9 * Math.abs(total[e]) / top : 1.5, opacity: k ? 1 : 0.4, dash: k ? "solid" : "dot",
          colour: !k ? muted : total[e] > 0 ? COSTS : EARNS, ink, lines: [`${e}: ${short(operations[k])}`, k ? signed(total[e]) : "0"] })));
      const names = [...chosen.map((_, e) => `edge ${e}`), "node 2", "node 3", "L − H"];
      const own = [...direct, nodes[2], nodes[3], output];
      const bar = (name, x, colour) => ({ type: "bar", orientation: "h", name, x, y: names, marker: { color: colour } });
      draw(bars, `Costs in nats. Direct paths: ${names.map((name, k) => `${name} ${signed(own[k])}`).join(", ")}. Through edge 4: edge 0 ${signed(through[0])}, edge 1 ${signed(through[1])}, node 2 ${signed(returned)}.`,
        [bar("direct paths, into the output", own, "#cc78bc"), bar("back through edge 4", [...through, returned, 0, 0], "#ca9161")],
        layout({ barmode: "group", height: 380, showlegend: true, margin: { l: 58, r: 8, t: 8, b: 40 },
          legend: { orientation: "h", y: -0.16, yanchor: "top", font: { size: 12 } },
          xaxis: axis({ title: { text: "cost (nats)", standoff: 4 } }), yaxis: axis({ autorange: "reversed" }) }));
    };
    await data(`costs-${state}`);
    const edges = element("div", { class: "wiring-controls" },
      select("Weights", Object.entries(states), state, (value) => { state = value; show(); }),
      ...chosen.map((k, e) => select(`Edge ${e}: ${minimal.edges[e].ends.join(" → ")}`, operations.map((name, i) => [i, name]), k, (value) => { chosen[e] = Number(value); show(); })));
    root.prepend(edges, spoken, element("div", { class: "wiring-pictures" }, graph, bars),
      element("p", { class: "wiring-key" }, "An edge is the thicker the larger its cost is in size; it costs (red) or earns (blue). Dotted: None."));
    show();
    return show;
  };

  document.addEventListener("DOMContentLoaded", async () => {
    const roots = [...document.querySelectorAll(".wiring-player")];
    if (!roots.length) return;
    await load("plotly.min.js");
    const shows = await Promise.all(roots.map((root) => ({ search, costs })[root.dataset.player](root)));
    roots.forEach((root) => root.setAttribute("data-ready", ""));
    const again = () => shows.forEach((show) => show());
    new MutationObserver(again).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  });
})();
