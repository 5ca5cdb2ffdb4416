"""Reads from the imports which rooms there are and which of them know which, and draws them: docs/figures/rooms.svg.

A room is a package, or a module that lies directly on a floor. Any import counts, also one inside a function.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from html import escape

from docs.house import FLOORS, Source, sources

Arrows = Mapping[str, set[str]]  # room -> the rooms it imports

BOX, GAP, BAND = (150, 34), (16, 28), 34  # width and height of a box, gaps between boxes, the head of a floor
WIDTH = 1040
COLOURS = {"recall": "#f3e3c3", "service": "#d5e6f2", "index": "#dcebd3", "model": "#eadcee"}


def module_name(file: Source) -> str:
    """The dotted name; that of a package for its __init__."""
    return file.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(tree: ast.AST) -> Iterator[str]:
    """Every name that any import statement asks for, also inside functions: a.b and a.b.c of both forms."""
    return (name for node in ast.walk(tree) for name in asked_of(node))


def asked_of(node: ast.AST) -> Iterator[str]:
    """The names that a node asks for, where it is an import statement."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        if node.level:
            raise ValueError(f"line {node.lineno}: imports are absolute")
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reached(start: str, files: Sequence[Source], lazily: bool) -> set[str]:
    """All that importing `start` imports, through however many modules: our modules, and names of other libraries.

    lazily: also what functions import once they are called. What only a type checker imports never counts.
    """
    modules = {module_name(file): file for file in files}
    left, names = [start], set[str]()
    while left:
        name = left.pop()
        if name in names:
            continue
        names.add(name)
        # importing a.b.c runs the __init__ of a and of a.b
        left += [name[:place] for place, sign in enumerate(name) if sign == "."]
        if name in modules:
            left += [asked for node in running(modules[name].tree, lazily) for asked in asked_of(node)]
    return names


def running(node: ast.AST, lazily: bool) -> Iterator[ast.AST]:
    """The nodes of a module that run when it is imported; lazily: also those that run when a function is called."""
    yield node
    for child in ast.iter_child_nodes(node):
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        is_for_checkers = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not is_for_checkers and (lazily or not is_function):
            yield from running(child, lazily)


def room_of(module: str, packages: set[str]) -> str:
    """The package that a module lies in; a module of a floor is a room of its own."""
    parent = module.rpartition(".")[0]
    return module if module in packages or parent in FLOORS else parent


def arrows(files: Sequence[Source]) -> dict[str, set[str]]:
    """Room -> the other rooms that it imports, for every room."""
    modules = {module_name(file) for file in files}
    packages = {module_name(file) for file in files if file.name.endswith("/__init__.py")}
    rooms: dict[str, set[str]] = {room_of(name, packages): set() for name in sorted(modules)}
    for file in files:
        room = room_of(module_name(file), packages)
        for name in imported(file.tree):
            target = name if name in modules else name.rpartition(".")[0]
            if target in modules and room_of(target, packages) != room:
                rooms[room].add(room_of(target, packages))
    return rooms


def floor_of(room: str) -> str:
    return room.partition(".")[0]


def upward(rooms: Arrows) -> list[str]:
    """Arrows that point to a floor above."""
    level = {floor: number for number, floor in enumerate(FLOORS)}
    return [f"{a} -> {b}" for a in rooms for b in sorted(rooms[a]) if level[floor_of(b)] < level[floor_of(a)]]


def cycle(rooms: Arrows) -> list[str]:
    """The rooms of one cycle, the first repeated at the end; empty when there is none."""
    try:
        TopologicalSorter(rooms).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def sentences(files: Iterable[Source]) -> dict[str, str]:
    """Module -> the first line of its docstring."""
    docstrings = {module_name(file): ast.get_docstring(file.tree) or "" for file in files}
    return {name: text.partition("\n")[0] for name, text in docstrings.items()}


def table(files: Sequence[Source]) -> str:
    """Markdown: each room, its sentence and the rooms it imports; a floor stands before its rooms."""
    rooms, said = arrows(files), sentences(files)
    lines = ["| room | holds | imports |", "| --- | --- | --- |"]
    for floor in FLOORS:
        lines.append(f"| **[{floor}/](../{floor})** | {said[floor]} | |")
        for room in (room for room in rooms if floor_of(room) == floor and room != floor):
            path = room.replace(".", "/")
            path = path if any(file.name.startswith(f"{path}/") for file in files) else f"{path}.py"
            targets = ", ".join(f"`{target}`" for target in sorted(rooms[room]))
            lines.append(f"| [{path}](../{path}) | {said[room].replace('|', chr(92) + '|')} | {targets} |")
    return "\n".join(lines)


def reduced(rooms: Arrows) -> dict[str, set[str]]:
    """The arrows without those to rooms that a chain of others leads to as well. The rooms have no cycle."""
    below = reachable(rooms)
    return {room: {b for b in targets if not any(b in below[c] for c in targets)} for room, targets in rooms.items()}


