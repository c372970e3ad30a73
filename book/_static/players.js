/* The book's players: recorded searches, and the cost explorer, drawn as SVG. Each is an element of its own that draws
   itself as soon as the parser meets it, from data in scripts that stand before it: nothing below it ever moves. The
   tables that stand in it (see wiring_book/site.py) are what it is without a script; it keeps them in step. */
"use strict";
(() => {
  // Opened from disk, a page may load scripts and nothing else: neither data nor a search result's text by fetch.
  if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS === "object") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

  const here = new URL("players/", document.currentScript.src), loading = {};
  const data = (name) => window.wiring?.[name];
  const load = (name) => (loading[name] ??= new Promise((resolve, reject) => {
    document.head.append(Object.assign(document.createElement("script"), { src: new URL(`${name}.js`, here), onload: resolve, onerror: reject }));
  }));

  // ---- words, controls, tables ----
  const signed = (value, digits = 4) => {
    const size = Math.abs(value).toFixed(digits);
    return (Number(size) === 0 ? "" : value < 0 ? "−" : "+") + size;
  };
  const short = (operation) => operation.replace("_connect", "").replace("_conv_", " ").replace("_pool_3x3", " pool").replace(/(\d)x(\d)/, "$1×$2");
  const element = (html) => document.createRange().createContextualFragment(html).firstElementChild;
  const button = (text, act) => {
    const made = element(`<button type="button">${text}</button>`);
    made.addEventListener("click", act);
    return made;
  };
  const labelled = (text, control) => {
    const label = element(`<label>${text} </label>`);
    label.append(control);
    return label;
  };
  const options = (texts) => texts.map((text, k) => `<option value="${k}">${text}</option>`).join("");
  const select = (texts, act) => {
    const menu = element(`<select>${options(texts)}</select>`);
    menu.addEventListener("change", () => act(Number(menu.value)));
    return menu;
  };
  const fill = (table, rows, caption = table?.ariaLabel) => {
    if (!table) return;  // the parser has not met it yet, and what it will find there is what is drawn first
    table.ariaLabel = table.querySelector("caption").textContent = caption;
    table.querySelector("tbody").innerHTML = rows.map((row) => `<tr>${row.map((value) => `<td>${value}</td>`).join("")}</tr>`).join("");
  };
  const swatch = (drawing, text) => `<span><svg viewBox="0 0 30 14" width="30" height="14" aria-hidden="true">${drawing}</svg> ${text}</span>`;
  const sample = (colour, text, width = 3, more = "") => swatch(`<path d="M1 7H29" stroke="${colour}" stroke-width="${width}" ${more}/>`, text);
  const SIGNS = ["costs", "earns"].map((sign) => swatch(`<g class="${sign}"><rect x="4" y="1" width="22" height="12" rx="4"/></g>`, sign)).join("");
  const origins = (cells) => Object.entries(data("common").colours).filter(([kind]) => cells.some((cell) => cell.edges.some((edge) => edge.kind === kind)))
    .map(([kind, colour]) => sample(colour, kind)).join("");

  // ---- drawings; 360 units wide, which a style sheet scales ----
  const WIDTH = 360, LEFT = 44, RIGHT = 334, MUTED = "var(--pst-color-text-muted)", INK = "inherit";
  const DOTS = "2 4", DASHES = ["", "7 3", DOTS, "7 3 2 3", "12 4", "12 3 2 3 2 3"];

  const arrow = ({ points, tip, angle }, { colour, width, opacity = 1, dash = "" }) => {
    const half = 4 + 0.6 * width;
    return `<g stroke="${colour}" fill="${colour}" opacity="${opacity}">
      <polyline points="${points}" stroke-width="${width}" stroke-dasharray="${dash}"/>
      <path d="M0 0L-12 ${half}V${-half}Z" transform="translate(${tip}) rotate(${angle})" stroke="none"/></g>`;
  };
  /* A cell. Of an edge: its width, opacity and dash, the lines of its label, and its cost, which the label's look tells. */
  const drawCell = (svg, description, cell, looks) => {
    const { colours } = data("common"), [width, height] = cell.label;
    const label = ({ label: [x, y] }, k) => {
      const { lines, cost } = looks[k], sign = cost ? (cost > 0 ? "costs" : "earns") : "";
      return `<g class="wiring-label ${sign}" data-edge="${k}"><rect x="${x - width / 2}" y="${y - height / 2}" width="${width}" height="${height}" rx="4"/>` +
        lines.map((text, n) => `<text x="${x}" y="${y + 4.5 + 13 * (n - (lines.length - 1) / 2)}">${text}</text>`).join("") + "</g>";
    };
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${cell.height}`);
    svg.setAttribute("aria-label", description);
    svg.innerHTML = [
      ...cell.output.map((line) => arrow(line, { colour: MUTED, width: 1, opacity: 0.6 })),
      ...cell.edges.map((edge, k) => `<g data-edge="${k}">${arrow(edge, { ...looks[k], colour: colours[edge.kind] })}</g>`),
      ...cell.nodes.map(([x, y], k) => `<circle class="wiring-node" cx="${x}" cy="${y}" r="13"/><text x="${x}" y="${y + 4.5}">${k}</text>`),
      ...cell.names.flatMap(({ lines, x, y, anchor }) => lines.map((text, k) => `<text class="wiring-name" x="${x}" y="${y + 12 * k}" text-anchor="${anchor}">${text}</text>`)),
      ...cell.edges.map(label),
    ].join("");
  };

  const range = (values) => [Math.min(0, ...values), Math.max(1e-9, ...values)];
  const ticks = ([low, high], most) => {
    const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999), first = Math.ceil(low / step - 1e-6);
    return Array.from({ length: Math.floor(high / step + 1e-6) - first + 1 }, (_, k) => (first + k) * step);
  };
  const tick = (value) => (value < 0 ? "−" : "") + Number(Math.abs(value).toPrecision(6));
  /* Places at least a gap apart, in the same order, between two bounds. */
  const spread = (places, gap, top, bottom) => {
    const order = places.map((_, k) => k).sort((a, b) => places[a] - places[b]), spaced = [...places];
    order.forEach((k, n) => { spaced[k] = Math.max(spaced[k], n ? spaced[order[n - 1]] + gap : top); });
    order.reverse().forEach((k, n) => { spaced[k] = Math.min(spaced[k], n ? spaced[order[n - 1]] - gap : bottom); });
    return spaced;
  };
  /* Panels of lines over the epochs, one below the other. Each line is given where it lies: its y by epoch. */
  const drawCurves = (svg, panels, epochs, epoch) => {
    const x = (e) => LEFT + (RIGHT - LEFT) * e / epochs;
    let bottom = 0;
    const drawn = panels.map(({ title, lines, bounds, height }) => {
      const top = bottom + 28, end = bottom = top + height, [low, high] = bounds;
      const y = (value) => end - height * (value - low) / (high - low);
      lines.forEach((line) => { line.y = (e) => y(line.values[e - line.from]); });
      const last = lines.map((line) => line.y(line.from + line.values.length - 1));
      const tags = spread(last, 11, top + 2, end);
      return `<g class="wiring-panel"><text class="wiring-title" x="${LEFT}" y="${top - 9}">${title}</text>` +
        ticks(bounds, height / 28).map((value) => `<path class="wiring-grid${value ? "" : " wiring-zero"}" d="M${LEFT} ${y(value)}H${RIGHT}"/><text class="wiring-tick" x="${LEFT - 5}" y="${y(value) + 4}">${tick(value)}</text>`).join("") +
        lines.map((line, k) => {
          const stop = x(line.from + line.values.length - 1);
          return `<g class="wiring-curve" ${line.edge === undefined ? "" : `data-edge="${line.edge}"`} style="color: ${line.colour}"><polyline stroke-dasharray="${line.dash}" points="${line.values.map((value, n) => [x(line.from + n).toFixed(1), y(value).toFixed(1)])}"/>` +
            (line.edge === undefined ? "" : `<path class="wiring-lead" d="M${stop} ${last[k]}L${RIGHT + 8} ${tags[k]}"/><text x="${RIGHT + 10}" y="${tags[k] + 4}">${line.edge}</text>`) + "</g>";
        }).join("") + "</g>";
    });
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${bottom + 36}`);
    svg.innerHTML = drawn.join("") + ticks([0, epochs], 5).map((e) => `<text x="${x(e)}" y="${bottom + 15}">${e}</text>`).join("") +
      `<text x="${(LEFT + RIGHT) / 2}" y="${bottom + 31}">epoch</text><path class="wiring-cursor" d="M${x(epoch)} 14V${bottom}"/><g class="wiring-mark"></g>`;
    return { x, epoch: (place) => Math.round((place - LEFT) / (RIGHT - LEFT) * epochs) };
  };

  // ---- what both players are ----
  class Live extends HTMLElement {
    connectedCallback() {
      this.insertAdjacentHTML("afterbegin", '<div class="wiring-controls"></div><div class="wiring-row"></div><p class="wiring-key"></p>');
      [this.controls, this.row, this.key] = this.children;
      this.open(this.dataset.shown);
      this.build();
      this.show();
      document.addEventListener("DOMContentLoaded", () => this.follow());
      addEventListener("hashchange", () => this.follow());
    }
    /* The page's address may say what is shown: #ID=STATE, as data-shown does and as open() reads. */
    follow() {
      const start = `#${this.id}=`;
      if (!location.hash.startsWith(start)) return;
      this.open(decodeURIComponent(location.hash.slice(start.length)));
      this.show();
      this.scrollIntoView();
    }
    changed() {
      history.replaceState(history.state, "", `#${this.id}=${this.state}`);
      this.show();
    }
    show() {
      const missing = this.needs().filter((name) => !data(name));
      this.toggleAttribute("data-ready", !missing.length);
      if (missing.length) Promise.all(missing.map(load)).then(() => this.show());
      else this.draw();
    }
    addView(name, picture, ...controls) {
      const root = element(`<section class="wiring-view" aria-label="${name}"><div class="wiring-controls"></div><output class="wiring-spoken"></output>
        <div class="wiring-row"><svg class="wiring-graph" role="img"></svg><div><svg class="${picture}" role="img"></svg></div></div></section>`);
      root.firstElementChild.append(...controls);
      this.row.append(root);
      const [graph, chart] = root.querySelectorAll("svg");
      return { root, graph, chart, spoken: root.querySelector("output") };
    }
    download(name, rows) {
      const quoted = (value) => (/[",]/.test(value) ? `"${value}"` : value);
      const file = new Blob([rows.map((row) => `${row.map(quoted).join(",")}\n`).join("")], { type: "text/csv" });
      Object.assign(document.createElement("a"), { download: `${name}.csv`, href: URL.createObjectURL(file) }).click();
    }
  }

  // ---- recorded searches; STATE is PRESET/RUN+PRESET/RUN@EPOCH, without an epoch the last one ----
  const SPEEDS = [1, 2, 5, 10, 20];
  customElements.define("wiring-player", class extends Live {
    open(state) {
      const [views, epoch] = state.split("@"), { searches } = data("common");
      const shown = views.split("+").map((view) => view.split("/")).map(([name, run]) => ({ name, run: Number(run) }));
      if (!shown.every(({ name, run }) => searches[name]?.seeds[run])) return;
      this.shown = shown.slice(0, 2);
      this.epoch = epoch === undefined ? Infinity : Number(epoch) || 0;
    }
    get state() {
      return this.shown.map(({ name, run }) => `${name}/${run}`).join("+") + (this.epoch === Infinity ? "" : `@${this.epoch}`);
    }
    needs() { return this.shown.map(({ name, run }) => `${name}-${run}`); }
    get now() { return Math.min(this.epoch, this.last); }

    build() {
      this.slider = element('<input type="range" min="0" step="1">');
      this.slider.addEventListener("input", () => { this.epoch = Number(this.slider.value); if (this.timer) this.play(false); else this.show(); });
      this.slider.addEventListener("change", () => this.changed());
      this.button = button("Play", () => this.play(!this.timer));
      this.speed = select(SPEEDS.map((speed) => `${speed}/s`), () => this.timer && this.play(true));
      this.speed.value = matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 2;
      this.compare = button("", () => {
        const [{ name, run }] = this.shown;
        this.shown = this.shown.length > 1 ? this.shown.slice(0, 1) : [{ name, run }, { name, run: (run + 1) % data("common").searches[name].seeds.length }];
        this.changed();
      });
      const epoch = labelled("Epoch", this.slider);
      epoch.className = "wiring-slider";
      this.controls.append(this.button, epoch, labelled("Speed", this.speed), this.compare, button("Save CSV", () => this.save()));
    }
    play(on) {
      clearInterval(this.timer);
      if (on && this.now === this.last) this.epoch = 0;
      this.timer = on ? setInterval(() => this.step(), 1000 / SPEEDS[this.speed.value]) : undefined;
      this.button.textContent = on ? "Pause" : "Play";
      if (on) this.show();
      else this.changed();
    }
    step() {
      if (!this.hasAttribute("data-ready")) return;
      this.epoch = this.now + 1;
      if (this.now === this.last) this.play(false);
      else this.show();
    }

    view(number) {
      const { searches } = data("common"), names = Object.keys(searches), own = () => this.shown[number];
      const choose = select(names.map((name) => searches[name].title), (k) => {
        const seeds = searches[names[k]].seeds, seed = seeds.indexOf(searches[own().name].seeds[own().run]);
        this.shown[number] = { name: names[k], run: Math.max(0, seed) };
        this.changed();
      });
      const seeds = select([], (run) => { own().run = run; this.changed(); });
      const whole = element('<span class="wiring-whole-title" aria-hidden="true"></span>');
      const view = this.addView(`Search ${number + 1}`, "wiring-curves", choose, labelled("Seed", seeds), whole);
      choose.setAttribute("aria-label", `Search ${number + 1}`);
      const { chart, graph } = view;
      view.follow = (shown) => {  // only what is new: an open menu would close
        if (view.shown === shown) return;
        view.shown = shown;
        choose.value = names.indexOf(own().name);
        whole.textContent = searches[own().name].title;
        seeds.innerHTML = options(searches[own().name].seeds);
        seeds.value = own().run;
      };
      view.reading = element('<p class="wiring-reading"></p>');
      chart.after(view.reading);
      chart.setAttribute("role", "slider");
      chart.setAttribute("tabindex", 0);
      const point = ({ clientX, clientY }) => {
        const box = chart.getBoundingClientRect(), scale = WIDTH / box.width, y = (clientY - box.top) * scale;
        const epoch = view.axis.epoch((clientX - box.left) * scale);
        const far = view.lines.map((line) => Math.abs(line.y(within(line, epoch)) - y));
        this.look(view, { line: far.indexOf(Math.min(...far)), epoch });
      };
      const at = () => view.at ?? { line: 0, epoch: this.now };
      const go = () => { this.epoch = at().epoch; this.changed(); };
      for (const kind of ["pointerdown", "pointermove"]) chart.addEventListener(kind, point);
      graph.addEventListener("pointerover", ({ target }) => {
        const edge = target.closest("[data-edge]")?.dataset.edge;
        this.look(view, edge && { line: Number(edge), epoch: this.now });
      });
      for (const svg of [chart, graph]) svg.addEventListener("pointerleave", ({ pointerType }) => pointerType === "mouse" && this.look(view));
      chart.addEventListener("click", go);
      chart.addEventListener("focus", () => this.look(view, at()));
      chart.addEventListener("blur", () => this.look(view));
      chart.addEventListener("keydown", (event) => {
        const [lines, epochs] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -Infinity], End: [0, Infinity] }[event.key] ?? [];
        if (event.key === "Enter") go();
        else if (epochs === undefined) return;
        else this.look(view, { line: (at().line + lines + view.lines.length) % view.lines.length, epoch: at().epoch + epochs });
        event.preventDefault();
      });
      return view;
    }
    /* Read one line at an epoch, or none: mark the point, say its value, let the other edges fade. */
    look(view, at) {
      const line = at && view.lines[at.line], mark = view.chart.querySelector(".wiring-mark");
      view.at = at && { line: at.line, epoch: within(line, at.epoch) };
      const { epoch } = view.at ?? {};
      const text = line ? `${line.name}, epoch ${epoch}: ${line.said(line.values[epoch - line.from])}` : "Point at an edge or a curve, tap it, or press its arrow keys, to read it.";
      mark.innerHTML = line ? `<circle cx="${view.axis.x(epoch)}" cy="${line.y(epoch)}" r="4"/>` : "";
      view.reading.textContent = text;
      view.chart.setAttribute("aria-valuenow", epoch ?? this.now);
      view.chart.setAttribute("aria-valuetext", text);
      for (const part of view.root.querySelectorAll("[data-edge]")) part.classList.toggle("wiring-faint", line?.edge !== undefined && Number(part.dataset.edge) !== line.edge);
    }

    draw() {
      const { colours, operations, searches } = data("common"), runs = this.runs = this.needs().map(data);
      this.last = Math.max(...runs.map((run) => run.cost.length));
      const { last, now } = this;
      if (this.views?.length !== runs.length) {
        this.row.replaceChildren();
        this.views = runs.map((_, number) => this.view(number));
        this.compare.textContent = runs.length > 1 ? "Show one" : "Compare";
      }
      this.slider.max = last;
      this.slider.value = now;
      this.slider.setAttribute("aria-valuetext", `epoch ${now} of ${last}`);
      const tables = this.querySelector(".wiring-tables");
      while (tables?.children.length < runs.length) tables.append(tables.lastElementChild.cloneNode(true));
      while (tables?.children.length > runs.length) tables.lastElementChild.remove();
      // What is compared has the same axes.
      const bounds = {
        none: range(runs.flatMap((run) => run.probability.flat().map((p) => p[0]))),
        cost: range(runs.flatMap((run) => run.cost.flat())),
        output: range(runs.flatMap((run) => Object.values(run.splits).flatMap(({ cost }) => cost))),
        accuracy: [0, 1],
      };
      runs.forEach((run, number) => {
        const view = this.views[number], { cell, seed } = run, { title } = searches[this.shown[number].name];
        const end = run.cost.length, epoch = Math.min(now, end), splits = Object.entries(run.splits);
        const edges = cell.edges.map((edge, k) => {
          const p = run.probability[epoch][k], best = p.indexOf(Math.max(...p));
          return { edge, p, best, cost: epoch ? run.cost[epoch - 1][k] : undefined };
        });
        const gone = edges.flatMap(({ best }, k) => (best ? [] : [k])), caption = `${title}, seed ${seed}, epoch ${epoch} of ${end}`;
        view.follow(this.needs()[number]);
        view.spoken.setAttribute("aria-live", this.timer ? "off" : "polite");
        view.spoken.textContent = !epoch ? `Epoch 0 of ${end}: before the search.` : `Epoch ${epoch} of ${end}: ${gone.length > 1 ? `edges ${gone.join(", ")} are` : gone.length ? `edge ${gone[0]} is` : "no edge is"} dropped; ` +
          `at the output L − H is ${signed(splits[0][1].cost[epoch - 1], 3)} nats.`;
        fill(tables?.children[number], edges.map(({ edge, p, best, cost }, k) =>
          [`${k}: ${edge.ends.join(" → ")}`, operations[best], p[best].toFixed(3), p[0].toFixed(3), cost === undefined ? "not measured" : signed(cost)]), caption);
        drawCell(view.graph, `The cell. ${caption}. ${edges.map(({ p, best }, k) => `Edge ${k}: ${operations[best]}, probability ${p[best].toFixed(2)}`).join("; ")}.`, cell,
          edges.map(({ p, best, cost }, k) => ({
            width: 1.5 + 9 * p[best], opacity: 1 - 0.75 * p[0], dash: best ? "" : DOTS, cost,
            lines: cell.label[0] < 40 ? [k] : [`${k}: ${short(operations[best])}`, `${(100 * p[best]).toFixed(0)} %`],
          })));
        const dash = (k) => DASHES[cell.edges.slice(0, k).filter(({ kind }) => kind === cell.edges[k].kind).length];
        const ofEdges = (from, values, said) => cell.edges.map(({ kind, ends }, k) => (
          { edge: k, name: `Edge ${k} (${ends.join(" → ")})`, colour: colours[kind], dash: dash(k), from, values: values.map((row) => row[k]), said }));
        const ofSplits = (quantity, said) => splits.map(([split, values], k) => (
          { name: `All ${split} images`, colour: INK, dash: DASHES[k], from: 1, values: values[quantity], said }));
        const key = splits.map(([split], k) => `<tspan ${k ? 'dx="4"' : ""}>${k ? "╌╌" : "──"} ${split} split</tspan>`).join(" ");
        const height = Math.max(90, 11 * edges.length);
        const panels = [
          { title: "p(None) of every edge", height, bounds: bounds.none, lines: ofEdges(0, run.probability.map((row) => row.map((p) => p[0])), (value) => `p(None) ${value.toFixed(3)}`) },
          { title: "cost of every edge (nats)", height, bounds: bounds.cost, lines: ofEdges(1, run.cost, (value) => `cost ${signed(value)} nats`) },
          { title: `L − H (nats) ${key}`, height: 70, bounds: bounds.output, lines: ofSplits("cost", (value) => `L − H ${signed(value, 3)} nats`) },
          { title: `accuracy ${key}`, height: 60, bounds: bounds.accuracy, lines: ofSplits("accuracy", (value) => `accuracy ${value.toFixed(3)}`) },
        ];
        view.axis = drawCurves(view.chart, panels, last, epoch);
        view.lines = panels.flatMap(({ lines }) => lines);
        view.chart.setAttribute("aria-label", `Curves over the epochs: p(None) and cost of every edge, L − H and accuracy. Left and right move the epoch that is read, up and down the curve; Enter goes there.`);
        view.chart.setAttribute("aria-valuemax", end);
        this.look(view, view.lines[view.at?.line] && view.at);
      });
      this.key.innerHTML = origins(runs.map((run) => run.cell)) + sample(MUTED, "less probable", 2) + sample(MUTED, "more probable", 9) + sample(MUTED, "None most probable", 4, `stroke-dasharray="${DOTS}"`) + SIGNS +
        "<br>Thick: the most probable operation is probable. Faint: None is. Dotted: None has become the most probable over many epochs, though the edge may earn in this one. What it costs or earns are its operations’ mean costs in the epoch, weighed by their probabilities and summed over the cells; as both change within an epoch, all edges together come near L − H and not to it.";
    }
    save() {
      const { operations } = data("common"), splits = ["training", "search"];
      const header = ["search", "seed", "epoch", "edge", "from", "to", ...operations, "cost", ...splits.flatMap((split) => [`accuracy on ${split} split`, `L − H on ${split} split`])];
      this.download(this.shown.map(({ name }) => name).join("+"), [header, ...this.runs.flatMap((run, n) => run.probability.flatMap((edges, epoch) => edges.map((p, k) => [
        this.shown[n].name, run.seed, epoch, k, ...run.cell.edges[k].ends, ...p, run.cost[epoch - 1]?.[k] ?? "",
        ...splits.flatMap((split) => ["accuracy", "cost"].map((quantity) => run.splits[split]?.[quantity][epoch - 1] ?? "")),
      ])))]);
    }
  });
  const within = ({ from, values }, epoch) => Math.min(Math.max(epoch, from), from + values.length - 1);

  // ---- the cost explorer; STATE is the operations on its edges, with commas between ----
  const ROWS = ["edge 0", "edge 1", "edge 2", "edge 3", "edge 4", "node 2", "node 3", "L − H"], HEIGHT = 28;
  customElements.define("wiring-explorer", class extends Live {
    open(state) {
      const chosen = state.split(",").map((name) => data("common").operations.indexOf(name));
      if (chosen.length === 5 && !chosen.includes(-1)) this.chosen = chosen;
    }
    get state() { return this.chosen.map((k) => data("common").operations[k]).join(","); }
    needs() { return [`costs-${this.chosen[3]}${this.chosen[4]}`]; }

    build() {
      const { operations, cell, states, extremes } = data("common");
      const choose = (chosen) => { this.chosen = [...chosen]; this.changed(); };
      this.menus = cell.edges.map((_, edge) => select(operations, (k) => { this.chosen[edge] = k; this.changed(); }));
      this.controls.append(...this.menus.map((menu, edge) => labelled(`Edge ${edge}: ${cell.edges[edge].ends.join(" → ")}`, menu)),
        button("None everywhere", () => choose(cell.edges.map(() => 0))),
        button("Random", () => choose(cell.edges.map(() => Math.floor(operations.length * Math.random())))),
        button("Reset", () => { this.open(this.dataset.shown); this.changed(); }),
        button("Save CSV", () => this.save()));
      this.law = element('<output class="wiring-spoken"></output>');
      this.controls.after(this.law);
      this.views = Object.entries(states).map(([state, name]) => ({ state, name, ...this.addView(name, "wiring-bars", element(`<strong>${name}</strong>`),
        ...Object.entries(extremes[state]).map(([end, at]) => button(`${end} L − H`, () => choose(at)))) }));
      this.key.innerHTML = origins([cell]) + SIGNS + sample(MUTED, "None", 2, `stroke-dasharray="${DOTS}"`) + "<br>An edge is the thicker the larger its cost is in size. Both states have the same axis.";
    }
    /* Of one state of the weights, the costs of what is chosen: direct, and back through edge 4. */
    costs(state) {
      const { operations, step } = data("common"), [a, b, c] = this.chosen, count = operations.length ** 3;
      const values = data(this.needs()[0])[state], at = (a * operations.length + b) * operations.length + c;
      const value = (number) => values[number * count + at] * step;
      const direct = [0, 1, 2, 3, 4].map(value), through = [value(5), value(6), 0, 0, 0];
      return { direct, through, total: direct.map((cost, edge) => cost + through[edge]), output: value(7), returned: through[0] + through[1],
        nodes: [direct[0] + direct[1], direct[2] + direct[3] + direct[4]] };
    }
    draw() {
      const { operations, cell } = data("common"), { chosen } = this, costs = this.views.map(({ state }) => this.costs(state));
      this.menus.forEach((menu, edge) => { menu.value = chosen[edge]; });
      const top = Math.max(1e-9, ...costs.flatMap(({ total }) => total.map(Math.abs)));
      const bounds = range(costs.flatMap(({ direct, through, nodes, output, returned }) => [...direct, ...through, ...nodes, output, returned]));
      const law = ["None on edge 4: there is no path 4-3-2.", "skip_connect on edge 4 is not normalised: cost comes back through it."][chosen[4]] ??
        `${operations[chosen[4]]} on edge 4 is normalised: what comes back through it sums to nothing (Theorem 1).`;
      this.law.textContent = law;
      this.views.forEach((view, n) => {
        const { direct, through, total, output, nodes, returned } = costs[n];
        view.spoken.innerHTML = `<strong>L − H is ${signed(output)} nats: ${signed(nodes[0])} at node 2 and ${signed(nodes[1])} at node 3.</strong> ` +
          `Back through edge 4: ${signed(through[0])} on edge 0 and ${signed(through[1])} on edge 1, together ${signed(returned)}.`;
        fill(this.querySelectorAll(".wiring-table")[n], chosen.map((k, e) => [e, operations[k], signed(direct[e]), e < 2 ? signed(through[e]) : "none", signed(total[e])]));
        drawCell(view.graph, `The cell ${view.name}. ${chosen.map((k, e) => `Edge ${e}: ${operations[k]}, cost ${signed(total[e])} nats`).join("; ")}.`, cell,
          chosen.map((k, e) => ({ width: k ? 1.5 + 9 * Math.abs(total[e]) / top : 1.5, opacity: k ? 1 : 0.4, dash: k ? "" : DOTS, cost: Number(total[e].toFixed(4)),
            lines: [`${e}: ${short(operations[k])}`, signed(total[e])] })));
        this.bars(view, [...direct, ...nodes, output], [through[0], through[1], 0, 0, 0, returned, 0, 0], bounds);
      });
    }
    bars({ chart, name }, own, through, bounds) {
      const x = (value) => LEFT + 6 + 236 * (value - bounds[0]) / (bounds[1] - bounds[0]), bottom = 6 + HEIGHT * ROWS.length;
      const bar = (value, y, height, kind) => `<rect class="${kind} ${value > 0 ? "costs" : "earns"}" x="${Math.min(x(0), x(value))}" y="${y}" width="${Math.abs(x(value) - x(0))}" height="${height}"/>` +
        `<text class="wiring-tick" x="${WIDTH}" y="${y + height / 2 + 4}">${signed(value)}</text>`;
      chart.setAttribute("viewBox", `0 0 ${WIDTH} ${bottom + 54}`);
      chart.setAttribute("aria-label", `Costs in nats ${name}. Direct paths: ${ROWS.map((row, k) => `${row} ${signed(own[k])}`).join(", ")}. Through edge 4: edge 0 ${signed(through[0])}, edge 1 ${signed(through[1])}, node 2 ${signed(through[5])}.`);
      chart.innerHTML = ticks(bounds, 4).map((value) => `<path class="wiring-grid${value ? "" : " wiring-zero"}" d="M${x(value)} 4V${bottom}"/><text x="${x(value)}" y="${bottom + 14}">${tick(value)}</text>`).join("") +
        ROWS.map((row, k) => {
          const y = 6 + HEIGHT * k, two = [0, 1, 5].includes(k);
          return `<text class="wiring-tick" x="${LEFT}" y="${y + HEIGHT / 2 + 1}">${row}</text>` + bar(own[k], y + (two ? 2 : 7), 10, "") + (two ? bar(through[k], y + 16, 5, "wiring-through") : "");
        }).join("") + `<text x="${LEFT + 124}" y="${bottom + 30}">cost (nats)</text><rect class="wiring-sample" x="${LEFT}" y="${bottom + 40}" width="20" height="10"/><text x="${LEFT + 25}" y="${bottom + 49}" text-anchor="start">direct paths</text>
          <rect class="wiring-sample" x="${LEFT + 120}" y="${bottom + 43}" width="20" height="5"/><text x="${LEFT + 145}" y="${bottom + 49}" text-anchor="start">back through edge 4</text>`;
    }
    save() {
      const { operations } = data("common");
      this.download("explorer", [["weights", "edge", "operation", "direct", "through edge 4", "cost", "L − H"], ...this.views.flatMap(({ name, state }) => {
        const { direct, through, total, output } = this.costs(state);
        return this.chosen.map((k, e) => [name, e, operations[k], ...[direct[e], through[e], total[e], output].map((value) => value.toFixed(4))]);
      })]);
    }
  });
})();
