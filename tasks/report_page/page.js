"use strict";
(() => {
  const dialog = document.getElementById("enlarged");
  if (!dialog || !dialog.showModal) return;
  const open = (picture, text) => {
    dialog.querySelector(".content").replaceChildren(picture);
    dialog.querySelector(".caption").textContent = text;
    dialog.showModal();
  };
  const enlarge = (item) => {
    if (item.classList.contains("plate")) {
      open(item.cloneNode(true), item.dataset.title);
      return;
    }
    const image = item.querySelector("img");
    if (!image) return;
    const copy = image.cloneNode();
    copy.removeAttribute("width");
    copy.removeAttribute("height");
    copy.classList.add("alone");
    open(copy, item.title);
  };
  const items = [...document.querySelectorAll("main .plate, main .tile")];
  for (const item of items) {
    item.tabIndex = -1;
    item.addEventListener("click", () => enlarge(item));
    item.addEventListener("keydown", (event) => {
      if (event.target !== item) return;
      const group = [...item.closest(".sheet, .film-grid").querySelectorAll(".tile, .plate")];
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step && event.key !== "Enter") return;
      event.preventDefault();
      if (!step) {
        enlarge(item);
        return;
      }
      const next = group[(group.indexOf(item) + step + group.length) % group.length];
      item.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  }
  for (const group of document.querySelectorAll("main .sheet, main .film-grid")) {
    const first = group.querySelector(".tile, .plate");
    if (first) first.tabIndex = 0;
  }
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
})();
