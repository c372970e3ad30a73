/* A figure that is clicked opens larger, on the page itself, where the dark mode recolours it as it does in the text. Its
   link, to a picture drawn on white, stays for whoever wants it in a tab of its own. */
"use strict";
document.addEventListener("click", (event) => {
  const link = event.target.closest("article a.image-reference");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const dialog = document.createElement("dialog"), close = document.createElement("button"), picture = link.querySelector("img").cloneNode();
  dialog.className = "wiring-figure";
  dialog.ariaLabel = "Figure, enlarged";
  close.textContent = "Close";
  picture.removeAttribute("style");  // its width in the text
  dialog.append(close, picture);
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
});
