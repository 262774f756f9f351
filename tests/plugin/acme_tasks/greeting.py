"""Greet somebody by name."""

import pe_rlhf_mm as pe

NAMES = {"train": ("Ada", "Alan", "Grace", "Edsger"), "validation": ("Barbara",), "test": ("Donald", "Frances")}


class Polite:
    """1 if the reply says hello to the right person."""

    def score(self, outcomes, *, seed=0):
        return [pe.Score(float(o.replies[-1:] == [f"hello {o.sample.target}"])) for o in outcomes]


class Greeting:
    """One name, one greeting."""

    evaluators = ("acme/polite",)

    def samples(self, split, *, seed=0):
        if split not in NAMES:
            raise pe.UserError(f"no split {split!r}; there are {', '.join(NAMES)}")
        for name in NAMES[split]:
            yield pe.Sample(f"{split}-{name}", [pe.Message("user", f"greet {name}")], target=name)

    def preferences(self, split, *, seed=0):
        for sample in self.samples(split):
            yield pe.Preference(sample.messages, f"hello {sample.target}", "what do you want?")

    def environment(self):
        return None

    def solve(self, sample):
        return [f"hello {sample.target}"]
