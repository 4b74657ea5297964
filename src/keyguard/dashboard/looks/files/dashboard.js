"use strict";
// The clock goes on, and the page fetches itself: not in a hidden tab, nor while a form or a selection is in use.
const main = () => document.querySelector("main");
const clock = document.querySelector(".bar time");
const every = 1000 * Number(document.body.dataset.every);
const began = clock && Date.parse(clock.dateTime) - performance.now();
if (clock) setInterval(() => { clock.textContent = new Date(began + performance.now()).toISOString().slice(11, 19) + " UTC"; }, 1000);

const inUse = () => document.hidden || String(getSelection()) || document.activeElement?.closest("form");
async function renew() {
  const asked = main().dataset.tag;
  main().setAttribute("aria-busy", "true");
  const answer = await fetch(location.href, { cache: "no-store", headers: { "If-None-Match": `"${asked}"` }, signal: AbortSignal.timeout(2 * every + 5000) });
  if (answer.status === 401 || answer.status === 403 || answer.redirected) return location.reload();
  if (answer.status !== 304) {
    if (!answer.ok) throw new Error(answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (inUse() || asked !== main().dataset.tag) return;
    const open = [...main().querySelectorAll("details[open]")].map((one) => one.id);
    const focused = document.activeElement?.id;
    for (const part of ["main", ".light", ".footer"]) document.querySelector(part)?.replaceWith(page.querySelector(part) ?? "");
    document.title = page.title;
    for (const id of [...open]) document.getElementById(id)?.setAttribute("open", "");
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  }
  document.querySelector(".late").hidden = true;
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
document.addEventListener("visibilitychange", () => { if (every && !inUse()) renew().catch(() => {}).finally(() => main().setAttribute("aria-busy", "false")); });
