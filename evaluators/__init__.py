"""Built-in evaluators: outcomes in, scores out, one file each."""

if __name__ != "pe_rlhf_mm.evaluators":
    raise ImportError(
        "import this package as pe_rlhf_mm.evaluators; a bare `import evaluators` would load every evaluator twice"
    )
