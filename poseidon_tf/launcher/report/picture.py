"""A step as a picture: SVG, for a page of HTML."""

from __future__ import annotations

from html import escape

from poseidon_tf.launcher.report.steps import Step, WorkerStep

_WIDTH, _LABELS = 1000, 250  # Pixels: of all, and of the names at the left.
_BAR, _ROW, _GAP, _AXIS = 18, 12, 16, 24
_MOST_ROWS = 30
_COLOURS = {"forward": "#9db4c0", "backward": "#3b7dd8", "waiting": "#f0a202"}
_SCHEME_COLOURS = {"ps": "#5b8c5a", "sfb": "#8e5aa8", "rows": "#c44e52"}
LEGEND = {**_COLOURS, **_SCHEME_COLOURS}


def picture(step: Step, schemes: dict[str, str]) -> str:
    """The step: for each worker a bar of what it did, and below it a line for each exchange.

    A line begins when the gradient was ready and ends when the sum was there; the part until it
    was sent is pale, and a notch marks when its sum had left the servers.
    """
    begin_us = min(worker.forward_us for worker in step.workers)
    scale = (_WIDTH - _LABELS) / max(step.lasted_us, 1.0)
    parts: list[str] = []
    y = 0
    for worker in step.workers:
        drawn = _Drawn(parts, begin_us, scale)
        y = drawn.worker(worker, step, schemes, y) + _GAP
    parts += _axis(step.lasted_us, scale, y)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {y + _AXIS}" role="img" '
        f'aria-label="step {step.number} of all workers">{"".join(parts)}</svg>'
    )


class _Drawn:
    def __init__(self, parts: list[str], begin_us: float, scale: float) -> None:
        self._parts, self._begin_us, self._scale = parts, begin_us, scale

    def worker(self, worker: WorkerStep, step: Step, schemes: dict[str, str], y: int) -> int:
        self._text(f"worker rank {worker.rank}", y + 13, is_bold=True)
        spans = (
            ("forward", worker.forward_us, worker.backward_us),
            ("backward", worker.backward_us, worker.ready_us),
            ("waiting", worker.ready_us, worker.end_us),
        )
        for name, from_us, to_us in spans:
            words = f"worker rank {worker.rank}: {name}, {milliseconds(to_us - from_us)}"
            self._bar(from_us, to_us, y, _BAR, _COLOURS[name], words)
        y += _BAR + 4
        shown = worker.exchanges
        if len(shown) > _MOST_ROWS:  # The longest, in their order.
            longest = sorted(shown, key=lambda each: each.ready_us - each.received_us)
            shown = tuple(each for each in shown if each in longest[:_MOST_ROWS])
        for exchange in shown:
            scheme = schemes.get(exchange.unit, "ps")
            colour = _SCHEME_COLOURS.get(scheme, "#777")
            words = (
                f"{exchange.unit} ({scheme}): "
                f"{milliseconds(exchange.received_us - exchange.ready_us)}"
            )
            self._text(_shortened(exchange.unit), y + 9)
            sent_us = min(max(exchange.sent_us, exchange.ready_us), exchange.received_us)
            self._bar(exchange.ready_us, sent_us, y + 1, _ROW - 4, colour, words, opacity=0.35)
            self._bar(sent_us, exchange.received_us, y + 1, _ROW - 4, colour, words)
            released_us = step.released_us.get(exchange.unit)
            if released_us is not None and sent_us <= released_us <= exchange.received_us:
                x = self._x(released_us)
                self._parts.append(
                    f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + _ROW - 2}" class="notch"/>'
                )
            y += _ROW
        if hidden := len(worker.exchanges) - len(shown):
            self._text(f"and {hidden} shorter ones", y + 9)
            y += _ROW
        return y

    def _x(self, at_us: float) -> float:
        return _LABELS + (at_us - self._begin_us) * self._scale

    def _bar(
        self,
        from_us: float,
        to_us: float,
        y: int,
        height: int,
        colour: str,
        words: str,
        opacity: float = 1.0,
    ) -> None:
        width = max((to_us - from_us) * self._scale, 0.5)
        self._parts.append(
            f'<rect x="{self._x(from_us):.1f}" y="{y}" width="{width:.1f}" height="{height}" '
            f'fill="{colour}" fill-opacity="{opacity}"><title>{escape(words)}</title></rect>'
        )

    def _text(self, words: str, y: int, *, is_bold: bool = False) -> None:
        kind = "name bold" if is_bold else "name"
        self._parts.append(f'<text x="0" y="{y}" class="{kind}">{escape(words)}</text>')


def _axis(lasted_us: float, scale: float, y: int) -> list[str]:
    tick_us = _round_below(lasted_us / 5)
    parts = []
    at_us = 0.0
    while at_us <= lasted_us:
        x = _LABELS + at_us * scale
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{y}" class="tick"/>')
        anchor = "end" if x > _WIDTH - 40 else "middle"
        parts.append(
            f'<text x="{x:.1f}" y="{y + 14}" class="axis" text-anchor="{anchor}">'
            f"{milliseconds(at_us)}</text>"
        )
        at_us += tick_us
    return parts


def _round_below(value: float) -> float:
    power = 10.0 ** (len(str(int(max(value, 1.0)))) - 1)
    return next(step * power for step in (5.0, 2.0, 1.0) if step * power <= max(value, 1.0))


def _shortened(unit: str) -> str:
    return unit if len(unit) <= 40 else f"...{unit[-37:]}"


def milliseconds(microseconds: float) -> str:
    """As people read it."""
    return f"{microseconds / 1000:.3g} ms"
