"""The HTML around the page: text and structure before any script has been loaded.

The scripts of Panel and Plotly take seconds on a slow machine, and block a page whose body comes
after them. An element in front of them begins the body, so that a browser draws it first.
"""

from collections.abc import Sequence
from pathlib import Path

from workbench.core.html_templates import render

MAX_NAMES = 40  # of runs that the first paint lists
OUTLINE_TEMPLATE = Path(__file__).parent / "templates" / "outline.html.j2"
OUTLINE = "<!-- outline -->"  # is replaced by the tabs and the runs
# All before it is the same for every visitor, apart from the outline.
END_OF_BEGINNING = "<!-- end of the beginning -->"
TEMPLATE = (
    """
{% extends "base.html" %}
{% block loader_css %}
{{ super() }}
/* The modules take the type and the color of the buttons around them. */
:root { --wb-font: Roboto, Helvetica, Arial, sans-serif }
:root { --wb-accent: var(--mui-palette-primary-main) }
#loader {
  inset: auto 16px 16px auto; width: auto; height: auto; padding: 12px 20px; flex-direction: row;
  background: #0072b2; color: #fff; border-radius: 8px; font: 14px system-ui, sans-serif;
}
#loader .spinner { width: 18px; height: 18px; border-width: 3px }
#first-paint { position: fixed; inset: 0; overflow: hidden; background: #fff; color: #333 }
#first-paint { font: 14px/1.5 system-ui, sans-serif }
#first-paint header { background: #0072b2; color: #fff; padding: 15px 68px; font-size: 20px }
#first-paint nav { float: left; width: 348px; height: 100%; padding: 16px }
#first-paint nav { border-right: 1px solid #8884 }
#first-paint ul { margin: 8px 0; padding: 0; list-style: none; opacity: 0.8 }
#first-paint nav li { padding: 4px 0; overflow-wrap: anywhere }
#first-paint .tabs { display: flex; flex-wrap: wrap; gap: 0 18px; padding: 8px 24px }
#first-paint .tabs { border-bottom: 1px solid #8884; line-height: 32px; overflow: hidden }
#first-paint p { margin: 0; padding: 24px; overflow: hidden }
@media (max-width: 899px) { #first-paint nav { float: none; width: auto; height: auto } }
@media (prefers-color-scheme: dark) { #first-paint { background: #121212; color: #ddd } }
{% endblock %}
{% block css_resources %}{% endblock %}
{% block js_resources %}
<div id="first-paint" role="status">
  <header>workbench</header>
  """
    + OUTLINE
    + """
  <p>Loading the dashboard. Results appear as they are computed.</p>
</div>
{{ super() }}
"""
    + END_OF_BEGINNING
    + """
{% endblock %}
{% block postamble %}
{{ bokeh_css }}
{{ super() }}
{% endblock %}
{% block loader %}
<script>
// The theme inserts its styles into the head, after those of the page and before the last ones.
document.head.append(...document.querySelectorAll("body > style, body > link[rel=stylesheet]"));
new MutationObserver((_, observer) => {
  if (!document.querySelector("[data-root-id]:not(:empty)")) return;
  document.getElementById("first-paint").remove(); // Bokeh draws the page
  observer.disconnect();
}).observe(document.body, { childList: true, subtree: true });
</script>
<div id="loader" role="status" style="display: none;">
  <div class="spinner"></div><span>Drawing the page …</span><div id="loader-error"></div>
</div>
{% endblock %}
"""
)


def outline(tabs: Sequence[str], runs: Sequence[str]) -> str:
    """Return the titles of the tabs and the names of the runs as HTML.

    Parameters
    ----------
    tabs : sequence of str
        The titles of the tabs.
    runs : sequence of str
        The names of the runs, of which the first ones are listed.
    """
    return render(OUTLINE_TEMPLATE, tabs=tabs, runs=runs, max_names=MAX_NAMES)
