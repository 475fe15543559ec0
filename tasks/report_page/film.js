"use strict";
(() => {
  const mark = (number) => {
    for (const marked of document.querySelectorAll(".here")) marked.classList.remove("here");
    for (const id of [`b${number}`, `t${number}`]) {
      const found = document.getElementById(id);
      if (found) found.classList.add("here");
    }
  };
  const plate = document.querySelector(".plate");
  const links = [...document.querySelectorAll(".tiles th a")];
  for (const link of links) {
    const number = link.hash.slice(2);
    link.addEventListener("focus", () => mark(number));
    link.closest("tr").addEventListener("mouseenter", () => mark(number));
    link.addEventListener("click", (event) => {
      event.preventDefault();
      mark(number);
      plate.scrollIntoView({ block: "nearest" });
    });
    link.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const seen = links.filter((other) => other.getClientRects().length);
      const next = seen[seen.indexOf(link) + step];
      if (next) next.focus();
    });
  }
  for (const box of document.querySelectorAll(".plate svg a")) {
    box.addEventListener("click", (event) => {
      event.preventDefault();
      const number = box.getAttribute("href").slice(2);
      const row = document.getElementById(`t${number}`);
      row.scrollIntoView({ block: "center" });
      row.querySelector("a").focus({ preventScroll: true });
      mark(number);
    });
  }
})();