def reachable(rooms: Arrows) -> dict[str, set[str]]:
    below: dict[str, set[str]] = {}
    for room in TopologicalSorter(rooms).static_order():
        below[room] = {*rooms[room]}.union(*(below[target] for target in rooms[room]))
    return below


def rows_of(rooms: Arrows) -> list[list[str]]:
    """Rooms in rows: each below all that import it, as high as that allows."""
    depth: dict[str, int] = {}
    for room in reversed([*TopologicalSorter(rooms).static_order()]):
        depth[room] = max((depth[user] + 1 for user in rooms if room in rooms[user]), default=0)
    return [[room for room in rooms if depth[room] == row] for row in range(1 + max(depth.values(), default=-1))]


def picture(rooms: Arrows) -> str:
    """SVG: a band a floor, its rooms as boxes, and the arrows inside the floor, as `reduced` leaves them."""
    parts, top = [HEAD], 10
    for floor in FLOORS:
        inside = reduced({a: {b for b in rooms[a] if on(floor, b)} for a in rooms if on(floor, a)})
        rows = [part for row in rows_of(inside) for part in wrapped(row)]
        height = BAND + len(rows) * (BOX[1] + GAP[1])
        parts += [*band(floor, top, height), *boxes_and_arrows(inside, placed(rows, inside, top + BAND))]
        top += height + 26
    size = f'width="{WIDTH}" height="{top - 16}" viewBox="0 0 {WIDTH} {top - 16}"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', *parts, "</svg>", ""])


HEAD = (
    '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
    '<path d="M0,1 L7,4 L0,7 z" fill="#555"/></marker></defs>\n'
    '<rect width="100%" height="100%" fill="white"/>'
)
FONT = 'font-family="Helvetica, Arial, sans-serif"'


def on(floor: str, room: str) -> bool:
    return floor_of(room) == floor and room != floor


def wrapped(row: list[str]) -> list[list[str]]:
    """A row in as many as fit the width, of about the same length."""
    most = (WIDTH - 40) // (BOX[0] + GAP[0])
    parts = -(-len(row) // most)
    size = -(-len(row) // parts)
    return [row[start : start + size] for start in range(0, len(row), size)]


def placed(rows: list[list[str]], rooms: Arrows, top: int) -> dict[str, tuple[float, float]]:
    """The upper left corner of each box: rows centred, each ordered by where those that import its rooms stand."""
    at: dict[str, tuple[float, float]] = {}
    for number, row in enumerate(rows):
        users = {room: [at[user][0] for user in at if room in rooms[user]] for room in row}
        middle = {room: sum(xs) / len(xs) if xs else WIDTH / 2 for room, xs in users.items()}
        left = (WIDTH - len(row) * BOX[0] - (len(row) - 1) * GAP[0]) / 2
        for place, room in enumerate(sorted(row, key=lambda room: middle[room])):
            at[room] = (left + place * (BOX[0] + GAP[0]), top + number * (BOX[1] + GAP[1]))
    return at


def band(floor: str, top: float, height: float) -> Iterator[str]:
    yield f'<rect x="10" y="{top}" width="{WIDTH - 20}" height="{height}" rx="8" fill="{COLOURS[floor]}"/>'
    yield f'<text x="24" y="{top + 24}" {FONT} font-size="19" font-weight="bold">{floor}/</text>'
    if floor != FLOORS[-1]:
        line = f'x1="{WIDTH / 2}" y1="{top + height}" x2="{WIDTH / 2}" y2="{top + height + 25}"'
        yield f'<line {line} stroke="#555" stroke-width="3" marker-end="url(#tip)"/>'


def boxes_and_arrows(rooms: Arrows, at: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    for user, target in [(a, b) for a in rooms for b in sorted(rooms[a])]:
        x1, y1 = at[user][0] + BOX[0] / 2, at[user][1] + BOX[1]
        x2, y2 = at[target][0] + BOX[0] / 2, at[target][1]
        bend = (y2 - y1) / 2
        curve = f"M{x1:.0f} {y1:.0f} C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2:.0f}"
        yield f'<path d="{curve}" fill="none" stroke="#555" stroke-width="1.2" marker-end="url(#tip)"/>'
    for room, (x, y) in at.items():
        yield f'<rect x="{x:.0f}" y="{y:.0f}" width="{BOX[0]}" height="{BOX[1]}" rx="5" fill="white" stroke="#777"/>'
        label = escape(room.partition(".")[2])
        centre = f'x="{x + BOX[0] / 2:.0f}" y="{y + BOX[1] / 2 + 5:.0f}"'
        yield f'<text {centre} {FONT} font-size="15" text-anchor="middle">{label}</text>'


def read() -> list[Source]:
    return sources(*FLOORS)
