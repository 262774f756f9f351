"""Built-in tasks: data, prompt and scoring, one file each."""

if __name__ != "pe_rlhf_mm.tasks":
    raise ImportError("import this package as pe_rlhf_mm.tasks; a bare `import tasks` would load every task twice")
