"use strict";

const ZOOMS = [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 3, 4, 6, 8, 12, 16];
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const percent = (value) => `${Math.round(100 * value)} %`;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/**
 * A viewer: layers stacked in a stage, cut by a slider or side by side, zoomed and panned together.
 *
 * `article` holds the macro `viewer` of parts.html, an h2, and as JSON in data-labels the names of the layers, in
 * data-shape name, width, height and scale of each view. readSources() says where the pictures of a view are: here in
 * script.data, elsewhere a subclass knows. load() puts the pictures in place, unload() lets go of them.
 */
class Comparison {
  constructor(article) {
    this.article = article;
    this.labels = JSON.parse(article.dataset.labels);
    this.shape = JSON.parse(article.dataset.shape);
    this.stage = article.querySelector(".stage");
    this.divider = article.querySelector(".divider");
    this.handle = article.querySelector(".handle");
    this.layers = [];
    this.pointers = new Map();
    this.left = 0;
    this.right = Math.min(1, this.labels.length - 1);
    this.split = 0.5;
    this.paired = false;
    this.sources = [];
    this.buildTools();
    this.buildHandle();
    this.listen();
    this.showView(0);
  }

  buildTools() {
    const tools = this.article.querySelector(".tools");
    this.leftButtons = this.layerButtons("Left", (index) => this.choose(index, this.right));
    this.rightButtons = this.layerButtons("Right", (index) => this.choose(this.left, index));
    this.modeButtons = this.group("Mode", ["Slider", "Side by side"], (index) => this.setPaired(index === 1));
    if (this.labels.length > 1) tools.append(this.leftButtons, this.rightButtons, this.modeButtons);
    this.viewButtons = this.group("View", this.shape.map((view) => view.name), (index) => this.showView(index));
    if (this.shape.length > 1) tools.append(this.viewButtons);
    const act = [() => this.zoomTo(null), () => this.zoomTo(1), () => this.zoomStep(-1), () => this.zoomStep(1)];
    this.zoomButtons = this.group("Zoom", ["Fit", "1:1", "−", "+"], (index) => act[index]());
    this.zoomButtons.children[3].setAttribute("aria-label", "Zoom out");
    this.zoomButtons.children[4].setAttribute("aria-label", "Zoom in");
    this.readout = make("output", { className: "readout" });
    this.zoomButtons.append(this.readout);
    tools.append(this.zoomButtons);
  }

  layerButtons(side, action) {
    const group = this.group(side, this.labels, action);
    group.classList.add(side.toLowerCase());
    return group;
  }

  group(name, labels, action) {
    const buttons = labels.map((label, index) =>
      make("button", { type: "button", textContent: label, onclick: () => action(index) }));
    const group = make("div", { className: "group" }, make("span", { textContent: name }), ...buttons);
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", `${name}, ${this.article.querySelector("h2").textContent}`);
    return group;
  }

  buildHandle() {
    const attributes = { role: "slider", tabindex: 0, "aria-valuemin": 0, "aria-valuemax": 100,
      "aria-orientation": "horizontal", "aria-label": "Border between the left and the right layer" };
    for (const [name, value] of Object.entries(attributes)) this.handle.setAttribute(name, value);
    this.stage.tabIndex = 0;
    if (this.labels.length > 1) return;
    this.divider.remove();
    this.stage.querySelector(".badge.right").remove();
  }

  get slides() {
    return this.labels.length > 1 && !this.paired;
  }

  /** What takes the focus: the slider where there is one. */
  focus() {
    (this.slides ? this.handle : this.stage).focus({ preventScroll: true });
  }

  listen() {
    const stage = this.stage;
    stage.addEventListener("pointerdown", (event) => this.pointerDown(event));
    stage.addEventListener("pointermove", (event) => this.pointerMove(event));
    for (const type of ["pointerup", "pointercancel"]) {
      stage.addEventListener(type, (event) => this.pointers.delete(event.pointerId));
    }
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    stage.addEventListener("dblclick", (event) => this.zoomTo(this.zoom === null ? 1 : null, this.position(event)));
    addEventListener("resize", () => this.layout());
    // A scrollbar narrows the column without a resize of the window; the tools have the column's width.
    new ResizeObserver(() => this.layout()).observe(this.article.querySelector(".tools"));
  }

