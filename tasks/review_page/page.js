"use strict";
(() => {
  const clustering = document.getElementById("main").dataset.clustering;
  const choices = [...document.querySelectorAll("main select")];
  const [count, save, form, reviewer, note] = ["count", "save", "form", "reviewer", "note"].map(
    (id) => document.getElementById(id),
  );
  let unsaved = false;

  // a tile may stand in several places of the page: it is one tile
  const chosen = () => {
    const found = new Map();
    for (const choice of choices) {
      if (!choice.value) continue;
      const { cluster, tile } = choice.dataset;
      found.set(tile ?? `cluster ${cluster}`, { cluster, tile, verdict: choice.value });
    }
    return [...found.values()];
  };

  const update = () => {
    const rows = chosen();
    const clusters = rows.filter((row) => row.tile === undefined).length;
    const tiles = rows.length - clusters;
    count.textContent = rows.length
      ? `${clusters} cluster${clusters === 1 ? "" : "s"}, ${tiles} tile${tiles === 1 ? "" : "s"} decided.`
      : "No verdicts yet.";
    save.disabled = !rows.length || !reviewer.value.trim();
    save.title = save.disabled ? "Choose a verdict and enter your name first." : "";
    const lines = [];
    for (const verdict of ["drop", "keep", "review"]) {
      for (const kind of ["cluster", "tile"]) {
        const names = rows
          .filter((row) => row.verdict === verdict && (row.tile === undefined) === (kind === "cluster"))
          .map((row) => row.tile ?? (row.cluster === "-1" ? "noise" : row.cluster));
        const title = verdict === "review" ? "to send to review" : `to ${verdict}`;
        if (names.length) lines.push(`${kind === "cluster" ? "Clusters" : "Tiles"} ${title}: ${names.join(", ")}`);
      }
    }
    form.textContent = lines.join("\n") || "Nothing chosen.";
  };

  const cell = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

  const table = () => {
    const now = new Date().toISOString().replace(/\.\d+Z$/, "Z");
    const lines = [["tile_id", "cluster", "clustering", "verdict", "reviewed_by", "reviewed_at", "note"]];
    for (const { cluster, tile, verdict } of chosen()) {
      const about = tile === undefined ? ["", cluster, clustering] : [tile, "", ""];
      lines.push([...about, verdict, reviewer.value.trim(), now, note.value.trim()]);
    }
    return lines.map((line) => line.map(cell).join(",")).join("\n") + "\n";
  };

  for (const choice of choices) {
    choice.addEventListener("change", () => {
      const { tile } = choice.dataset;
      for (const other of choices) {
        if (other === choice || (tile !== undefined && other.dataset.tile === tile)) {
          other.value = choice.value;
          other.classList.toggle("chosen", Boolean(choice.value));
        }
      }
      unsaved = true;
      update();
    });
  }
  reviewer.addEventListener("input", update);
  save.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
    link.download = "decisions.csv";
    link.click();
    URL.revokeObjectURL(link.href);
    unsaved = false;
  });
  window.addEventListener("beforeunload", (event) => {
    if (unsaved && chosen().length) event.preventDefault();
  });
  for (const choice of choices) choice.value = "";
  update();
})();
