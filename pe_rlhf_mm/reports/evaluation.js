"use strict";
// What models and data say becomes text nodes and values of attributes, and is never read as markup.
const { logs, evaluators, best, samples } = JSON.parse(document.querySelector("#log").textContent);
const PER_PAGE = 20;
const MARKS = { right: "✓", wrong: "✗", between: "~", unscored: "?" };
const places = ["#query", "#scores", ".filters", "#found", "#pager", "#shown"];
const [query, scores, filters, found, pager, shown] = places.map((name) => document.querySelector(name));
const chosen = { evaluator: 0, side: 0, kind: "All", words: "" };
let matching = samples, first = 0;

// --- scores ---------------------------------------------------------------------------------------------------

function verdict(value, evaluator = chosen.evaluator) {
  if (value === null) return "unscored";
  return value >= best[evaluator] ? "right" : value <= 0 ? "wrong" : "between";
}

function valueOf(sample, side = chosen.side) {
  return sample.sides[side]?.scores[chosen.evaluator]?.value ?? null;
}

function gain(sample) {
  const [a, b] = [valueOf(sample, 0), valueOf(sample, 1)];
  return a === null || b === null ? 0 : b - a;
}

function said(side) {
  return side.strip ? [...side.strip.turns, ...side.strip.last].map((turn) => turn.reply) : side.replies;
}

const is = (kind) => (sample) => sample.sides[chosen.side] !== null && verdict(valueOf(sample)) === kind;
const kinds = new Map([
  ["All", () => true],
  ["Right", is("right")],
  ["Between", is("between")],
  ["Wrong", is("wrong")],
  ["Unscored", is("unscored")],
]);
if (logs.length > 1) {
  kinds.set("Replies differ", ({ sides: [a, b] }) => a && b && JSON.stringify(said(a)) !== JSON.stringify(said(b)));
  kinds.set("Scores differ", (sample) => gain(sample) !== 0);
  kinds.set("B better", (sample) => gain(sample) > 0);
  kinds.set("B worse", (sample) => gain(sample) < 0);
}

// --- searching ------------------------------------------------------------------------------------------------

function textsOf({ id, cluster, goal, messages, sides }) {
  const asked = messages.flatMap(({ parts }) => parts.map((part) => part.text));
  const answered = sides.filter(Boolean).flatMap((side) => [
    ...said(side),
    ...(side.strip ? [...side.strip.turns, ...side.strip.last].flatMap(({ text, error }) => [text, error]) : []),
    ...side.scores.map((score) => score?.why),
  ]);
  return [id, cluster, goal, ...asked, ...answered].filter(Boolean).join("\n").toLowerCase();
}

const texts = new Map(samples.map((sample) => [sample, textsOf(sample)]));

function filter() {
  const worded = samples.filter((sample) => texts.get(sample).includes(chosen.words));
  matching = worded.filter(kinds.get(chosen.kind));
  first = 0;
  count(worded);
  show();
}

function count(worded) {
  for (const button of filters.children) {
    const n = worded.filter(kinds.get(button.value)).length;
    const pressed = button.value === chosen.kind;
    button.textContent = `${button.value} ${n.toLocaleString("en")}`;
    button.disabled = n === 0 && !pressed;
    button.setAttribute("aria-pressed", String(pressed));
  }
}

// --- drawing --------------------------------------------------------------------------------------------------

