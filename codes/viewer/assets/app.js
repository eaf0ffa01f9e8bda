const IDLE = 3000, BUSY = 600; // milliseconds between two looks at the state

/** Asks the server; what it refuses becomes an error with its words. */
async function ask(path, options = {}) {
  const answer = await fetch(path, { credentials: "same-origin", ...options });
  const json = answer.headers.get("content-type")?.startsWith("application/json") ? await answer.json() : {};
  if (!answer.ok) throw new Error(json.message ?? `the app answered ${answer.status}`);
  return json;
}

const send = (path, data) => ask(path, { method: "POST", body: data === undefined ? "" : JSON.stringify(data) });

class App {
  constructor() {
    this.photographs = [];
    this.chosen = null;
    this.previews = new Map(); // id -> the answer of its last preview
    this.shown = ""; // what the viewer shows
    this.comparison = new AppComparison(find("#compared"));
    this.region = new Region(() => this.preview());
    this.sliders = new StrengthSliders();
    this.output = new OutputSize((side) => this.region.resize(side));
    this.listenToFiles();
    this.listenToButtons();
    this.listenToDials();
    this.look();
  }

  listenToFiles() {
    const drop = find("#drop");
    const files = find("#files");
    files.addEventListener("change", () => {
      this.upload([...files.files]);
      files.value = "";
    });
    drop.addEventListener("submit", (event) => event.preventDefault());
    for (const type of ["dragover", "drop"]) addEventListener(type, (event) => event.preventDefault());
    addEventListener("dragover", () => drop.classList.add("over"));
    addEventListener("dragleave", (event) => event.relatedTarget === null && drop.classList.remove("over"));
    addEventListener("drop", (event) => {
      drop.classList.remove("over");
      this.upload([...event.dataTransfer.files]);
    });
    addEventListener("paste", (event) => this.upload([...event.clipboardData.files]));
  }

  listenToButtons() {
    const actions = {
      "#preview": () => this.preview(),
      "#restore": () => this.restore([this.current]),
      "#cancel": () => this.each([this.current], (one) => send(`api/photographs/${one.id}/cancel`)),
      "#remove": () => this.each([this.current], (one) => ask(`api/photographs/${one.id}`, { method: "DELETE" })),
      "#restore-all": () => this.restore(this.photographs.filter(({ state }) => ["ready", "failed", "done"].includes(state))),
      "#cancel-all": () => this.each(this.photographs.filter(({ state }) => ["waiting", "running"].includes(state)),
        (one) => send(`api/photographs/${one.id}/cancel`)),
    };
    for (const [selector, action] of Object.entries(actions)) find(selector).addEventListener("click", action);
  }

  listenToDials() {
    const slider = find("#temperature");
    const tell = () => (find('output[for="temperature"]').textContent = Number(slider.value).toFixed(2));
    slider.addEventListener("input", tell);
    tell();
    find("#format").addEventListener("change", () => this.render());
  }

  get current() {
    return this.photographs.find(({ id }) => id === this.chosen);
  }

  get dials() {
    const tile = find("#tile").value;
    return {
      steps: Number(find('input[name="steps"]:checked').value), temperature: Number(find("#temperature").value),
      seed: Math.round(Number(find("#seed").value)), tile: tile ? Number(tile) : null, output: this.output.value,
      wrap: find("#wrap").value, consistency: find("#consistency").value,
    };
  }

  tell(...words) {
    find("#trouble").textContent = words.join("\n");
    find("#trouble").hidden = words.length === 0;
  }

  /** One after the other, so that a hundred photographs do not arrive at once; one that is refused stops no other. */
  async upload(files) {
    const refused = [];
    this.tell();
    for (const file of files) {
      try {
        if (file.size > facts.max_bytes) throw new Error(`larger than ${facts.max_mib} MiB`);
        const { id } = await ask("api/photographs",
          { method: "POST", body: file, headers: { "X-File-Name": encodeURIComponent(file.name) } });
        this.chosen ??= id;
      } catch (error) {
        refused.push(`${file.name}: ${error.message}`);
        this.tell(...refused);
      }
      await this.look();
    }
  }

  async each(photographs, action) {
    this.tell();
    try {
      for (const one of photographs) await action(one);
    } catch (error) {
      this.tell(error.message);
    }
    await this.look();
  }

  restore(photographs) {
    return this.each(photographs, (one) =>
      send(`api/photographs/${one.id}/restore`, { ...this.dials, strengths: this.sliders.values(one) }));
  }

  async preview() {
    const one = this.current;
    if (!one?.strengths) return;
    const [x, y] = this.region.at;
    const button = find("#preview");
    button.textContent = "Previewing …";
    this.tell();
    try {
      const asked = { ...this.dials, strengths: this.sliders.values(one), x, y };
      this.previews.set(one.id, await send(`api/photographs/${one.id}/preview`, asked));
      if (one.id === this.chosen) this.compare("preview");
      find("#compared").scrollIntoView({ block: "nearest" });
    } catch (error) {
      this.tell(error.message);
    }
    button.textContent = "Preview the region";
  }

