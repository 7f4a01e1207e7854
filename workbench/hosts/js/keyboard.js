// The page's keys and its address bar: keys are sent to Python, and Python's address is written to the bar.
// Buttons get a title when the pointer or the focus reaches them: a tooltip of Material would replace their name.
// Keys typed into a field, or handled by another part of the page, are ignored.

const FIELDS = "input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable=true], " +
  "[role=combobox], [role=listbox], [role=menu], [role=slider]";
const SENT_KEYS = ["ArrowLeft", "ArrowRight", "[", "]", "?", "r", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
const FIELD_OF_KEY = { "/": "input[placeholder^='filter']", s: "input[placeholder^='name this view']" };
const NARROW_PX = 1000; // the list of runs would leave too little room beside it
const PHONE_PX = 600;
const STYLE = "font: inherit; color: inherit; background: none; border: 1px solid currentColor; border-radius: 4px; " +
  "padding: 4px 10px; margin-left: 8px; cursor: pointer";

// Return the first element below a root that matches a selector, also within shadow roots.
function deepQuery(root, selector) {
  const match = root.querySelector(selector);
  if (match) return match;
  for (const element of root.querySelectorAll("*")) {
    const inner = element.shadowRoot && deepQuery(element.shadowRoot, selector);
    if (inner) return inner;
  }
  return null;
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // not a secure context, or the browser needs a permission
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
    const send = (message) => {
      model.set("view", JSON.stringify({ ...message, count: ++count }));
      model.save_changes();
    };
    const addButton = (label, action) => {
      const button = el.appendChild(document.createElement("button"));
      button.type = "button";
      button.textContent = label;
      button.style.cssText = STYLE;
      button.addEventListener("click", action);
      return button;
    };
    const copy = async () => {
      await copyText(location.href);
      link.textContent = "copied ✓";
      clearTimeout(timer);
      timer = setTimeout(() => { link.textContent = "copy link"; }, 1500);
    };
    el.style.whiteSpace = "nowrap";
    const link = addButton("copy link", copy);
    const keys = addButton("? keys", () => send({ key: "?" }));
    keys.setAttribute("aria-label", "keys");
    link.title = "Copy the address of this view";
    keys.title = "Show the keys of this page";
    keys.hidden = window.innerWidth < PHONE_PX; // there is no room in the header, and no keyboard
    if (window.innerWidth < NARROW_PX) send({ narrow: true });

    const onKey = (event) => {
      const target = event.composedPath()[0];
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
      if (target.closest?.(FIELDS)) {
        if (event.key === "Escape") target.blur();
        return;
      }
      if (event.key.startsWith("Arrow") && target.closest?.("[role=tab]")) return;
      if (FIELD_OF_KEY[event.key]) {
        event.preventDefault();
        const field = deepQuery(document, FIELD_OF_KEY[event.key]);
        field?.focus();
        field?.select();
      } else if (event.key === "c") {
        copy();
      } else if (event.key.toLowerCase() === "z") {
        if (event.shiftKey) history.forward();
        else if (history.state?.at > 0) history.back(); // otherwise the page before is another site
      } else if (SENT_KEYS.includes(event.key)) {
        send({ key: event.shiftKey && event.key.startsWith("Arrow") ? `Shift+${event.key}` : event.key });
      }
    };
    const write = () => {
      const { address } = JSON.parse(model.get("data"));
      if (!address) return;
      // Moving within a lens adds no entry to the history.
      const withoutPosition = (search) => search.replace(/&lens\.(row|stop)=\d+/g, "");
      const same = first || withoutPosition(address) === withoutPosition(location.search);
      const at = (history.state?.at ?? 0) + (same ? 0 : 1); // number of views before this one
      if (address !== location.search) history[same ? "replaceState" : "pushState"]({ at }, "", location.pathname + address);
      first = false;
    };
    const { titles } = JSON.parse(model.get("data"));
    const describe = (event) => {
      const button = event.composedPath().find((node) => node.classList?.contains("MuiButton-root"));
      const title = button && titles[button.innerText.trim().replace(/\d+/, "#")];
      if (title) button.title = title;
    };
    const onHistory = () => send({ search: location.search });
    document.addEventListener("keydown", onKey);
    document.addEventListener("mousemove", describe);
    document.addEventListener("focusin", describe);
    window.addEventListener("popstate", onHistory);
    model.on("change:data", write);
    write();
    // The page starts dark if the visitor's system is. It would not follow a change from Python.
    const darken = () => {
      const toggle = deepQuery(document, "button[aria-label='Toggle theme']");
      if (toggle) toggle.click();
      else setTimeout(darken, 100);
    };
    if (matchMedia("(prefers-color-scheme: dark)").matches) setTimeout(darken, 100);
    return () => {
      document.removeEventListener("keydown", onKey);
      document.removeEventListener("mousemove", describe);
      document.removeEventListener("focusin", describe);
      window.removeEventListener("popstate", onHistory);
      model.off("change:data", write);
    };
  },
};
