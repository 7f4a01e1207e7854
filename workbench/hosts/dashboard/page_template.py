"""The HTML around the page: text and structure before any script has been loaded.

The scripts of Panel and Plotly take seconds on a slow machine, and block a page whose body comes
after them. An element in front of them begins the body, so that a browser draws it first.
"""

TEMPLATE = """
{% extends "base.html" %}
{% block loader_css %}
{{ super() }}
#loader {
  inset: auto 16px 16px auto; width: auto; height: auto; padding: 12px 20px; flex-direction: row;
  background: #0072b2; color: #fff; border-radius: 8px; font: 14px system-ui, sans-serif;
}
#loader .spinner { width: 18px; height: 18px; border-width: 3px }
#first-paint { position: fixed; inset: 0; font: 16px/1.5 system-ui, sans-serif; color: #333 }
#first-paint header { background: #0072b2; color: #fff; padding: 20px 68px; font-size: 24px }
#first-paint p { margin: 24px 68px; max-width: 640px }
@media (prefers-color-scheme: dark) { #first-paint { background: #121212; color: #ddd } }
body:has([data-root-id]:not(:empty)) #first-paint { display: none }
{% endblock %}
{% block js_resources %}
<div id="first-paint" role="status">
  <header>workbench</header>
  <p>Loading the dashboard: the runs on the left, and a tab for each group of analyses. Results
  appear as they are computed.</p>
</div>
{{ super() }}
{% endblock %}
{% block loader %}
<script>
// The theme inserts its styles into the head, after those of the page and before the last ones.
document.head.append(...document.querySelectorAll("body > style, body > link[rel=stylesheet]"));
</script>
<div id="loader" role="status" style="display: none;">
  <div class="spinner"></div><span>Drawing the page …</span><div id="loader-error"></div>
</div>
{% endblock %}
"""
