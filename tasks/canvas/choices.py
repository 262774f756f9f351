"""What a problem is made of, drawn from its seed: words, colours and layouts of one split.

Labels of the test split are unseen: a third of the words is used there and nowhere else. (Colours, and the labels OK
and X, are the same everywhere: nobody knows the name of a colour that was never named.) Layouts are unseen in
validation and in test: a layout, which is the set of rectangles on a screen, belongs to one split by its hash.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Sequence

from pe_rlhf_mm.envs.canvas.faces import COLORS
from pe_rlhf_mm.envs.canvas.layout import Box, Size, scatter
from pe_rlhf_mm.envs.canvas.widgets import Button
from pe_rlhf_mm.errors import UserError

WORDS = """
ace act add age aid aim air ant ape arm art ash axe bad bag bar bat bay bed bee bet big bin bit bow box boy bud bug bus
cab can cap car cat cow cry cub cup cut dad day den dew dig dog dot dry due ear eat egg elf elm end era eye fan far fed
fig fin fir fit fix fly fog fox fun fur gap gas gem gum gut gym ham hat hen hid hip hop hot hub hut ice ink jam jar jaw
jet job joy jug keg kid kit lab lap law leg lid lip log lot mad man map mat mix mob mud mug nap net nut oak oil old owl
pad pan paw pea peg pen pet pie pig pin pit pod pot pup rag ram rat raw rib rim rod row rub rug run sad sap saw sea sip
sky son spy sun tap tar tax tea tin tip toe top toy tub van vat wax web wig win zoo
""".split()
"""Three letters each, so that all of them fit on every widget."""
SPLITS = ("train", "validation", "test")
BUTTON: Size = (6, 4)
"""Units of the grid, across and down, that hold any label."""
DRAWS = 1000
"""Layouts drawn before a split is taken to have none for a set of widgets."""


@functools.cache
def words_of(split: str) -> Sequence[str]:
    """Every third word for test, all others for training and validation."""
    return WORDS[::3] if split == "test" else [word for place, word in enumerate(WORDS) if place % 3]


def split_of(layout: Sequence[Box]) -> str:
    """Of ten layouts one belongs to validation and two to test, whatever stands in their boxes."""
    rectangles = repr(sorted(map(tuple, layout)))
    tenth = int.from_bytes(hashlib.sha256(rectangles.encode()).digest()[:4]) % 10
    return "validation" if tenth == 0 else "test" if tenth < 3 else "train"


class Choices:
    """The draws of one problem; no word and no colour comes twice."""

    def __init__(self, split: str, seed: str):
        self.split, self.rng = split, random.Random(seed)
        self._words, self._colors = list(words_of(split)), list(COLORS)

    def words(self, count: int) -> list[str]:
        """Words of the split."""
        return [self._drawn(self._words) for _ in range(count)]

    def color(self) -> str:
        """The name of a colour."""
        return self._drawn(self._colors)

    def boxes(self, *layers: Sequence[Size]) -> list[Box]:
        """A layout of the split: boxes of these sizes, in units of the grid; those of one layer do not overlap."""
        for _ in range(DRAWS):
            layout = [box for sizes in layers for box in scatter(self.rng, sizes)]
            if split_of(layout) == self.split:
                return layout
        raise UserError(f"no layout of widgets of {layers} belongs to {self.split!r}; give them more room")

    def buttons(self, boxes: Sequence[Box]) -> list[Button]:
        """Buttons of different colours and labels."""
        return [Button(box, word, self.color()) for box, word in zip(boxes, self.words(len(boxes)), strict=True)]

    def naming(self, button: Button) -> str:
        """How a goal speaks of a button: by its colour, or by its label."""
        return self.rng.choice((f"the {button.color} button", f'the button "{button.label}"'))

    def _drawn(self, left: list[str]) -> str:
        return left.pop(self.rng.randrange(len(left)))
