// The page's keys and its address: what is pressed goes to Python, what Python says goes into the address bar.
// Nothing is taken from somebody who types, or from a part of the page that has used the key itself.

const FIELDS = "input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable=true], " +
  "[role=combobox], [role=listbox], [role=menu], [role=slider]";
const SENT = ["ArrowLeft", "ArrowRight", "[", "]", "?", "r", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
const FOCUSED = { "/": "input[placeholder^='filter']", s: "input[placeholder^='name this view']" };
const STYLE = "font: inherit; color: inherit; background: none; border: 1px solid currentColor; border-radius: 4px; " +
  "padding: 4px 10px; margin-left: 8px; cursor: pointer";

// The first element under a root that a selector names, shadow roots included.
function deep(root, selector) {
  const found = root.querySelector(selector);
  if (found) return found;
  for (const one of root.querySelectorAll("*")) {
    const inside = one.shadowRoot && deep(one.shadowRoot, selector);
    if (inside) return inside;
  }
  return null;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // a page that was not sent over https, or a browser that asks first
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text;
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

export default {
  render({ model, el }) {
    let count = 0, first = true, timer = 0;
    const tell = (what) => {
      model.set("view", JSON.stringify({ ...what, count: ++count }));
      model.save_changes();
    };
    const button = (label, act) => {
      const made = el.appendChild(document.createElement("button"));
      made.type = "button";
      made.textContent = label;
      made.style.cssText = STYLE;
      made.addEventListener("click", act);
      return made;
    };
    const copy = async () => {
      await copied(location.href);
      link.textContent = "copied ✓";
      clearTimeout(timer);
      timer = setTimeout(() => { link.textContent = "copy link"; }, 1500);
    };
    el.style.whiteSpace = "nowrap";
    const link = button("copy link", copy);
    const keys = button("? keys", () => tell({ key: "?" }));
    keys.setAttribute("aria-label", "keys");

    const pressed = (event) => {
      const target = event.composedPath()[0];
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
      if (target.closest?.(FIELDS)) {
        if (event.key === "Escape") target.blur();
        return;
      }
      if (event.key.startsWith("Arrow") && target.closest?.("[role=tab]")) return;
      if (FOCUSED[event.key]) {
        event.preventDefault();
        const field = deep(document, FOCUSED[event.key]);
        field?.focus();
        field?.select();
      } else if (event.key === "c") {
        copy();
      } else if (event.key.toLowerCase() === "z") {
        if (event.shiftKey) history.forward();
        else if (history.state?.at > 0) history.back(); // else the page before is none of ours
      } else if (SENT.includes(event.key)) {
        tell({ key: event.shiftKey && event.key.startsWith("Arrow") ? `Shift+${event.key}` : event.key });
      }
    };
    const write = () => {
      const { address } = JSON.parse(model.get("data"));
      if (!address) return;
      const place = (search) => search.replace(/&lens\.(row|stop)=\d+/g, ""); // looking around in a lens is no way to go back
      const same = first || place(address) === place(location.search);
      const at = (history.state?.at ?? 0) + (same ? 0 : 1); // views before this one
      if (address !== location.search) history[same ? "replaceState" : "pushState"]({ at }, "", location.pathname + address);
      first = false;
    };
    const turned = () => tell({ search: location.search });
    document.addEventListener("keydown", pressed);
    window.addEventListener("popstate", turned);
    model.on("change:data", write);
    write();
    // At first dark where the visitor's system is; told from Python, the page would not follow.
    const darken = () => {
      const toggle = deep(document, "button[aria-label='Toggle theme']");
      if (toggle) toggle.click();
      else setTimeout(darken, 100);
    };
    if (matchMedia("(prefers-color-scheme: dark)").matches) setTimeout(darken, 100);
    return () => {
      document.removeEventListener("keydown", pressed);
      window.removeEventListener("popstate", turned);
      model.off("change:data", write);
    };
  },
};