  /** Pictures are present only near the window, and each only when it is first looked at. */
  load() {
    this.near = true;
    if (this.layers.length) return;
    this.sources = this.readSources();
    this.layers = this.labels.map((label) => {
      const image = make("img", { alt: label, draggable: false, decoding: "async" });
      return make("div", { className: "layer" }, image);
    });
    this.stage.prepend(...this.layers);
    this.render();
  }

  readSources() {
    const { layers } = JSON.parse(this.article.querySelector("script.data").textContent).views[this.view];
    return this.labels.map((label) => layers[label]);
  }

  unload() {
    this.near = false;
    for (const layer of this.layers) {
      layer.firstChild.removeAttribute("src");
      layer.remove();
    }
    this.layers = [];
    this.sources = [];
  }

  present(index) {
    const image = this.layers[index].firstChild;
    if (!image.hasAttribute("src")) image.src = this.sources[index];
  }

  /** The other layers too, so that a switch shows them at once: of the entry that is being looked at. */
  presentAll() {
    this.layers.forEach((_, index) => this.present(index));
  }

  showView(index) {
    const wasNear = this.near;
    this.unload();
    this.view = index;
    const { width, height } = this.shape[index];
    Object.assign(this, { width, height, zoom: null, center: [width / 2, height / 2] });
    if (wasNear) this.load();
    this.layout();
  }

  /** The stage is as wide as its column and as high as the fitted image, within the window. */
  layout() {
    this.stage.style.height = "";
    const highest = Number.parseFloat(getComputedStyle(this.stage).maxHeight);
    const scale = this.fit(this.pane()[0], highest);
    this.stage.style.height = `${Math.ceil(this.height * scale)}px`;
    this.render();
  }

  /** CSS pixels an image pixel. Enlarging is by whole multiples, so that every image pixel gets the same square. */
  fit(width, height) {
    const scale = Math.min(width / this.width, height / this.height) * devicePixelRatio;
    return (scale > 1 ? Math.floor(scale + 1e-3) : scale) / devicePixelRatio;
  }

  choose(left, right) {
    const last = this.labels.length - 1;
    const before = [this.left, this.right];
    [this.left, this.right] = [clamp(left, 0, last), clamp(right, 0, last)];
    // A layer lies on one side only, so the sides change places.
    if (this.paired && this.left === this.right) [this.right, this.left] = before;
    this.presentAll();
    this.render();
  }

  chooseByLabel(left, right) {
    const index = (label, otherwise) => (this.labels.includes(label) ? this.labels.indexOf(label) : otherwise);
    this.choose(index(left, this.left), index(right, this.right));
  }

  setPaired(paired) {
    if (this.labels.length < 2 || paired === this.paired) return;
    const focused = this.stage.contains(document.activeElement);
    if (this.left === this.right) this.right = (this.left + 1) % this.labels.length;
    this.paired = paired;
    this.stage.classList.toggle("paired", paired);
    this.layout();
    if (focused) this.focus();
  }

  setSplit(value) {
    this.split = clamp(value, 0, 1);
    this.render();
  }

  /** `zoom` is in screen pixels an image pixel, null fits; the image point under `at` (stage pixels) stays where it is. */
  zoomTo(zoom, at = this.pane().map((size) => size / 2)) {
    const before = this.geometry();
    this.zoom = zoom === null ? null : clamp(zoom, ZOOMS[0], ZOOMS[ZOOMS.length - 1]);
    const scale = this.geometry().scale;
    this.center = this.center.map((value, axis) => {
      const offset = at[axis] - before.stage[axis] / 2;
      return value + offset / before.scale - offset / scale;
    });
    this.render();
  }

  zoomStep(direction) {
    const now = this.geometry().scale * devicePixelRatio;
    const further = ZOOMS.filter((zoom) => direction * (zoom - now) > 1e-3 * now);
    if (further.length) this.zoomTo(direction > 0 ? further[0] : further[further.length - 1]);
  }