  /** Fetches the state and draws it; again soon while something is going on. */
  async look() {
    clearTimeout(this.timer);
    const number = (this.looks = (this.looks ?? 0) + 1);
    let busy = false;
    try {
      const { photographs } = await ask("api/state");
      if (number !== this.looks) return; // a later look is on its way
      const finished = photographs.find(({ id, state }) => id === this.chosen && state === "done"
        && this.current && this.current.state !== "done");
      this.photographs = photographs;
      if (!this.current) this.chosen = photographs[0]?.id ?? null;
      this.render();
      if (finished) this.compare("result");
      busy = photographs.some(({ state }) => ["reading", "waiting", "running"].includes(state));
    } catch (error) {
      if (number === this.looks) this.tell(error instanceof TypeError ? "the app does not answer; is it still running?" : error.message);
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), busy ? BUSY : IDLE);
  }

  choose(id) {
    this.chosen = id;
    this.render();
    if (this.current.result) this.compare("result");
    else if (this.previews.has(id)) this.compare("preview");
  }

  render() {
    find("#desk").hidden = this.photographs.length === 0;
    const list = find("#photographs");
    const old = new Map([...list.children].map((item) => [item.dataset.id, item]));
    const items = this.photographs.map((one) => this.item(old.get(one.id) ?? this.newItem(one.id), one));
    if (items.length !== list.children.length || items.some((item, index) => item !== list.children[index])) {
      list.replaceChildren(...items);
    }
    const done = this.photographs.filter(({ result }) => result);
    const working = this.photographs.some(({ state }) => ["waiting", "running"].includes(state));
    find("#cancel-all").disabled = !working;
    find("#restore-all").disabled = !this.photographs.some(({ state }) => ["ready", "failed", "done"].includes(state));
    find("#download-all").hidden = done.length === 0;
    find("#download-all").href = `api/results.zip?format=${find("#format").value}`;
    if (this.current) this.renderCurrent(this.current);
    this.renderCompared();
  }

  newItem(id) {
    const button = make("button", { type: "button", onclick: () => this.choose(id) },
      make("img", { alt: "" }), make("span", {}, make("b"), make("small"), make("progress", { max: 1 })));
    const item = make("li", {}, button);
    item.dataset.id = id;
    return item;
  }

  item(item, one) {
    const [button, image] = [item.firstChild, item.querySelector("img")];
    item.querySelector("b").textContent = one.name;
    item.querySelector("small").textContent = stateWords(one);
    const bar = item.querySelector("progress");
    bar.hidden = one.state !== "running";
    bar.value = one.share ?? 0;
    bar.setAttribute("aria-label", `Progress of ${one.name}`);
    if (one.strengths && !image.hasAttribute("src")) image.src = `api/photographs/${one.id}/thumbnail`;
    if (one.id === this.chosen) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
    return item;
  }

  renderCurrent(one) {
    find("#photograph-name").textContent = one.name;
    find("#photograph-size").textContent = one.width ? `${one.width} × ${one.height}, ${one.format}, ${one.bits} bits` : "";
    const words = stateWords(one);
    if (find("#photograph-state").textContent !== words) find("#photograph-state").textContent = words;
    const working = ["waiting", "running"].includes(one.state);
    const bar = find("#photograph-progress");
    bar.hidden = one.state !== "running";
    bar.value = one.share ?? 0;
    bar.setAttribute("aria-label", "Progress");
    find("#notes").replaceChildren(...[...(one.notes ?? []), ...(one.result?.notes ?? [])].map((text) => make("li", { textContent: text })));
    for (const selector of ["#preview", "#restore"]) find(selector).disabled = !one.strengths;
    find("#restore").disabled ||= working;
    find("#cancel").disabled = !working;
    find("#work").classList.toggle("unread", !one.strengths);
    if (one.strengths && this.opened !== one.id) this.open(one);
    find("#frame").hidden = !one.strengths;
    if (!one.strengths) {
      this.opened = this.output.photograph = null;
      find("#strengths").replaceChildren();
    }
    const format = find("#format").value;
    const usable = format === "same" || one.result?.formats.includes(format) ? format : "same";
    find("#download").hidden = !one.result;
    find("#download").href = `api/photographs/${one.id}/result?format=${usable}`;
  }

  /** A photograph that is looked at for the first time, or again. */
  open(one) {
    this.opened = one.id;
    const image = find("#thumbnail");
    image.src = `api/photographs/${one.id}/thumbnail`;
    image.alt = one.name;
    this.region.open([one.width, one.height]);
    this.sliders.open(one);
    this.output.open(one);
  }

  /** Which of its pictures the viewer shows: "preview" or "result". */
  compare(which) {
    this.which = which;
    this.renderCompared();
  }

  renderCompared() {
    const one = this.current;
    const there = { preview: one && this.previews.get(one.id), result: one?.result };
    const which = there[this.which] ? this.which : there.result ? "result" : "preview";
    const outcome = there[which];
    find("#compared").hidden = !outcome;
    if (!outcome) {
      this.shown = "";
      return;
    }
    const key = JSON.stringify(outcome.views);
    if (this.shown === key) return;
    this.shown = key;
    const { seconds, dials: { steps, temperature, seed } } = outcome;
    find("#compared .size").textContent = `${which}, ${outcome.width} × ${outcome.height}, ${steps === 1 ? "1 step" : `${steps} steps`}, detail ${temperature}, seed ${seed}, ${seconds < 60 ? `${seconds.toFixed(1)} s` : clock(seconds)}`;
    const names = Object.keys(there).filter((name) => there[name]);
    find("#which").replaceChildren(...names.map((name) => {
      const button = make("button", { type: "button", textContent: name === "preview" ? "Preview" : "Result",
        onclick: () => this.compare(name) });
      button.setAttribute("aria-pressed", name === which);
      return button;
    }));
    this.comparison.show(outcome.views);
  }
}

const app = new App();
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.matches("input, select, button, a, .region") && event.key !== "?") return;
  const general = { "?": openHelp, t: toggleTheme }[event.key];
  if (general) general();
  else if (find("#compared").hidden || !app.comparison.key(event)) return;
  event.preventDefault();
});
