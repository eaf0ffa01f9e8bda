/** The bar that acts on all entries at once. */
class Bar {
  constructor(nav, comparisons) {
    this.comparisons = comparisons;
    const names = comparisons.map((each) => each.article.querySelector("h2").textContent);
    const labels = [...new Set(comparisons.flatMap((each) => each.labels))];
    this.jump = this.select("Image", names, (index) => this.goTo(index));
    nav.append(this.jump.parentElement);
    if (labels.length > 1) {
      const choose = () => comparisons.forEach((each) => each.chooseByLabel(labels[left.value], labels[right.value]));
      const left = this.select("Left", labels, choose);
      const right = this.select("Right", labels, choose);
      right.value = 1;
      nav.append(left.parentElement, right.parentElement);
    }
    for (const [text, zoom] of [["Fit", null], ["1:1", 1]]) {
      const onclick = () => comparisons.forEach((each) => each.zoomTo(zoom));
      nav.append(make("button", { type: "button", textContent: text, title: `${text} for all images`, onclick }));
    }
    if (document.querySelector("#index")) nav.append(make("a", { href: "#index", textContent: "Table" }));
    addEventListener("scroll", () => this.follow(), { passive: true });
  }

  /** The list of images names the one that is being looked at. */
  follow() {
    if (this.following) return;
    this.following = requestAnimationFrame(() => {
      this.jump.value = this.current();
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
    const target = this.comparisons[clamp(index, 0, this.comparisons.length - 1)];
    target.article.scrollIntoView();
    return target;
  }

  /** For keys: the next key then belongs to that entry. The list keeps the focus, so that arrows walk through it. */
  focus(index) {
    const target = this.goTo(index);
    (target.labels.length > 1 ? target.handle : target.stage).focus({ preventScroll: true });
  }

  /** The entry at the top of the window, below this bar. */
  current() {
    const index = this.comparisons.findIndex((each) => each.article.getBoundingClientRect().bottom > 160);
    return index < 0 ? this.comparisons.length - 1 : index;
  }
}

function loadWhenNear(comparisons) {
  const byArticle = new Map(comparisons.map((each) => [each.article, each]));
  const observer = new IntersectionObserver((changes) => {
    for (const change of changes) {
      const comparison = byArticle.get(change.target);
      if (change.isIntersecting) comparison.load();
      else comparison.unload();
    }
  }, { rootMargin: "800px 0px" });
  for (const article of byArticle.keys()) observer.observe(article);
}

function listenToKeys(bar) {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
    const focused = bar.comparisons.findIndex((each) => each.article.contains(document.activeElement));
    const index = focused < 0 ? bar.current() : focused;
    const move = { j: 1, k: -1 }[event.key];
    if (move) bar.focus(index + move);
    else if (!bar.comparisons[index].key(event)) return;
    event.preventDefault();
  });
}

function makeSortable(table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const value = (row) => Number.parseFloat(row.cells[column].dataset.value.replace("inf", "Infinity"));
    const compare = (a, b) => (value(a) - value(b) || 0) + Number.isNaN(value(a)) - Number.isNaN(value(b));
    const sort = () => {
      const order = cell.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", order);
      const rows = column ? [...original].sort(compare) : [...original];
      body.append(...(order === "ascending" ? rows : rows.reverse()));
    };
    const button = make("button", { type: "button", onclick: sort }, ...cell.childNodes);
    cell.append(button);
  });
}

const comparisons = [...document.querySelectorAll("article.entry")].map((article) => new Comparison(article));
const bar = new Bar(document.querySelector("nav.bar"), comparisons);
loadWhenNear(comparisons);
listenToKeys(bar);
if (document.querySelector("#index")) makeSortable(document.querySelector("#index"));