  /** The part of the stage in which one picture is seen. */
  pane() {
    return [this.stage.clientWidth / (this.paired ? 2 : 1), this.stage.clientHeight];
  }

  /** Sizes in CSS pixels, within a pane. */
  geometry() {
    const stage = this.pane();
    const ratio = devicePixelRatio;
    const scale = Math.max(1e-6, this.zoom === null ? this.fit(...stage) : this.zoom / ratio);
    const size = [this.width * scale, this.height * scale];
    // An axis that fits is centred; on the other one the image may not leave the stage.
    const center = this.center.map((value, axis) => {
      const half = stage[axis] / 2 / scale;
      const full = axis ? this.height : this.width;
      return size[axis] <= stage[axis] ? full / 2 : clamp(value, half, full - half);
    });
    const origin = center.map((value, axis) => Math.round((stage[axis] / 2 - value * scale) * ratio) / ratio);
    const visible = [Math.max(0, origin[0]), Math.min(stage[0], origin[0] + size[0])];
    return { stage, scale, size, center, origin, visible };
  }

  render() {
    const { stage, scale, size, center, origin, visible } = this.geometry();
    this.center = center;
    const cut = this.paired ? stage[0] : visible[0] + this.split * (visible[1] - visible[0]);
    const rest = this.stage.clientWidth - cut;
    this.layers.forEach((layer, index) => {
      const isLeft = index === this.left;
      const isRight = index === this.right;
      layer.hidden = !isLeft && !isRight;
      if (!layer.hidden) this.present(index);
      const clip = isLeft ? `inset(0px ${rest}px 0px 0px)` : `inset(0px 0px 0px ${cut}px)`;
      layer.style.clipPath = isLeft && isRight ? "none" : clip;
      const image = layer.firstChild;
      const x = origin[0] + (this.paired && isRight ? stage[0] : 0);
      image.style.width = `${this.width}px`;
      image.style.height = `${this.height}px`;
      image.style.transform = `translate(${x}px, ${origin[1]}px) scale(${scale})`;
      image.classList.toggle("enlarged", scale * devicePixelRatio > 1);
    });
    this.divider.style.transform = `translateX(${cut}px)`;
    const pannable = size[0] > stage[0] + 1 || size[1] > stage[1] + 1;
    this.stage.classList.toggle("pannable", pannable);
    this.renderLabels(scale);
  }

  renderLabels(scale) {
    const [left, right] = [this.labels[this.left], this.labels[this.right]];
    this.stage.querySelector(".badge.left").textContent = left;
    this.handle.setAttribute("aria-valuenow", Math.round(100 * this.split));
    this.handle.setAttribute("aria-valuetext", `${percent(this.split)} ${left}, ${percent(1 - this.split)} ${right}`);
    if (this.labels.length > 1) this.stage.querySelector(".badge.right").textContent = right;
    const reduced = this.shape[this.view].scale < 1 ? " of the preview" : "";
    this.readout.textContent = percent(scale * devicePixelRatio) + reduced;
    const press = (group, index) => [...group.querySelectorAll("button")].forEach((button, position) =>
      button.setAttribute("aria-pressed", position === index));
    press(this.leftButtons, this.left);
    press(this.rightButtons, this.right);
    press(this.modeButtons, Number(this.paired));
    press(this.viewButtons, this.view);
    const ratio = scale * devicePixelRatio;
    press(this.zoomButtons, this.zoom === null ? 0 : Math.abs(ratio - 1) < 1e-3 ? 1 : -1);
  }

  position(event) {
    const box = this.stage.getBoundingClientRect();
    const x = event.clientX - box.left - this.stage.clientLeft;
    const pane = this.pane()[0];
    return [this.paired && x > pane ? x - pane : x, event.clientY - box.top - this.stage.clientTop];
  }

