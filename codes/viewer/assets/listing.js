/** All entries with their rows of the table: in some order, some of them hidden. */
class Listing {
  constructor(comparisons, table) {
    this.table = table;
    this.items = comparisons.map((comparison, index) => ({
      comparison, index, name: comparison.article.querySelector("h2").textContent, row: table?.tBodies[0].rows[index],
    }));
    this.order = this.items;
    this.changed = () => {};
    if (table) this.buildHeaders();
  }

  /** The entries that are shown, in their order. */
  get shown() {
    return this.order.filter((item) => !item.hidden);
  }

  get headers() {
    return this.table ? [...this.table.tHead.rows[0].cells] : [];
  }

  buildHeaders() {
    this.headers.forEach((cell, column) => {
      const onclick = () => this.sort(column, cell.getAttribute("aria-sort") === "ascending");
      cell.append(make("button", { type: "button", onclick }, ...cell.childNodes));
    });
  }

  /** By a column of the table; column 0 is the order of the page. What has no value comes last either way. */
  sort(column, descending) {
    const sign = descending ? -1 : 1;
    const value = ({ row, index }) =>
      column ? Number.parseFloat(row.cells[column].dataset.value.replace("inf", "Infinity")) : index;
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      return Number.isNaN(x) - Number.isNaN(y) || (x === y ? 0 : sign * (x - y)) || a.index - b.index;
    };
    this.order = [...this.items].sort(compare);
    this.headers.forEach((cell) => cell.removeAttribute("aria-sort"));
    this.headers[column]?.setAttribute("aria-sort", descending ? "descending" : "ascending");
    document.querySelector("main").append(...this.order.map((item) => item.comparison.article));
    this.table?.tBodies[0].append(...this.order.map((item) => item.row));
    this.changed();
  }

  /** Only names that contain every word of `text`, whatever its case. */
  filter(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    for (const item of this.items) {
      item.hidden = !words.every((word) => item.name.toLowerCase().includes(word));
      item.comparison.article.hidden = item.hidden;
      if (item.row) item.row.hidden = item.hidden;
    }
    this.changed();
  }
}
