"""Write the reference pages that follow from the code, before Sphinx reads its sources."""

from pathlib import Path
from typing import Any

import typer
from sphinx.application import Sphinx

from workbench import analysis
from workbench.cli import app as command_line
from workbench.collect.collectors import collectors
from workbench.core.glossary import COLUMNS, CONTROLS
from workbench.launch.recipes import SYSTEMS
from workbench.storage.evidence import ARRAYS

HERE = Path(__file__).parent.parent
GROUP_TITLES = {
    "images": "Images",
    "tokens": "Tokens",
    "codebook": "Codebook",
    "latents": "Latent space",
    "learnability": "Diffusability",
    "generation": "Generation",
    "runs": "Comparison of runs",
    "diagnosis": "Checks",
}


def analyses_page() -> str:
    """Return the page with every analysis, group by group."""
    lines = ["# Analyses", ""]
    lines += [
        "Every analysis is available as `wb.analysis.<name>`, and by its name as a text with "
        "`wb.analysis.get(name)`.",
        "",
    ]
    for group, names in analysis.groups().items():
        lines += [f"## {GROUP_TITLES[group]}", ""]
        for name in names:
            directive = f".. autofunction:: workbench.analysis.{name}"
            lines += [f"### {name}", "", "```{eval-rst}", directive, "```", ""]
    return "\n".join(lines)


def systems_page() -> str:
    """Return the page with every system that can be trained, from the first lines of its module."""
    lines = ["# Systems", "", "Each system is one file that reads like its paper.", ""]
    paths = dict.fromkeys(SYSTEMS.values())
    for path in paths:
        module, _, name = path.partition(":")
        recipes = ", ".join(f"`{system}`" for system, value in SYSTEMS.items() if value == path)
        lines += [
            f"## {name}",
            "",
            f"Recipes: {recipes} with a dataset, as in `softvq-digits`.",
            "",
        ]
        lines += ["```{eval-rst}", f".. automodule:: {module}", "   :no-members:", ""]
        lines += [f".. autoclass:: {module}.{name}", "   :members:", "   :exclude-members: Config"]
        lines += ["", f".. autoclass:: {module}.{name}.Config", "   :members:", "```", ""]
    return "\n".join(lines)


def command_line_page() -> str:
    """Return the page with the help of every command."""
    group: Any = typer.main.get_command(command_line)
    lines = ["# Command line", ""]
    for name, command in sorted(group.commands.items()):
        context = command.make_context(
            f"workbench {name}", [], resilient_parsing=True, terminal_width=76
        )
        lines += [f"## {name}", "", "```text"]
        lines += [command.get_help(context).strip(), "```", ""]
    return "\n".join(lines)


def arrays_table() -> str:
    """Return the table of the arrays of evidence, with the collectors that write them."""
    lines = ["| array | type and axes | content | collector |", "| --- | --- | --- | --- |"]
    for name, spec in ARRAYS.items():
        writers = [f"`{c.name}`" for c in collectors().values() if name in c.provides]
        shape = f"{spec.dtype} ({', '.join(spec.axes)})"
        lines.append(f"| `{name}` | {shape} | {spec.meaning} | {', '.join(writers)} |")
    return "\n".join([*lines, ""])


def collectors_table() -> str:
    """Return the table of all collectors."""
    lines = ["| collector | of | content |", "| --- | --- | --- |"]
    for name, item in collectors().items():
        lines.append(f"| `{name}` | {', '.join(item.models)} | {item.summary} |")
    return "\n".join([*lines, ""])


def screen_words_table() -> str:
    """Return the tables of the columns and controls of all hosts."""
    lines = []
    for title, terms in {"column": COLUMNS, "control": CONTROLS}.items():
        lines += [f"| {title} | definition |", "| --- | --- |"]
        lines += [f"| {term.label} | {term.tooltip} |" for term in terms.values()]
        lines.append("")
    return "\n".join(lines)


def write_pages(app: Sphinx) -> None:
    """Write the generated pages; a page that has not changed keeps its time of modification."""
    pages = {
        "reference/analyses.md": analyses_page(),
        "reference/systems.md": systems_page(),
        "reference/command-line.md": command_line_page(),
        "_generated/arrays.md": arrays_table(),
        "_generated/collectors.md": collectors_table(),
        "_generated/screen_words.md": screen_words_table(),
    }
    for name, text in pages.items():
        path = HERE / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
