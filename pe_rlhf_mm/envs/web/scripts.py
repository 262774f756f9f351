"""What runs inside a page: a clock of its own, a clipboard of its own, steady pictures, and MiniWoB's protocol.

An episode is a function of its seed and its actions and of nothing else. The hour, the speed of the machine and the
other pages of the browser therefore play no part: time stands still but for one second after each action.
"""

STEP = 1000
"""Milliseconds of the page's time that pass after each action: delayed menus and suggestions are there to be seen."""

CLOCK = """(() => {
  const born = Date.UTC(2020, 0, 1, 12), Native = Date, due = new Map();
  let now = 0, last = 0;
  const plan = (call, wait, every, rest) => { due.set(++last, {at: now + wait, call, every, rest}); return last; };
  const whole = ms => Math.max(1, Math.floor(Number(ms) || 0));
  window.setTimeout = (call, ms, ...rest) => plan(call, whole(ms), 0, rest);
  window.setInterval = (call, ms, ...rest) => plan(call, whole(ms), whole(ms), rest);
  window.requestAnimationFrame = call => plan(() => call(now), 16, 0, []);
  window.requestIdleCallback = call => plan(() => call({didTimeout: false, timeRemaining: () => 10}), 1, 0, []);
  window.clearTimeout = window.clearInterval = window.cancelAnimationFrame = window.cancelIdleCallback =
    id => { due.delete(id); };
  performance.now = () => now;
  window.Date = new Proxy(Native, {
    construct: (target, given, self) => Reflect.construct(target, given.length ? given : [born + now], self),
    apply: () => new Date().toString(),
    get: (target, name) => name === 'now' ? () => born + now : Reflect.get(target, name)});
  Native.prototype.constructor = window.Date;
  const first = end => [...due].filter(([, t]) => t.at <= end).reduce((a, b) => a && a[1].at <= b[1].at ? a : b, null);
  window.pageClock = {
    restart: () => { now = 0; due.clear(); },
    advance: ms => {
      const end = now + ms;
      for (let next = first(end); next; next = first(end)) {
        const [id, timer] = next;
        now = timer.at;
        if (timer.every) timer.at += timer.every; else due.delete(id);
        try { typeof timer.call === 'function' ? timer.call.apply(window, timer.rest) : (0, eval)(timer.call); }
        catch (error) { reportError(error); }
      }
      now = end;
    }};
})()"""
"""Timers, frames and dates that move only when they are told to, from noon of 1 January 2020."""

CLIPBOARD = """(() => {
  let kept = '';
  const chosen = box => box && box.selectionStart !== undefined && box.selectionStart !== null
    ? box.value.slice(box.selectionStart, box.selectionEnd) : String(getSelection());
  const taken = remove => event => {
    kept = chosen(document.activeElement) || kept;
    event.preventDefault();
    if (remove) document.execCommand('delete');
  };
  addEventListener('copy', taken(false), true);
  addEventListener('cut', taken(true), true);
  addEventListener('paste', event => {
    event.preventDefault();
    document.execCommand('insertText', false, kept);
  }, true);
})()"""
"""The browser has one clipboard for all its pages: with this, what one episode copies is not pasted in another."""

STEADY = """document.addEventListener('DOMContentLoaded', () => {
  const style = document.createElement('style');
  style.textContent = '* { caret-animation: manual; transition: none !important; animation: none !important }';
  document.head.append(style);
})"""
"""No blinking caret and no motion by style sheet: a picture does not depend on when it is taken."""

DRAWN = """(() => {
  const known = new Map();
  const load = source => { const image = new Image(); image.src = source; known.set(source, image); return image; };
  const styled = element => {
    const style = getComputedStyle(element);
    return [...(style.backgroundImage + style.content).matchAll(/url\\("([^"]+)"\\)/g)].map(found => found[1]);
  };
  window.pageDrawn = async () => {
    const fresh = [...document.querySelectorAll('body *')].flatMap(styled).filter(source => !known.has(source));
    await Promise.allSettled([...fresh.map(load), ...document.images].map(image => image.decode()));
  };
})()"""
"""Waits for the pictures of a page, those of its style sheets too, that an action has made visible."""

LOADED = "Boolean(window.core && core.cover_div)"

BEGIN = """([seed, mode, loaded]) => {
  if (!loaded) {
    const top = document.createElement('a');
    top.tabIndex = -1;
    document.body.prepend(top);
    top.focus({preventScroll: true});  // where the Tab key goes on from
    top.remove();
    pageClock.restart();
  }
  core.EPISODE_MAX_TIME = 2e9;  // below 2^31, or the time limit is at once
  if (core.setDataMode) core.setDataMode(mode);
  Math.seedrandom(String(seed));
  core.startEpisodeReal();
  core.clearTimer();  // the countdown; the time limit must stay, for without it no reward is given
  core.cover_div.onclick = null;  // it would start another episode
}"""

READY = "WOB_TASK_READY"
GOAL = "(goal => typeof goal === 'string' ? goal : goal.utterance)(core.getUtterance())"
STATE = f"""(async () => {{
  pageClock.advance({STEP});
  if (!WOB_DONE_GLOBAL) await pageDrawn();
  return [WOB_DONE_GLOBAL, Number(WOB_RAW_REWARD_GLOBAL)];
}})()"""
"""Lets a step's time pass; whether the episode is done, and its raw reward."""
