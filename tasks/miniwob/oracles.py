"""What is right to do next on pages of miniwob: one JavaScript expression a page, made of the functions of `steps.js`.

An expression looks at the page as it is and gives the actions that are right now, of which the first is taken; so it
holds for every turn of an episode. Steps joined by || come in order, those of `anyOrder` in any. It may look at what a
policy cannot see: the point is to know what is right, for demonstrations and for labels.
"""

from __future__ import annotations

from pe_rlhf_mm.envs.actions import Kind

KINDS: tuple[Kind, ...] = ("click", "double_click", "drag", "scroll", "type", "key", "wait")
"""What can be done to a page."""

CLICKING: dict[str, str] = {
    "ascending-numbers": """click(one("svg text", "1") || one("svg rect"))""",
    "bisect-angle": """submitted("#blue-circle") ||
        clickSvg(bisecting(...middles("black"), middles("blue")[0]))""",
    "choose-date": """chooseDate(/Select (.*) as/.exec(goal)[1]) || submit()""",
    "circle-center": """submitted("#blue-circle") || clickSvg(middles("black")[0])""",
    "click-button": """click(...all("#area button", quoted[0]))""",
    "click-button-sequence": """click(one(buttonsPushed.length ? "#subbtn2" : "#subbtn"))""",
    "click-checkboxes": """tickAll(listed(/Select (.*) and click/)) || submit()""",
    "click-checkboxes-soft": """tickAll(listed(/similar to (.*) and click/)
        .flatMap((word) => SYNONYMS.filter((alike) => alike.includes(word))).flat()) || submit()""",
    "click-collapsible": """click(one('#area h3[aria-expanded="false"]') || one("#subbtn"))""",
    "click-collapsible-2": """click(...unfolded(all(".alink", quoted[0]),
        (link) => link.closest(".ui-accordion-content").previousElementSibling))""",
    "click-color": """click(one(`#area [data-color="${/the (.*) colored/.exec(goal)[1]}"]`))""",
    "click-dialog": """click(one(".ui-dialog-titlebar-close"))""",
    "click-dialog-2": """click(
        quoted[0] === "x" ? one(".ui-dialog-titlebar-close") : one(".ui-dialog-buttonset button", quoted[0]))""",
    "click-link": """click(...all(".alink", quoted[0]))""",
    "click-option": """tick(one("#area label", /Select (.*) and/.exec(goal)[1]).querySelector("input")) || submit()""",
    "click-pie": """click(one("#divWheel text", "+") || one("#divWheel text", quoted[0]))""",
    "click-shades": """anyOrder(all(`#area [data-color="${/shades of (.*) and/.exec(goal)[1]}"]:not(.selected)`)
        .map((shade) => click(shade))) || submit("#submit")""",
    "click-shape": """click(...shapesLike(/on an? (.*)/.exec(goal)[1]))""",
    "click-tab": """click(one(`#area a[href="#tabs-${/#(.)/.exec(goal)[1]}"]`))""",
    "click-tab-2": """click(...unfolded(all(".alink", quoted[0]),
        (link) => one(`#area a[href="#${link.closest("[id^=tabs]").id}"]`)))""",
    "click-tab-2-medium": """((links) => click(
        ...(links.length ? links : [one('a[href="#tabs-2"]')])))(all(".alink", quoted[0]))""",
    "click-test": """click(one("#subbtn"))""",
    "click-test-2": """click(one("#area button", /button (.*)\\./.exec(goal)[1]))""",
    "click-widget": """click(...all(`#area [data-type="${quoted[0]}"]`))""",
    "count-shape": """click(one("#count-buttons button", shapesLike(/many (.*)s are/.exec(goal)[1]).length))""",
    "email-inbox-delete": """click(mailBy(/by (.*) and click/.exec(goal)[1]).querySelector(".trash"))""",
    "email-inbox-important": """click(mailBy(/by (.*) and click/.exec(goal)[1]).querySelector(".star"))""",
    "find-greatest": """((card) => card.matches(".hidden") ? click(card) : submit("#submit"))(
        greatest(all(".card"), (card) => Number(card.textContent)))""",
    "find-midpoint": """submitted("#blue-circle") || clickSvg(halfway(...middles("black")))""",
    "focus-text": """click(one("#tt"))""",
    "focus-text-2": """click(one("#tt" + /the (.)/.exec(goal)[1]))""",
    "generate-number": """click(one(generated(one("#display-number").textContent) ? "#submit" : "#generate"))""",
    "grid-coordinate": """click(document.getElementById(/coordinate (.*)\\./.exec(goal)[1]))""",
    "identify-shape": """click(one(`[data-type="${kindOf(one("#area_svg > *"))}"]`))""",
    "navigate-tree": """click(...unfolded(all("#tree span", quoted[0]),
        (file) => [...file.parentElement.parentElement.closest("li").children].filter((e) => e.tagName !== "UL")))""",
    "number-checkboxes": """anyOrder(PATTERNS[quoted[0]].flat().map(
        (wanted, place) => tick(all("#checkboxes input")[place], wanted === 1))) || submit()""",
    "odd-or-even": """anyOrder(all(".row").map((row) => row.querySelector(
        Number(row.querySelector(".display-number").textContent) % 2 ? ".odd" : ".even"))
        .map((button) => button.matches(".selected") ? null : click(button))) || submit("#submit")""",
    "phone-book": """(([, name, what]) => click(
        one(one("#contact .name").textContent === name ? "#contact ." + what : "#pagination .next a")))(
        /Find (.*) in the contact book and click on their (\\w+)/.exec(goal))""",
    "right-angle": """submitted("#blue-circle") || clickSvg(square(middles("black")[0], middles("blue")[0]))""",
    "use-spinner": """((left) => click(one(left > 0 ? ".ui-spinner-up" : left < 0 ? ".ui-spinner-down" : "#subbtn")))(
        /Select (.*) with/.exec(goal)[1] - one("#spinner").value)""",
}
"""Pages that are solved by clicks alone."""

