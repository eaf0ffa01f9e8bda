/** The bar that acts on all entries at once. */
class Bar {
  constructor(nav, comparisons, listing) {
    this.comparisons = comparisons;
    this.listing = listing;
    const labels = [...new Set(comparisons.flatMap((each) => each.labels))];
    this.jump = this.select("Image", [], (index) => this.goTo(index));
    nav.append(this.jump.parentElement, this.finder(), ...this.sorter());
    if (labels.length > 1) {
      const choose = () => comparisons.forEach((each) => each.chooseByLabel(labels[left.value], labels[right.value]));
      const left = this.select("Left", labels, choose);
      const right = this.select("Right", labels, choose);
      right.value = 1;
      nav.append(left.parentElement, right.parentElement);
    }
    nav.append(...this.buttons(labels.length > 1));
    if (listing.table) nav.append(make("a", { href: "#index", textContent: "Table" }));
    listing.changed = () => this.relist();
    this.relist();
    addEventListener("scroll", () => this.follow(), { passive: true });
  }

  finder() {
    this.find = make("input", { type: "search", placeholder: "Find by name ( / )", oninput: () => this.refind() });
    this.find.setAttribute("aria-label", "Find images by name");
    this.find.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" && event.key !== "Enter") return;
      if (event.key === "Escape") this.find.value = "";
      this.refind();
      this.find.blur();
    });
    this.found = make("output", { className: "found" });
    return make("span", { className: "finder" }, this.find, this.found);
  }

  refind() {
    this.listing.filter(this.find.value);
    if (this.listing.shown.length) this.goTo(0);
  }

  sorter() {
    const columns = this.listing.headers.slice(1).map((cell) => cell.innerText.replace(/\s+/g, " "));
    if (!columns.length) return [];
    const texts = ["as given", ...columns.flatMap((name) => [`${name}, rising`, `${name}, falling`])];
    const sort = (index) => {
      this.listing.sort(Math.ceil(index / 2), index > 0 && index % 2 === 0);
      this.goTo(0);
    };
    return [this.select("Sort", texts, sort).parentElement];
  }

  buttons(several) {
    const all = (action) => () => this.comparisons.forEach(action);
    const rows = [["Fit", (each) => each.zoomTo(null)], ["1:1", (each) => each.zoomTo(1)]];
    const pair = (each) => each.setPaired(!this.paired);
    const buttons = rows.map(([text, action]) =>
      make("button", { type: "button", textContent: text, title: `${text} for all images`, onclick: all(action) }));
    if (!several) return buttons;
    const onclick = () => {
      all(pair)();
      this.paired = !this.paired;
      toggle.setAttribute("aria-pressed", this.paired);
    };
    const toggle = make("button", { type: "button", textContent: "Side by side", title: "For all images", onclick });
    this.paired = false;
    return [...buttons, toggle];
  }

  /** After the order or the choice of images has changed. */
  relist() {
    const { shown, items } = this.listing;
    this.jump.replaceChildren(...shown.map((item, value) => make("option", { textContent: item.name, value })));
    this.found.textContent = shown.length < items.length ? `${shown.length} of ${items.length}` : "";
    this.follow();
  }

  /** The list of images names the one that is being looked at. */
  follow() {
    if (this.following) return;
    this.following = requestAnimationFrame(() => {
      const current = this.current();
      this.jump.value = current;
      this.listing.shown[current]?.comparison.presentAll();
      this.following = 0;
    });
  }

  select(name, texts, action) {
    const options = texts.map((text, value) => make("option", { textContent: text, value }));
    const select = make("select", { onchange: () => action(Number(select.value)), title: name }, ...options);
    make("label", {}, make("span", { textContent: name }), select);
    return select;
  }

  goTo(index) {
    const { shown } = this.listing;
    const target = shown[clamp(index, 0, shown.length - 1)]?.comparison;
    target?.article.scrollIntoView();
    return target;
  }

  /** For keys: the next key then belongs to that entry. The list keeps the focus, so that arrows walk through it. */
  focus(index) {
    this.goTo(index)?.focus();
  }

  /** The entry at the top of the window, below this bar. */
  current() {
    const { shown } = this.listing;
    const index = shown.findIndex((item) => item.comparison.article.getBoundingClientRect().bottom > 160);
    return index < 0 ? shown.length - 1 : index;
  }

  /** The entry that has the focus, else the one at the top. */
  active() {
    const { shown } = this.listing;
    const focused = shown.findIndex((item) => item.comparison.article.contains(document.activeElement));
    return focused < 0 ? this.current() : focused;
  }
}

function loadWhenNear(comparisons, bar) {
  const byArticle = new Map(comparisons.map((each) => [each.article, each]));
  const observer = new IntersectionObserver((changes) => {
    for (const change of changes) {
      const comparison = byArticle.get(change.target);
      if (change.isIntersecting) comparison.load();
      else comparison.unload();
    }
    bar.follow();
  }, { rootMargin: "800px 0px" });
  for (const article of byArticle.keys()) observer.observe(article);
}

function listenToKeys(bar) {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
    if (document.querySelector("dialog[open]")) return;
    const index = bar.active();
    const actions = {
      j: () => bar.focus(index + 1), k: () => bar.focus(index - 1), "/": () => bar.find.focus(),
      "?": () => openHelp(), t: () => toggleTheme(),
    };
    const action = actions[event.key];
    if (action) action();
    else if (!bar.listing.shown[index]?.comparison.key(event)) return;
    event.preventDefault();
  });
}

const comparisons = [...document.querySelectorAll("article.entry")].map((article) => new Comparison(article));
const bar = new Bar(document.querySelector("nav.bar"), comparisons, new Listing(comparisons, document.querySelector("#index")));
loadWhenNear(comparisons, bar);
listenToKeys(bar);
