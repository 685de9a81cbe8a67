"use strict";

// A job tells how far it is, without the page being loaded again. Without this script it is a page
// that shows how far the job was.
for (const card of document.querySelectorAll("[data-job]")) {
  if (card.dataset.state !== "running") continue;
  const events = new EventSource(card.dataset.job);
  const bar = card.querySelector("[data-bar]");
  const numbers = card.querySelector("[data-numbers]");
  const output = card.querySelector("[data-output]");
  events.addEventListener("state", (event) => {
    const job = JSON.parse(event.data);
    if (job.fraction === null) bar.removeAttribute("value");
    else bar.value = job.fraction;
    numbers.textContent = job.fraction === null
      ? job.description
      : `${Math.round(job.fraction * 100)} %, ${job.done} / ${job.total}, ${job.speed}/s, ${job.left}`;
    const atEnd = output.scrollTop + output.clientHeight >= output.scrollHeight - 5;
    output.textContent = job.output;
    if (atEnd) output.scrollTop = output.scrollHeight;
    if (job.state !== "running") {
      events.close();
      location.reload();
    }
  });
}

// The log of a server goes on while somebody looks at its end.
for (const log of document.querySelectorAll("[data-refresh]")) {
  log.scrollTop = log.scrollHeight;
  setInterval(async () => {
    if (document.hidden) return;
    const answer = await fetch(log.dataset.refresh);
    if (!answer.ok) return;
    const text = await answer.text();
    if (text === log.textContent) return;
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 5;
    log.textContent = text;
    if (atEnd) log.scrollTop = log.scrollHeight;
  }, 3000);
}

// Twice the same form is once too often.
for (const form of document.querySelectorAll("form[method=post]")) {
  form.addEventListener("submit", () => {
    for (const button of form.querySelectorAll("button")) {
      setTimeout(() => { button.disabled = true; }, 0);
    }
  });
}