TYPING: dict[str, str] = {
    "copy-paste": """fill(one("#answer-input"), one("#to-copy").value) || submit()""",
    "copy-paste-2": """fill(one("#answer-input"), one("#text-" + /the (\\d)/.exec(goal)[1]).value) || submit()""",
    "enter-date": """fill(one("#tt"), /Enter (.*) as/.exec(goal)[1].replace(/(..).(..).(....)/, "$3-$1-$2"),
        /Enter (.*) as/.exec(goal)[1].replaceAll("/", "")) || submit()""",
    "enter-password": """anyOrder([fill(one("#password"), quoted[0]), fill(one("#verify"), quoted[0])]) || submit()""",
    "enter-time": """(([, hour, minute, half]) => fill(one("#tt"),
        `${hour % 12 + (half === "PM" ? 12 : 0)}:${minute}`.padStart(5, "0"), hour.padStart(2, "0") + minute + half))(
        /Enter (\\d+):(\\d+) (\\w+) as/.exec(goal)) || submit()""",
    "enter-text": """fill(one("#tt"), quoted[0]) || submit()""",
    "enter-text-2": """fill(one("#tt"),
        /upper/.test(goal) ? quoted[0].toUpperCase() : quoted[0].toLowerCase()) || submit()""",
    "find-word": """fill(one("#answer-input"), one("#area p").textContent.trim().split(" ")
        [parseInt(/the (\\d+)/.exec(goal)[1]) - 1].replace(/[^a-zA-Z]/g, "")) || submit()""",
    "form-sequence-2": """((radio, field) => anyOrder([
        tick(one(`input[type="radio"][value="${radio}"]`)), fill(one("#input-" + field), quoted[0])]))(
        ...[...goal.matchAll(/the (\\d)/g)].map((match) => match[1])) || submit()""",
    "login-user": """(one("#popup-cancel") && click(one("#popup-cancel")))
        || anyOrder([fill(one("#username"), quoted[0]), fill(one("#password"), quoted[1])]) || submit()""",
    "multi-layouts": """anyOrder([["Genre", "for"], ["Director", "by"], ["Year|Released", "year"]].map(
        ([label, word]) => fill(fieldOf(label), new RegExp(word + " (\\\\S+?)( |\\\\.$)").exec(goal)[1])))
        || submit("#area button, #area .final, #area .ui-submit")""",
    "read-table": """fill(one("#tt"), cellAfter(/value of (.*) into/.exec(goal)[1])) || submit()""",
    "read-table-2": """anyOrder(["1", "2"].map((place) =>
        fill(one("#tt" + place), cellAfter(one("#ll" + place).dataset.key)))) || submit()""",
    "scroll-text": """fill(one("#answer-input"),
        one("#text-area").value.split(/\\s/).at(-1).replace(".", "")) || submit()""",
    "search-engine": """(one("#page-content a") ? null : fill(one("#search-text"), quoted[0]) || submit("#search"))
        || ((place) => ((page) => click(one("#pagination .active").textContent === String(page)
            ? all("#page-content a")[(place - 1) % 3] : one("#pagination a", page)))(Math.ceil(place / 3)))(
        parseInt(/the (\\d+)/.exec(goal)[1]))""",
    "simple-algebra": """fill(one("#math-answer"), unknown(one("#math-problem").textContent)) || submit()""",
    "simple-arithmetic": """fill(one("#math-answer"), unknown(one("#math-problem").textContent + "x")) || submit()""",
    "text-transform": """fill(one("#tt"), one("#captcha").textContent) || submit()""",
    "use-autocomplete": """((country) => fill(one("#tags"), country)
        || anyOrder([click(...all(".ui-menu-item", country).filter(seen))]) || submit())(ui_utils.COUNTRIES.find(
        (country) => country.startsWith(quoted[0]) && country.endsWith(quoted[1] || "")))""",
    "visual-addition": """fill(one("#math-answer"), all(".addition-block").length) || submit()""",
}
"""Pages on which something is typed."""

SAME = {
    "choose-date-easy": "choose-date",
    "choose-date-medium": "choose-date",
    "choose-date-nodelay": "choose-date",
    "click-checkboxes-large": "click-checkboxes",
    "click-checkboxes-transfer": "click-checkboxes",
    "click-collapsible-2-nodelay": "click-collapsible-2",
    "click-collapsible-nodelay": "click-collapsible",
    "click-pie-nodelay": "click-pie",
    "click-tab-2-easy": "click-tab-2",
    "click-tab-2-hard": "click-tab-2",
    "click-test-transfer": "click-test-2",
    "enter-text-dynamic": "enter-text",
    "login-user-popup": "login-user",
    "multi-orderings": "multi-layouts",
    "unicode-test": "click-button",
    "use-autocomplete-nodelay": "use-autocomplete",
}
"""Pages that are solved as another one is."""


def oracle_of(page: str) -> str | None:
    """The expression of a page; None where nobody knows what is right."""
    return {**CLICKING, **TYPING}.get(SAME.get(page, page))


def kinds_of(page: str) -> tuple[Kind, ...]:
    """The kinds of actions that a page asks for, as far as that is known; otherwise all that there are on a page."""
    page = SAME.get(page, page)
    return ("click",) if page in CLICKING else ("click", "type", "key") if page in TYPING else KINDS
