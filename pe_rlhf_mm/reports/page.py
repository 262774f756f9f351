"""`report.html` and `report.md`: one static page about one run, and its numbers in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pe_rlhf_mm.registry import title
from pe_rlhf_mm.reports import markdown
from pe_rlhf_mm.reports.calibration import draw_calibration
from pe_rlhf_mm.reports.curves import FRAME, draw_curves
from pe_rlhf_mm.reports.figures import run_figures
from pe_rlhf_mm.reports.folder import RunRecord, read_run
from pe_rlhf_mm.reports.gallery import choose_samples
from pe_rlhf_mm.reports.methods import method_of, reward_of
from pe_rlhf_mm.reports.records import Record, at, number, text
from pe_rlhf_mm.reports.rendering import INTACT, render, write_all
from pe_rlhf_mm.reports.rewards import reward_tables
from pe_rlhf_mm.reports.stages import headline, stage_rows
from pe_rlhf_mm.reports.wording import DASH, duration, percent


def write_report(folder: Path, *, figures: bool = False) -> list[Path]:
    """Writes `report.html` and `report.md` into a run folder, finished or not; with `figures`, `figures/*.png` too.

    Returns their paths. Nothing is written until all is made, so that the files before stay until then. Raises
    UserError if the folder is no run folder, its config.json or summary.json holds no JSON object, or cannot be
    written, or figures are asked for without matplotlib.
    """
    folder = Path(folder)
    run = read_run(folder)
    contents: dict[Path, str | bytes] = {folder / "report.html": _page(run), folder / "report.md": _markdown(run)}
    if figures:
        contents |= {folder / name: png for name, png in run_figures(run).items()}
    return write_all(contents, folder, INTACT)


def _page(run: RunRecord) -> str:
    method = method_of(run.config)
    gallery = choose_samples(run.folder, run.samples, method)
    values = {
        **_heading(run),
        "screens": Markup(gallery.style),
        "tuned_by": method.name,
        "finished": run.finished,
        "headline": headline(run),
        "warnings": run.warnings,
        "facts": _facts(run),
        "rows": stage_rows(run),
        "tables": reward_tables(run.summary),
        "calibration": draw_calibration(run.summary),
        "curves": draw_curves(run.metrics),
        "frame": FRAME,
        "gallery": gallery,
        "unreadable": {name: n for name, n in run.unreadable.items() if n},
        "details": _details(run.config),
    }
    return render("page.html.jinja", values, styles=("page.css",), script="page.js")


def _markdown(run: RunRecord) -> str:
    heading = _heading(run)
    parts = [f"# Tuning: {markdown.plain(heading['task'])}", markdown.plain(headline(run))]
    if run.warnings:
        parts.append(markdown.table(["warning"], [[warning] for warning in run.warnings]))
    rows = [[r.label, r.value, r.n, r.interval, r.steps, r.time, r.measure, r.extra] for r in stage_rows(run)]
    parts.append(markdown.table(["stage", "accuracy", "n", "95 % interval", "steps", "time", "of", ""], rows))
    parts.append(markdown.table(["", ""], [*{**heading, **_facts(run)}.items()]))
    return "\n\n".join(parts) + "\n"


def _heading(run: RunRecord) -> dict[str, str]:
    return {
        "task": title(text(run.config, "task")),
        "model": text(run.config, "model") or DASH,
        "mode": text(run.summary, "mode") or text(run.config, "settings", "mode") or DASH,
    }


def _facts(run: RunRecord) -> dict[str, str]:
    memory, reward = number(run.summary, "peak_rss_gib"), reward_of(run.config)
    return {
        **({"Reward of RL": title(reward)} if method_of(run.config).stage == "rl" and reward != "learned" else {}),
        "Seed": text(run.summary, "seed") or text(run.config, "settings", "seed") or DASH,
        f"Weights trained by {method_of(run.config).name}": percent(number(run.summary, "trainable_fraction")),
        "Total time": duration(number(run.summary, "seconds")),
        "Peak memory": DASH if memory is None else f"{memory:.2f} GiB",
    }


def _details(config: Record) -> dict[str, dict[str, str]]:
    """Tables by title: the settings, each section of them apart, then the versions and the machine."""
    settings = at(config, "settings")
    general = {"task": at(config, "task"), "model": at(config, "model"), "status": at(config, "status")}
    if at(config, "start_from") is not None:
        general["started from"] = at(config, "start_from", "run")
    tables: dict[str, dict[str, str]] = {"General": _written(general)}
    for name, value in (settings if isinstance(settings, Mapping) else {}).items():
        if isinstance(value, Mapping):
            tables[f"Settings: {name}"] = _written(_flat(value))
        else:
            tables["General"] |= _written({name: value})
    versions = at(config, "versions")
    tables["Versions"] = _written(versions if isinstance(versions, Mapping) else {})
    tables["Hardware"] = _written({"machine": at(config, "hardware")})
    return {title: table for title, table in tables.items() if table}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _written(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: _setting(value) or DASH for name, value in values.items()}


def _setting(value: object) -> str:
    joined = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return text({"value": joined}, "value")
