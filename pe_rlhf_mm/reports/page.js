"use strict";
const filters = document.querySelector(".filters");
const status = document.querySelector("#shown");
const cards = document.querySelectorAll(".card");
filters.hidden = false; // without scripts the buttons could do nothing
filters.addEventListener("click", (event) => {
  const pressed = event.target.closest("button");
  if (!pressed) return;
  for (const button of filters.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button === pressed));
  }
  let shown = 0;
  for (const card of cards) {
    card.hidden = pressed.value !== "all" && card.dataset.group !== pressed.value;
    shown += card.hidden ? 0 : 1;
  }
  status.textContent = `${shown} shown`;
});
