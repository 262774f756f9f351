// What the expressions of oracles.py are made of. A step is null when it is done; otherwise it is the list of the
// actions that are right now.

const utterance = core.getUtterance();
const goal = typeof utterance === "string" ? utterance : utterance.utterance;
const quoted = [...goal.matchAll(/"([^"]*)"/g)].map((match) => match[1]);

// --- what is there ----------------------------------------------------------------------------------------------

/** The elements of a selector, or those whose text is the one given. */
function all(selector, text) {
  const found = [...document.querySelectorAll(selector)];
  return text === undefined ? found : found.filter((e) => e.textContent.trim() === String(text));
}

function one(selector, text) {
  return all(selector, text)[0];
}

function seen(element) {
  return element.getClientRects().length > 0;
}

/** Of some elements those that are seen; if there is none, what is to be clicked to see them. */
function unfolded(elements, cover) {
  return elements.some(seen) ? elements.filter(seen) : elements.flatMap(cover);
}

/** The words that a goal lists with commas, where the pattern has its group. */
function listed(pattern) {
  return pattern.exec(goal)[1].split(", ");
}

function greatest(elements, value) {
  return elements.reduce((best, e) => (value(e) > value(best) ? e : best));
}

// --- what is to be done -----------------------------------------------------------------------------------------

/** To click one of some elements, whichever. */
function click(...elements) {
  return elements.filter(Boolean).map((element) => ({ kind: "click", element }));
}

/** To click a point of an element, where it matters which. */
function clickAt(element, x, y) {
  return [{ kind: "click", element, points: [[x / WIDTH, y / HEIGHT]] }];
}

function clickSvg([x, y]) {
  return clickAt(one("svg"), x, y);
}

function submit(button = "#subbtn") {
  return click(one(button));
}

/** To submit, once there is an answer. */
function submitted(answer) {
  return one(answer) ? submit() : null;
}

/** To write into a field: click it, then type, or press a key where text ends with a space, which dialects trim.
 * `typed`: the keys of a field for dates or times, whose parts take the keys from where it was clicked. */
function fill(field, text, typed) {
  const wanted = String(text), trimmed = wanted.trimEnd();
  if (field.value === wanted) return null;
  const box = field.getBoundingClientRect();
  if (document.activeElement !== field)
    return typed ? clickAt(field, box.left + 10, box.top + box.height / 2) : click(field);
  if (trimmed && field.value === trimmed) return [{ kind: "key", text: "Space" }];
  return [{ kind: "type", text: typed || trimmed }];
}

/** To set a box or a radio button. */
function tick(box, wanted = true) {
  return box.checked === wanted ? null : click(box);
}

/** To tick those boxes whose label is one of some words, and no other. */
function tickAll(words) {
  return anyOrder(all("#area label").map((e) => tick(e.querySelector("input"), words.includes(e.textContent))));
}

/** Several steps of which any may come next. */
function anyOrder(steps) {
  const open = steps.filter(Boolean).flat();
  return open.length ? open : null;
}

// --- what single pages ask --------------------------------------------------------------------------------------

/** The middles of the circles of a colour. */
function middles(color) {
  return all(`circle[fill="${color}"], circle[stroke="${color}"]`).map((e) => {
    const box = e.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  });
}

function halfway([a, b], [c, d]) {
  return [(a + c) / 2, (b + d) / 2];
}

/** Where the bisector of the angle at `vertex` meets the line from a to b: it divides it as the sides are long. */
function bisecting(a, b, vertex) {
  const length = (p) => Math.hypot(p[0] - vertex[0], p[1] - vertex[1]);
  const share = length(a) / (length(a) + length(b));
  return [a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])];
}

/** A point of the drawing that `vertex` sees at a right angle to a. */
function square(a, vertex) {
  const dx = a[0] - vertex[0], dy = a[1] - vertex[1], length = Math.hypot(dx, dy);
  return [30, -30, 15, -15].map((far) => [vertex[0] - (dy / length) * far, vertex[1] + (dx / length) * far])
    .find(([x, y]) => one("svg").contains(topAt(x, y)));
}

function kindOf(shape) {
  const kinds = { rect: "rectangle", circle: "circle", polygon: "triangle" };
  return kinds[shape.tagName] || (/[0-9]/.test(shape.textContent) ? "digit" : "letter");
}

/** The drawn shapes that fit a description such as "large red item". */
function shapesLike(description) {
  const words = description.split(" "), what = words.pop();
  return all("#area_svg > *").filter((e) => {
    const text = e.tagName === "text", kind = kindOf(e);
    const large = text ? e.getAttribute("font-size") === "20px" : e.getBBox().width > 15;
    const names = text ? ["item", kind, e.textContent] : ["item", "shape", kind];
    const said = [large ? "large" : "small", e.getAttribute("fill")];
    return names.includes(what) && words.every((word) => said.includes(word));
  });
}

function chooseDate(date) {
  const field = one("#datepicker"), [month, day, year] = date.split("/").map(Number);
  if (field.value === date) return null;
  if (!seen(one("#ui-datepicker-div"))) return click(field);
  const there = new Date(`${one(".ui-datepicker-month").textContent} 1 ${one(".ui-datepicker-year").textContent}`);
  const ahead = (year - there.getFullYear()) * 12 + month - 1 - there.getMonth();
  if (ahead === 0) return click(one("#ui-datepicker-div td a", day));
  return click(one(ahead > 0 ? ".ui-datepicker-next" : ".ui-datepicker-prev"));
}

function mailBy(sender) {
  return all("#main .email-thread").find((e) => e.querySelector(".email-sender").textContent === sender);
}

/** Whether a number is what the goal asks to be generated. */
function generated(number) {
  const [, word, than] = /(less|greater|odd|even)(?: than (\d+))?/.exec(goal);
  if (number === "-") return false;
  return { less: number < +than, greater: number > +than, odd: number % 2 === 1, even: number % 2 === 0 }[word];
}

/** The text field of the row whose label matches. */
function fieldOf(label) {
  const row = (field) => field.closest("p, tr, .row, .field, .ui-entry");
  return all("#area input").find((field) => new RegExp(label).test(row(field).textContent));
}

function cellAfter(name) {
  return one("#tab td", name).nextSibling.textContent;
}

/** The x of an equation such as "3 - x = 5" or "3 x 5 = x". */
function unknown(equation) {
  const [left, sign, right, , total] = equation.trim().split(" ");
  const value = (word, x) => (word === "x" ? x : Number(word));
  const sum = (a, b) => ({ "+": a + b, "-": a - b, x: a * b })[sign];
  const numbers = Array.from({ length: 401 }, (_, place) => place - 200);
  return numbers.find((x) => sum(value(left, x), value(right, x)) === value(total, x));
}
