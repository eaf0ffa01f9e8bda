const PAUSE = 250; // milliseconds after the last key before the server is asked how large a result would be

/** How large a result is to be: the fields, and what the server says of them for the photograph that is looked at. */
class OutputSize {
  /** `onKnown`: called with the side of a preview in pixels of the photograph. */
  constructor(onKnown) {
    this.onKnown = onKnown;
    this.place = find("#output");
    this.words = find("#output-size");
    this.way = find("#way");
    for (const input of document.querySelectorAll("#output input, #output select, [data-resized] select")) {
      input.addEventListener("input", () => this.changed());
    }
    this.show();
  }

  /** As `output` of a request: what is not filled in is left to the server to refuse. */
  get value() {
    const number = (id) => Number(find(id).value);
    const ways = {
      scale: () => ({ scale: number("#scale") }),
      megapixels: () => ({ megapixels: number("#megapixels") }),
      size: () => ({ size: `${find("#output-width").value}x${find("#output-height").value}`, size_mode: find("#size-mode").value }),
    };
    const way = ways[this.way.value];
    return way ? { ...way(), resampling: find("#resampling").value, linear_light: find("#linear-light").checked } : {};
  }

  show() {
    for (const dial of this.place.querySelectorAll("[data-way]")) dial.hidden = dial.dataset.way !== this.way.value;
    for (const input of document.querySelectorAll("[data-resized] input, [data-resized] select")) input.disabled = !this.way.value;
  }

  changed() {
    this.show();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), PAUSE);
  }

  /** Another photograph is looked at. */
  open(photograph) {
    this.photograph = photograph;
    this.ask();
  }

  async ask() {
    clearTimeout(this.timer);
    const one = this.photograph;
    if (!one) return;
    const number = (this.asked = (this.asked ?? 0) + 1);
    let told = null;
    let words;
    try {
      told = await send(`api/photographs/${one.id}/size`, this.value);
      words = [`${told.width} × ${told.height} pixels`, ...told.notes].join("; ");
    } catch (error) {
      words = error.message;
    }
    if (number !== this.asked) return; // a later question is on its way
    this.words.textContent = words;
    this.words.classList.toggle("warning", !told || told.notes.length > 0);
    if (told) this.onKnown(told.side);
  }
}
