// Where a page of miniwob can be clicked, and what an oracle says about it as it is. Points are fractions of the task.

const WIDTH = 160, HEIGHT = 210;  // pixels of the page that are the task, and that the screenshot shows
const AROUND = [[0, 0], [-1, -1.1], [-1, 1.1], [1, -1.1], [1, 1.1]];  // as far as a dialect of whole percents rounds
const CONTROLS = "a, button, input, select, textarea, label, option";
const GROUND = "html, body, #wrap, #query, #area, svg";  // what lies under all elements

function topAt(x, y) {
  return x >= 0 && x < WIDTH && y >= 0 && y < HEIGHT ? document.elementFromPoint(x, y) : null;
}

/** Whether `test` holds for what lies at a point, and wherever a dialect may round it to. */
function safely(x, y, test) {
  return AROUND.every(([dx, dy]) => {
    const top = topAt(x + dx, y + dy);
    return top !== null && test(top);
  });
}

/** Points that hit an element, from the middle of what is seen of it outwards; none if it is not seen. Points that are
 * not safe are given only where the element is too small for others. */
function pointsOf(element, across = 7) {
  const found = [], inside = (top) => element.contains(top);
  for (const box of element.getClientRects())
    for (let i = 0; i < across; i++)
      for (let j = 0; j < across; j++) {
        const x = box.left + (box.width * (i + 0.5)) / across, y = box.top + (box.height * (j + 0.5)) / across;
        const top = topAt(x, y);
        if (top !== null && inside(top)) found.push({ x, y, safe: safely(x, y, inside) });
      }
  const safe = found.filter((p) => p.safe), kept = safe.length ? safe : found;
  const mean = (of) => kept.reduce((sum, p) => sum + of(p), 0) / kept.length;
  const x = mean((p) => p.x), y = mean((p) => p.y);
  const distance = (p) => (p.x - x) ** 2 + (p.y - y) ** 2;
  return kept.sort((p, q) => distance(p) - distance(q)).map((p) => [p.x / WIDTH, p.y / HEIGHT]);
}

function clickable(element) {
  const handlers = window.jQuery && jQuery._data(element, "events");
  return (
    element.matches(CONTROLS) || Boolean(element.__onclick || (handlers && handlers.click)) ||
    getComputedStyle(element).cursor === "pointer"
  );
}

/** Whether a click on `other` may do what one on `element` does. */
function related(other, element) {
  return element.contains(other) || (other.contains(element) && !other.matches(GROUND)) || other.control === element;
}

/** What one could click instead of the right elements: points of each other element, and points of bare ground. */
function elsewhere(right) {
  const apart = (other) => !right.some((element) => related(other, element));
  const others = [...document.querySelectorAll("body *")].filter((e) => !e.matches(GROUND) && clickable(e) && apart(e));
  const bare = (top) => apart(top) && !others.some((e) => e.contains(top));
  const ground = [];
  for (let x = 8; x < WIDTH; x += 16)
    for (let y = 7; y < HEIGHT; y += 14) if (safely(x, y, bare)) ground.push([x / WIDTH, y / HEIGHT]);
  return { others: others.map((e) => pointsOf(e, 3)).filter((points) => points.length), ground };
}

/** What is right now, with points and boxes (left, top, right, bottom) of it, and what is wrong. */
function look(actions) {
  const points = (element) => (element ? pointsOf(element) : []);
  const right = (actions || []).map((action) => ({ points: points(action.element), ...action }));
  const elements = right.map((action) => action.element).filter(Boolean);
  const boxes = elements.flatMap((e) => [...e.getClientRects()])
    .map((b) => [b.left / WIDTH, b.top / HEIGHT, b.right / WIDTH, b.bottom / HEIGHT]);
  return { right: right.map(({ element, ...action }) => action), boxes, ...elsewhere(elements) };
}
