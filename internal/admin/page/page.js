// Keeps the page as the program is, without a reload: it asks for the page again, and takes over the parts that differ. Events
// tell when; a slow clock does in between, for what changes without an event.
"use strict";

const pause = 2000; // milliseconds between two looks while nothing happens
const live = document.getElementById("live");
const news = document.getElementById("news");
let asking = false, again = false;

function tell(state, text) {
  live.className = state;
  if (live.textContent !== text) live.textContent = text;
}

// refresh takes over what has changed. While one is under way, another one is put off, not forgotten.
async function refresh() {
  if (asking) { again = true; return; }
  asking = true;
  try {
    const answer = await fetch(location.href, { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    takeOver(page);
    tell("on", "live");
  } catch {
    tell("lost", "connection lost, trying again");
  }
  asking = false;
  if (again) { again = false; refresh(); }
}

function takeOver(page) {
  document.title = page.title;
  const main = document.querySelector("main"), fresh = page.querySelector("main");
  const ids = (root) => [...root.querySelectorAll("section")].map((s) => s.id).join(" ");
  if (ids(main) !== ids(fresh)) {
    main.innerHTML = fresh.innerHTML;
  } else {
    for (const section of fresh.querySelectorAll("section")) replace(section);
  }
  replace(page.getElementById("facts"));
  localTimes();
}

// replace takes over one part if it differs. What was scrolled stays so, and a server with another role shows that it has.
function replace(fresh) {
  const old = document.getElementById(fresh.id);
  const html = fresh.outerHTML;
  if (old.dataset.html === html) return;
  const roles = new Map([...old.querySelectorAll("tr.server")].map((row) => [row.id, row.className]));
  const scrolled = old.querySelector(".events")?.scrollTop;
  old.className = fresh.className;
  old.innerHTML = fresh.innerHTML;
  old.dataset.html = html;
  for (const row of old.querySelectorAll("tr.server")) {
    if (roles.has(row.id) && roles.get(row.id) !== row.className) row.classList.add("changed");
  }
  if (scrolled) old.querySelector(".events").scrollTop = scrolled;
}

// localTimes writes times as the reader's clock has them.
function localTimes() {
  for (const time of document.querySelectorAll("time")) {
    const at = new Date(time.dateTime);
    const today = at.toDateString() === new Date().toDateString();
    time.textContent = today ? at.toLocaleTimeString() : at.toLocaleString();
  }
}

const stream = new EventSource("events?since=" + document.body.dataset.last);
stream.onopen = refresh;
stream.onerror = () => tell("lost", "connection lost, trying again");
stream.onmessage = (message) => {
  const line = document.createElement("p");
  line.textContent = JSON.parse(message.data).text;
  news.append(line);
  while (news.children.length > 20) news.firstChild.remove();
  refresh();
};
setInterval(() => { if (!document.hidden) refresh(); }, pause);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
localTimes();