  pointerDown(event) {
    if (event.button !== 0) return;
    const slides = this.slides && (this.divider.contains(event.target) || !this.stage.matches(".pannable"));
    this.action = slides ? "slide" : "pan";
    this.pointers.set(event.pointerId, this.position(event));
    this.stage.setPointerCapture(event.pointerId);
    event.preventDefault();
    this.focus();
    this.presentAll();
    if (slides && this.pointers.size === 1 && event.pointerType === "mouse") this.slideTo(this.position(event));
  }

  pointerMove(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = this.position(event);
    // Side by side, a drag that crosses the middle jumps by a pane.
    if (this.paired) now[0] += this.pane()[0] * Math.round((before[0] - now[0]) / this.pane()[0]);
    const other = [...this.pointers].find(([id]) => id !== event.pointerId);
    this.pointers.set(event.pointerId, now);
    if (other) this.pinch(before, now, other[1]);
    else if (this.action === "slide") this.slideTo(now);
    else this.pan(now[0] - before[0], now[1] - before[1]);
  }

  slideTo([x]) {
    const { visible } = this.geometry();
    this.setSplit((x - visible[0]) / (visible[1] - visible[0]));
  }

  pan(dx, dy) {
    const { scale } = this.geometry();
    this.center = [this.center[0] - dx / scale, this.center[1] - dy / scale];
    this.render();
  }

  pinch(before, now, other) {
    const distance = (point) => Math.max(8, Math.hypot(point[0] - other[0], point[1] - other[1]));
    const middle = [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2];
    this.action = "pan";
    this.zoomTo(this.geometry().scale * devicePixelRatio * (distance(now) / distance(before)), middle);
    this.pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
  }

  /** The wheel belongs to the page, unless the user has clicked into this stage or holds Ctrl (as a pinch does). */
  wheel(event) {
    if (!event.ctrlKey && !event.metaKey && !this.stage.contains(document.activeElement)) return;
    event.preventDefault();
    const pixels = event.deltaY * [1, 16, 400][event.deltaMode];
    const now = this.geometry().scale * devicePixelRatio;
    this.zoomTo(now * 2 ** clamp(-pixels / 200, -1, 1), this.position(event));
  }

  /** Returns whether the key meant something here. */
  key(event) {
    const digit = /^(?:Digit|Numpad)([1-9])$/.exec(event.code);
    if (digit && Number(digit[1]) <= this.labels.length) {
      const index = Number(digit[1]) - 1;
      this.choose(event.shiftKey ? index : this.left, event.shiftKey ? this.right : index);
      return true;
    }
    const count = this.labels.length;
    const turn = (step) => () => this.choose(this.left, (this.right + step + count) % count);
    const actions = {
      x: () => this.choose(this.right, this.left), f: () => this.zoomTo(null), o: () => this.zoomTo(1),
      "+": () => this.zoomStep(1), "=": () => this.zoomStep(1), "-": () => this.zoomStep(-1),
      ".": turn(1), ",": turn(-1), s: () => this.setPaired(!this.paired),
    };
    const found = actions[event.key.toLowerCase()] ?? this.arrowAction(event);
    found?.();
    return Boolean(found);
  }

  /** Arrows move the slider while it has the focus, the picture while the stage has it. */
  arrowAction(event) {
    if (document.activeElement === this.stage) {
      const far = event.shiftKey ? 200 : 40;
      const by = (dx, dy) => () => this.pan(dx * far, dy * far);
      return {
        ArrowLeft: by(1, 0), ArrowRight: by(-1, 0), ArrowUp: by(0, 1), ArrowDown: by(0, -1),
        Escape: () => this.stage.blur(),
      }[event.key];
    }
    if (document.activeElement !== this.handle) return undefined;
    const step = event.shiftKey ? 0.1 : 0.01;
    const by = (amount) => () => this.setSplit(this.split + amount);
    return {
      ArrowLeft: by(-step), ArrowDown: by(-step), ArrowRight: by(step), ArrowUp: by(step), PageDown: by(-0.1),
      PageUp: by(0.1), Home: () => this.setSplit(0), End: () => this.setSplit(1),
      Escape: () => this.handle.blur(),
    }[event.key];
  }
}