function make(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

function number(value) {
  return value === null ? "–" : String(Number(value.toFixed(3))).replace("-", "−");
}

function mark(kind) {
  return make("span", { class: `mark ${kind}` }, MARKS[kind], make("span", { class: "spoken" }, ` ${kind}`));
}

function written(words, style) {
  return words ? make("p", { class: style, dir: "auto" }, words) : make("p", {}, make("em", {}, "empty"));
}

function picture([style, width, height], label) {
  const shape = `${width > height ? " broad" : ""}${Math.max(width, height) <= 128 ? " coarse" : ""}`;
  const drawn = make("div", { class: `screen ${style}${shape}`, role: "img", "aria-label": label });
  drawn.style.aspectRatio = `${width} / ${height}`;
  return drawn;
}

function part({ text, screen, left_out: path }) {
  if (screen) return picture(screen, "Picture of the prompt");
  if (path) return make("p", { class: "note" }, `Picture left out: ${path}`);
  return make("p", { class: "said", dir: "auto" }, text);
}

function message({ role, parts }) {
  const system = role === "system"; // the same for every sample, as a rule
  const title = make(system ? "summary" : "h4", {}, role);
  return make(system ? "details" : "section", { class: "message" }, title, ...parts.map(part));
}

function place(drawn, [x, y]) {
  drawn.style.left = `${100 * x}%`;
  drawn.style.top = `${100 * y}%`;
}

function marks(point, to) {
  const drawn = [];
  if (point && to) {
    const drag = document.querySelector("#drag").content.cloneNode(true);
    for (const path of drag.querySelectorAll("path")) path.setAttribute("d", `M${point.join(" ")}L${to.join(" ")}`);
    place(drag.querySelector(".aim"), to);
    drawn.push(drag);
  }
  if (point) {
    const aim = document.querySelector("#aim").content.cloneNode(true);
    place(aim.querySelector(".aim"), point);
    drawn.push(aim);
  }
  return drawn;
}

function where([x, y]) {
  return `${(100 * x).toFixed(1)} % from the left, ${(100 * y).toFixed(1)} % from the top`;
}

function tile({ number, screen, text, reply, point, to, error, reward }) {
  const aimed = [`Screen ${number}`, point && `pointed at ${where(point)}`, to && `dragged to ${where(to)}`];
  const seen = screen
    ? picture(screen, aimed.filter(Boolean).join(", "))
    : make("p", { class: "screen told", dir: "auto" }, text || "no picture");
  if (screen) seen.append(...marks(point, to));
  return make(
    "li",
    error ? { class: "failed" } : {},
    seen,
    reply === null ? make("p", { class: "after" }, "at the end") : written(reply, "reply"),
    error ? make("p", { class: "error", dir: "auto" }, `⚠ ${error}`) : null,
    reward ? make("p", { class: "earned" }, `reward ${reward}`) : null,
  );
}

function strip({ reward, replies, ending, why, turns, left_out: more, last }, log) {
  const course = [`reward ${reward}`, `${replies} ${replies === 1 ? "reply" : "replies"}`, ending, why].filter(Boolean);
  return make(
    "div",
    { class: "strip" },
    make("p", { class: "course", dir: "auto" }, course.join(", ")),
    make(
      "ol",
      { tabindex: "0", "aria-label": `Turns of ${log}` },
      ...turns.map(tile),
      more ? make("li", { class: "gap" }, `${more} more`) : null,
      ...last.map(tile),
    ),
  );
}

function scored(score, i) {
  const { value, why, parts } = score ?? { value: null, why: "not scored yet", parts: {} };
  const details = Object.entries(parts).map(([name, value]) => `${name} ${number(value)}`);
  return make(
    "li",
    {},
    mark(verdict(value, i)),
    make("strong", {}, number(value)),
    ` ${evaluators[i]}`,
    make("small", { dir: "auto" }, [why, details.join(", ")].filter(Boolean).join(" · ")),
  );
}

function answer(side, i) {
  const log = logs.length > 1 ? logs[i] : "Reply";
  const made = make("section", { class: "answer" }, make("h4", {}, log));
  if (side === null) {
    made.append(make("p", { class: "note" }, "not in this log"));
    return made;
  }
  made.append(...(side.strip ? [strip(side.strip, log)] : side.replies.map((reply) => written(reply, "reply"))));
  made.append(make("ul", { class: "scored" }, ...side.scores.map(scored)));
  return made;
}

function card(sample) {
  const { id, repeat, cluster, messages, goal, sides } = sample;
  const shape = sides.some((side) => side?.strip) ? "played" : logs.length > 1 ? "double" : "single";
  const about = [
    repeat ? `try ${repeat + 1}` : "",
    cluster && cluster !== id ? `cluster ${cluster}` : "",
    gain(sample) ? `B ${gain(sample) > 0 ? "better" : "worse"}` : "",
  ].filter(Boolean);
  return make(
    "article",
    { class: `sample panel ${shape}`, tabindex: "-1", "aria-label": `Sample ${id}` },
    make(
      "h3",
      {},
      logs.length > 1 ? null : mark(verdict(valueOf(sample))),
      make("bdi", {}, id),
      make("small", {}, about.join(", ")),
    ),
    make("div", { class: "asked" }, ...messages.map(message), goal ? written(goal, "said goal") : null),
    make("div", { class: "answers" }, ...sides.map(answer)),
  );
}

function show() {
  const until = Math.min(first + PER_PAGE, matching.length);
  found.replaceChildren(...matching.slice(first, until).map(card));
  const all = matching.length === samples.length ? "" : ` of ${samples.length.toLocaleString("en")} in all`;
  const range = matching.length ? `${(first + 1).toLocaleString("en")}–${until.toLocaleString("en")} of ` : "";
  shown.textContent = `${range}${matching.length.toLocaleString("en")} samples${all}`;
  pager.querySelector("[value='-1']").disabled = first === 0;
  pager.querySelector("[value='1']").disabled = until === matching.length;
}

// --- moving ---------------------------------------------------------------------------------------------------

function turn(step) {
  const next = first + step * PER_PAGE;
  if (next < 0 || next >= matching.length) return false;
  first = next;
  show();
  return true;
}

function go(to) {
  to?.focus({ preventScroll: true });
  to?.scrollIntoView({ block: "start" });
}

function move(step) {
  const at = [...found.children].indexOf(document.activeElement.closest(".sample"));
  const next = at < 0 ? 0 : at + step;
  if (next < 0 && turn(-1)) go(found.lastElementChild);
  else if (next >= PER_PAGE && turn(1)) go(found.firstElementChild);
  else go(found.children[next]);
}

const keys = {
  j: () => move(1),
  k: () => move(-1),
  n: () => turn(1) && go(found.firstElementChild),
  p: () => turn(-1) && go(found.firstElementChild),
  "/": () => query.select(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === query && ["Escape", "Enter"].includes(event.key)) go(found.firstElementChild);
  if (event.target.matches("input, select") || !(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
});
query.addEventListener("input", () => {
  chosen.words = query.value.trim().toLowerCase();
  filter();
});
scores.addEventListener("change", () => {
  [chosen.side, chosen.evaluator] = scores.value.split(" ").map(Number);
  filter();
});
filters.addEventListener("click", (event) => {
  const pressed = event.target.closest("button");
  if (!pressed) return;
  chosen.kind = pressed.value;
  filter();
});
pager.addEventListener("click", (event) => {
  const pressed = event.target.closest("button");
  if (pressed && turn(Number(pressed.value))) go(found.firstElementChild);
});

logs.forEach((log, side) => {
  evaluators.forEach((name, i) => {
    scores.append(make("option", { value: `${side} ${i}` }, logs.length > 1 ? `${name} of ${log}` : name));
  });
});
scores.hidden = scores.length < 2;
filters.append(...[...kinds.keys()].map((kind) => make("button", { type: "button", value: kind })));
document.querySelector("#tools").hidden = pager.hidden = false;
filter();
