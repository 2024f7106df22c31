"""`empathy-kv metrics`: who used which level, how well, how fast."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, Parameter
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from empathy_kv.cli.console import (
    Refused,
    counted,
    document,
    expressible,
    milliseconds,
    printable,
    share,
    show,
    show_json,
    table,
    tell,
)
from empathy_kv.cli.options import HERE, DryRun, Json, Where, Yes, overwriting, present, suited
from empathy_kv.metrics import MetricsCollector
from empathy_kv.records import LEVELS

app: Final = App(name="metrics", help="Who used which level, how well, how fast.")

_DAYS: Final = 14
_STEPS: Final = "▁▂▃▄▅▆▇█"
_PLAIN: Final = ".:-=+*#@"
"""Steps for an encoding that has no others."""
_SPARE: Final = ("MEAN", "LEVEL", "P50", "P99", "COUNT", "LEVELS 1-5", f"LAST {_DAYS} DAYS")
"""What a narrow terminal does not show, the first first."""


@app.command(name="show")
def show_(user_id: str | None = None, /, *, json: Json = False, store: Where = HERE) -> None:
    """Show the figures of a user, or of all users together."""
    with present(store) as open_store:
        stats: Any = (
            open_store.metrics.get_global_stats() if user_id is None else open_store.metrics.get_user_stats(user_id)
        )
    if user_id is not None and not stats["total_operations"]:
        raise Refused(f"nothing was recorded of the user {user_id!r}")
    if json:
        show_json(stats)
    else:
        show(document({name: _readable(name, stats[name]) for name in stats if name != "daily_counts"}), *days(stats))


@app.command
def export(file: Path, /, *, yes: Yes = False, dry_run: DryRun = False, store: Where = HERE) -> None:
    """Write the figures of every user and of all to a file: .json, .jsonl or .csv."""
    suited(file, ".json", ".jsonl", ".csv")
    with present(store) as open_store:
        told = f"the figures of {counted(len(open_store.metrics.get_all_users()), 'user')} to {file}"
        if not overwriting(file, told, yes=yes, dry_run=dry_run):
            return
        open_store.metrics.export_metrics(file)
    tell(f"wrote {told}")


@app.command
def dashboard(
    *,
    top: Annotated[int, Parameter(name=["--top", "-n"], help="So many users, those with the most interactions")] = 20,
    watch: Annotated[
        bool, Parameter(negative="", show_default=False, help="Look again and again, until Ctrl-C")
    ] = False,
    interval: Annotated[float, Parameter(help="Seconds between two looks")] = 2.0,
    json: Json = False,
    store: Where = HERE,
) -> None:
    """Show users side by side: success, levels, response times, days."""
    if top < 1 or not 0.1 <= interval <= 3600:
        raise Refused("--top must be 1 or more, --interval 0.1 to 3600 seconds", 2)
    with present(store) as open_store:
        if json:
            show_json(_figures(open_store.metrics))
            return
        if not watch:
            show(*_dashboard(open_store.metrics, top))
            return
        console = Console(highlight=False, markup=False, emoji=False)
        if not console.is_terminal:
            raise Refused("--watch needs a terminal", 2)
        # Ctrl-C is how one ends it.
        with (
            contextlib.suppress(KeyboardInterrupt),
            Live(console=console, screen=True, auto_refresh=False) as live,
        ):
            while True:
                live.update(Group(*_dashboard(open_store.metrics, top)), refresh=True)
                time.sleep(interval)


def _figures(metrics: MetricsCollector) -> dict[str, Any]:
    users = {user_id: metrics.get_user_stats(user_id) for user_id in metrics.get_all_users()}
    return {"users": users, "global": metrics.get_global_stats()}


def _dashboard(metrics: MetricsCollector, top: int) -> list[RenderableType]:
    figures = _figures(metrics)
    users, everyone = figures["users"], figures["global"]
    most = sorted(users, key=lambda user_id: (-users[user_id]["total_operations"], user_id))[:top]
    rows = [_row(user_id, users[user_id]["total_operations"], users[user_id]) for user_id in most]
    rows.append(_row("all users", everyone["total_interactions"], everyone))
    columns = ("USER", "LEVEL", "COUNT", "SUCCESS", "MEAN", "P50", "P95", "P99", "LEVELS 1-5", f"LAST {_DAYS} DAYS")
    parts: list[RenderableType] = [table(columns, rows, _SPARE)]
    if len(users) > len(most):
        parts.append(Text(f"{len(users) - len(most):,} users more: --top"))
    return parts


def _row(name: str, count: int, stats: Any) -> tuple[object, ...]:
    times = [milliseconds(stats[f"{which}_response_time_ms"]) for which in ("avg", "p50", "p95", "p99")]
    levels = [stats[f"level_{level}_count"] for level in LEVELS]
    return (name, stats.get("current_level"), count, share(stats["success_rate"]), *times, spark(levels), _last(stats))


def _last(stats: Any) -> str:
    today = datetime.now(UTC).date()
    return spark([stats["daily_counts"].get(_day(today, back), 0) for back in reversed(range(_DAYS))])


def _day(today: date, back: int) -> str:
    return (today - timedelta(days=back)).isoformat()


def _readable(name: str, value: Any) -> Any:
    if name == "success_rate":
        return share(value)
    return milliseconds(value) if name.endswith("_ms") else value


def days(stats: Any) -> list[RenderableType]:
    """Return the days on which anything was recorded, each with a bar; nothing if there are none."""
    counts: dict[str, int] = stats["daily_counts"]
    most = max(counts.values(), default=0)
    block = _STEPS[-1] if expressible(_STEPS[-1]) else "#"
    rows = [(day, count, block * max(1, round(count / most * 40))) for day, count in counts.items()]
    return [table(("DAY", "COUNT", ""), rows)] if rows else []


def spark(counts: list[int]) -> str:
    """Return counts as bars beside each other, the highest as high as a line; a blank is none."""
    most = max(counts, default=0)
    steps = _STEPS if expressible(_STEPS) else _PLAIN
    return printable("".join(steps[(count * len(steps) - 1) // most] if count else " " for count in counts))
