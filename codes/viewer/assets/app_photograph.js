const facts = JSON.parse(document.querySelector("#facts").textContent);
const find = (selector) => document.querySelector(selector);
const REGION = 256; // pixels that the network makes

function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** One line on what is being done to a photograph. */
function stateWords(photograph) {
  const { state, message, position, share, remaining, result } = photograph;
  if (message) return message;
  const words = {
    reading: () => "being read",
    damaged: () => "cannot be read",
    ready: () => "ready",
    waiting: () => (position ? `waiting, ${position} before it` : "waiting, next"),
    running: () => `${percent(share)}${remaining === null ? "" : `, ${clock(remaining)} left`}`,
    done: () => `restored, ${result.width} × ${result.height}, ${clock(result.seconds)}`,
    failed: () => "failed",
  };
  return words[state]();
}

/** The viewer of the comparison page; its pictures are those of the last preview, or of the result. */
class AppComparison extends Comparison {
  readSources() {
    return this.labels.map((label) => this.views?.[this.view].layers[label] ?? "data:,");
  }

  /** `views` as the server tells them. */
  show(views) {
    this.views = views;
    this.shape = views;
    const buttons = this.group("View", views.map((view) => view.name), (index) => this.showView(index));
    buttons.hidden = views.length < 2;
    if (this.viewButtons.isConnected) this.viewButtons.replaceWith(buttons);
    else this.article.querySelector(".tools").append(buttons);
    this.viewButtons = buttons;
    this.unload();
    this.showView(0);
    this.load();
    this.presentAll();
  }
}

/** The square that is previewed, on the small picture: dragged, moved by arrows or by two numbers. */
class Region {
  constructor(onEnter) {
    this.frame = find("#frame");
    this.box = find("#region");
    this.image = find("#thumbnail");
    this.inputs = [find("#region-x"), find("#region-y")];
    this.size = [1, 1];
    this.at = [0, 0];
    this.side = REGION / facts.scale; // pixels of the photograph
    this.frame.addEventListener("pointerdown", (event) => this.down(event));
    this.frame.addEventListener("pointermove", (event) => this.moveTo(event));
    this.box.addEventListener("keydown", (event) => this.key(event, onEnter));
    this.inputs.forEach((input, axis) => input.addEventListener("change", () =>
      this.place(this.at.map((value, other) => (other === axis ? Number(input.value) || 0 : value)))));
    new ResizeObserver(() => this.draw()).observe(this.image);
  }

  resize(side) {
    this.side = side;
    this.place(this.at);
  }

  /** Of a photograph of (width, height), with its centre at first. */
  open(size, at = size.map((value) => value / 2)) {
    this.size = size;
    this.inputs.forEach((input, axis) => (input.max = size[axis]));
    this.place(at);
  }

  place(at) {
    this.at = at.map((value, axis) => {
      const half = Math.min(this.side, this.size[axis]) / 2;
      return Math.round(clamp(value, half, this.size[axis] - half));
    });
    this.inputs.forEach((input, axis) => (input.value = this.at[axis]));
    this.draw();
  }

  draw() {
    const shown = [this.image.clientWidth, this.image.clientHeight];
    const scale = shown.map((value, axis) => value / this.size[axis]);
    const sides = this.size.map((value) => Math.min(this.side, value));
    this.box.style.width = `${sides[0] * scale[0]}px`;
    this.box.style.height = `${sides[1] * scale[1]}px`;
    this.box.style.left = `${(this.at[0] - sides[0] / 2) * scale[0]}px`;
    this.box.style.top = `${(this.at[1] - sides[1] / 2) * scale[1]}px`;
    this.box.setAttribute("aria-label",
      `Region of the preview around ${this.at[0]}, ${this.at[1]}; the arrow keys move it, Enter previews it`);
  }

  down(event) {
    if (event.button !== 0) return;
    this.frame.setPointerCapture(event.pointerId);
    event.preventDefault();
    this.box.focus({ preventScroll: true });
    this.moveTo(event);
  }

  moveTo(event) {
    if (!this.frame.hasPointerCapture(event.pointerId)) return;
    const box = this.image.getBoundingClientRect();
    this.place([(event.clientX - box.left) / box.width * this.size[0], (event.clientY - box.top) / box.height * this.size[1]]);
  }

  key(event, onEnter) {
    const step = this.side / (event.shiftKey ? 1 : 4);
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.key === "Enter") onEnter();
    else if (event.key in moves) this.place(this.at.map((value, axis) => value + moves[event.key][axis]));
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

/** The sliders of the strengths; what the user moves is kept, the rest is what was read from the file. */
class StrengthSliders {
  constructor() {
    this.chosen = new Map(); // id -> name -> value
    this.place = find("#strengths");
    this.back = find("#read-again");
    this.back.addEventListener("click", () => {
      this.chosen.delete(this.photograph.id);
      this.open(this.photograph);
    });
  }

  /** Name -> strength of a photograph. */
  values(photograph) {
    const own = this.chosen.get(photograph.id) ?? {};
    return Object.fromEntries(facts.corruptions.map((name) => [name, own[name] ?? photograph.strengths[name].value]));
  }

  open(photograph) {
    this.photograph = photograph;
    const values = this.values(photograph);
    this.place.replaceChildren(...facts.corruptions.map((name) => this.slider(name, values[name])));
    this.back.hidden = !this.chosen.has(photograph.id);
  }

  slider(name, value) {
    const { reason } = this.photograph.strengths[name];
    const id = `strength-${name}`;
    const output = make("output", { textContent: value.toFixed(2) });
    const words = make("small", { id: `${id}-words`, textContent: `read: ${reason.replace("+-", "±")}` });
    const input = make("input", { type: "range", id, min: 0, max: 1, step: 0.01, value });
    input.setAttribute("aria-describedby", words.id);
    input.addEventListener("input", () => {
      const own = { ...this.chosen.get(this.photograph.id), [name]: Number(input.value) };
      this.chosen.set(this.photograph.id, own);
      output.textContent = Number(input.value).toFixed(2);
      this.back.hidden = false;
    });
    const label = make("label", { htmlFor: id, textContent: name.replaceAll("_", " ") });
    return make("div", { className: "dial" }, label, input, output, words);
  }
}
