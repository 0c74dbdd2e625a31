"use strict";
(() => {
  document.documentElement.classList.add("scripted");

  // galleries: a button, or a list where there are many values, shows the pictures of one value
  for (const gallery of document.querySelectorAll(".gallery")) {
    const chosen = {};
    const paired = gallery.dataset.paired === "yes";
    const count = gallery.querySelector(".count");
    const tags = new Map([...gallery.querySelectorAll(".picture")].map((p) => [p, JSON.parse(p.dataset.tags)]));
    const fits = (picture) => Object.entries(chosen).every(([tag, value]) => !value || tags.get(picture)[tag] === value);

    const show = () => {
      let seen = 0;
      for (const group of gallery.querySelectorAll(".group")) {
        const pictures = [...group.querySelectorAll(".picture")];
        const whole = paired && pictures.some(fits);
        for (const picture of pictures) {
          picture.hidden = !(whole || (!paired && fits(picture)));
          seen += picture.hidden ? 0 : 1;
        }
        group.hidden = pictures.every((picture) => picture.hidden);
      }
      if (count) count.textContent = seen === tags.size ? `${seen} pictures` : `${seen} of ${tags.size} pictures`;
    };

    for (const filter of gallery.querySelectorAll(".filter")) {
      const choose = (value) => {
        chosen[filter.dataset.tag] = value;
        for (const button of filter.querySelectorAll("button")) {
          button.setAttribute("aria-pressed", String(button.dataset.value === value));
        }
        show();
      };
      filter.addEventListener("click", (event) => {
        const button = event.target.closest("button");
        if (button) choose(button.dataset.value);
      });
      filter.addEventListener("change", (event) => choose(event.target.value));
    }
  }

  // a box is a stop of the tab key only where it can be scrolled; what is folded away is looked at when it unfolds
  const boxes = [...document.querySelectorAll(".scroll")];
  const stops = () => boxes.forEach((box) => {
    box.tabIndex = box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1 ? 0 : -1;
  });
  addEventListener("toggle", stops, true);
  addEventListener("resize", stops, { passive: true });
  stops();

  // contents: mark the section that is being read; close the menu of a short screen once it was used
  const links = [...document.querySelectorAll(".side a")];
  const sections = links.map((link) => document.getElementById(link.hash.slice(1)));
  const mark = () => {
    let at = sections.findLastIndex((section) => section && section.getBoundingClientRect().top < innerHeight / 3);
    if (innerHeight + scrollY >= document.documentElement.scrollHeight - 2) at = sections.length - 1;
    links.forEach((link, n) => (n === at ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current")));
  };
  let waiting = false;
  const later = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; mark(); });
  };
  addEventListener("scroll", later, { passive: true });
  addEventListener("resize", later, { passive: true });
  mark();
  const menu = document.querySelector(".menu");
  menu.addEventListener("click", (event) => { if (event.target.closest("a")) menu.open = false; });

  // paper has no buttons: everything folded away is printed
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("main details:not([open])")];
    folded.forEach((details) => (details.open = true));
  });
  addEventListener("afterprint", () => folded.forEach((details) => (details.open = false)));
})();
