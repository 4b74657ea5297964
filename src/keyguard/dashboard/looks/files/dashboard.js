"use strict";
// The clock goes on, and the page fetches itself: not in a hidden tab, nor while a form or a selection is in use.
const main = () => document.querySelector("main");
const clock = document.querySelector(".bar time");
const every = 1000 * Number(document.body.dataset.every);
const began = clock && Date.parse(clock.dateTime) - performance.now();
if (clock) setInterval(() => { clock.textContent = new Date(began + performance.now()).toISOString().slice(11, 19) + " UTC"; }, 1000);

document.querySelector(".bar [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" }); // a telephone shows three

const inUse = () => document.hidden || String(getSelection()) || document.activeElement?.closest("form");
const place = (one) => one?.id ? "#" + CSS.escape(one.id) : one?.matches("main a[href]") ? `main a[href="${CSS.escape(one.getAttribute("href"))}"]` : "";
async function renew() {
  const asked = main().dataset.tag;
  main().setAttribute("aria-busy", "true");
  const answer = await fetch(location.href, { cache: "no-store", headers: { "If-None-Match": `"${asked}"` }, signal: AbortSignal.timeout(2 * every + 5000) });
  if (answer.status === 401 || answer.status === 403 || answer.redirected) return location.reload();
  if (!answer.ok && answer.status !== 304) throw new Error(answer.status);
  document.querySelector(".late").hidden = true;
  if (answer.status === 304) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (inUse() || asked !== main().dataset.tag) return;
  const open = [...main().querySelectorAll("details[open]")].map(place), focused = place(document.activeElement);
  const moved = main().querySelector(".wide")?.scrollTop;
  for (const part of ["main", ".light", ".footer"]) document.querySelector(part)?.replaceWith(page.querySelector(part) ?? "");
  document.title = page.title;
  for (const one of open) document.querySelector(one)?.setAttribute("open", "");
  if (moved) main().querySelector(".wide")?.scrollTo(0, moved);
  if (focused) document.querySelector(focused)?.focus({ preventScroll: true });
}
async function live() {
  if (!inUse()) await renew().catch(() => {
    const late = document.querySelector(".late");
    if (late.hidden) late.querySelector("time").textContent = clock.textContent;
    late.hidden = false;
  });
  main().setAttribute("aria-busy", "false");
  setTimeout(live, every);
}
if (every) setTimeout(live, every);
