const sweep = JSON.parse(document.querySelector("#sweep-data").textContent);

/** The viewer, whose layer `result` is the cell that the sliders choose. */
class SweepComparison extends Comparison {
  readSources() {
    const { result, pinned } = sweep.labels;
    return this.labels.map((label) => {
      if (label === result) return sweep.cells[this.cell ?? 0].file;
      if (label === pinned) return sweep.cells[this.pinned ?? 0].file;
      return sweep.references[label].file;
    });
  }

  /** The old picture stays until the new one is decoded, so that a slider shows no gaps. */
  replace(label, file) {
    const index = this.labels.indexOf(label);
    this.sources[index] = file;
    const shown = this.layers[index].firstChild;
    if (!shown.hasAttribute("src")) return;
    const next = make("img", { src: file });
    const swap = () => {
      if (this.sources[index] === file) shown.src = file;
    };
    next.decode().then(swap, swap);
  }

  setCell(cell) {
    this.cell = cell;
    this.replace(sweep.labels.result, sweep.cells[cell].file);
    this.render();
  }

  pin() {
    this.pinned = this.cell;
    this.replace(sweep.labels.pinned, sweep.cells[this.cell].file);
    this.render();
  }

  renderLabels(scale) {
    super.renderLabels(scale);
    for (const [side, index] of [["left", this.left], ["right", this.right]]) {
      const label = this.labels[index];
      const cell = { [sweep.labels.result]: this.cell ?? 0, [sweep.labels.pinned]: this.pinned ?? 0 }[label];
      const text = cell === undefined ? label : `${label}: ${sweep.cells[cell].words}`;
      this.stage.querySelector(`.badge.${side}`).textContent = text;
    }
  }
}

/** A slider for every axis; together they choose a cell. */
class Axes {
  constructor(nav, comparison) {
    this.comparison = comparison;
    this.used = 0;
    this.inputs = sweep.axes.map((axis, index) => this.slider(nav, axis, index));
    nav.append(make("button", { type: "button", textContent: "Pin (P)", title: "Compare others with this result",
      onclick: () => this.pin() }));
    for (const element of document.querySelectorAll("[data-cell]")) this.makeChoosable(element);
    this.changed();
  }

  slider(nav, axis, index) {
    const last = axis.values.length - 1;
    const oninput = () => this.changed((this.used = index));
    const value = Math.round(axis.mark ?? 0);
    const input = make("input", { type: "range", min: 0, max: last, step: 1, value, oninput });
    input.addEventListener("focus", () => (this.used = index));
    const output = make("output");
    const track = make("span", { className: "track" }, input);
    if (axis.mark !== undefined) track.append(this.mark(axis, last));
    nav.append(make("label", {}, make("span", { textContent: axis.name }), track, output));
    return input;
  }

  /** A tick under the slider where the strength lies that was read from the image. */
  mark(axis, last) {
    const tick = make("span", { className: "read", textContent: `read: ${axis.read}` });
    tick.style.setProperty("--at", last ? axis.mark / last : 0);
    return tick;
  }

  makeChoosable(element) {
    const cell = Number(element.dataset.cell);
    element.setAttribute("tabindex", 0);
    if (element.matches("circle")) {
      element.setAttribute("role", "button");
      element.setAttribute("aria-label", sweep.cells[cell].words);
      const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
      title.textContent = sweep.cells[cell].words;
      element.append(title);
    }
    element.addEventListener("click", () => this.choose(cell));
    element.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      this.choose(cell);
    });
  }

  get cell() {
    return this.inputs.reduce((index, input, axis) => index * sweep.axes[axis].values.length + Number(input.value), 0);
  }

  choose(cell) {
    let rest = cell;
    for (let axis = this.inputs.length - 1; axis >= 0; axis -= 1) {
      const count = sweep.axes[axis].values.length;
      this.inputs[axis].value = rest % count;
      rest = Math.floor(rest / count);
    }
    this.changed();
  }

  step(by) {
    const input = this.inputs[this.used];
    input.value = Number(input.value) + by;
    this.changed();
  }

  /** The axis above or below takes the focus. */
  move(by) {
    const now = this.inputs.indexOf(document.activeElement);
    this.inputs[clamp(now + by, 0, this.inputs.length - 1)].focus();
  }

  pin() {
    this.comparison.pin();
    this.tell();
  }

  changed() {
    this.inputs.forEach((input, index) => {
      const text = sweep.axes[index].values[input.value];
      input.closest("label").querySelector("output").textContent = text;
      input.setAttribute("aria-valuetext", text);
    });
    this.comparison.setCell(this.cell);
    this.tell();
    this.fetchNeighbours();
  }

  tell() {
    const { cell } = this;
    document.querySelector("article h2").textContent = sweep.cells[cell].words;
    for (const element of document.querySelectorAll("[data-cell]")) {
      if (Number(element.dataset.cell) === cell) element.setAttribute("aria-current", "true");
      else element.removeAttribute("aria-current");
    }
    const { input, result, pinned } = sweep.labels;
    const rows = [[input, sweep.references[input]], [result, sweep.cells[cell]],
      [pinned, sweep.cells[this.comparison.pinned ?? 0]]];
    const header = ["Layer", ...sweep.metrics.map((metric) => metric.title)];
    const table = make("table", { className: "metrics" });
    const head = table.createTHead().insertRow();
    head.append(...header.map((text) => make("th", { scope: "col", textContent: text })));
    for (const [label, { metrics }] of rows) {
      const row = table.createTBody().insertRow();
      row.append(make("th", { scope: "row", textContent: label }));
      row.append(...sweep.metrics.map(({ name }) => make("td", { textContent: metrics[name] ?? "–" })));
    }
    document.querySelector("#now").replaceChildren(table);
  }

  /** What one step on any axis would show is decoded beforehand; the rest is let go. */
  fetchNeighbours() {
    this.neighbours = this.inputs.flatMap((input, axis) => {
      const stride = sweep.axes.slice(axis + 1).reduce((product, { values }) => product * values.length, 1);
      const place = Number(input.value);
      return [-1, 1].filter((by) => place + by >= 0 && place + by <= Number(input.max))
        .map((by) => make("img", { src: sweep.cells[this.cell + by * stride].file }));
    });
  }

  /** Returns whether the key meant something here. */
  key(event) {
    const onAxis = this.inputs.includes(document.activeElement);
    const actions = { "[": () => this.step(-1), "]": () => this.step(1), p: () => this.pin(),
      "?": () => openHelp(), t: () => toggleTheme(),
      ...(onAxis ? { ArrowUp: () => this.move(-1), ArrowDown: () => this.move(1) } : {}) };
    const found = actions[event.key];
    found?.();
    return Boolean(found);
  }
}

const comparison = new SweepComparison(document.querySelector("article.entry"));
comparison.load();
comparison.presentAll();
const axes = new Axes(document.querySelector("nav.axes"), comparison);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const own = event.target.matches("input") && /^(Arrow|Page|Home|End)/.test(event.key);
  if (axes.key(event) || (!own && comparison.key(event))) event.preventDefault();
});
