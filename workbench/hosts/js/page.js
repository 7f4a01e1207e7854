// Runs a module without a kernel, in a page of its own in an iframe. Python replaces the two words in
// capitals by the attributes and the text of the module; brush.js comes before.
const { state, of } = GIVEN, listeners = {};
const model = {
  get: (name) => state[name],
  set: (name, value) => {
    state[name] = value;
    (listeners["change:" + name] || []).forEach((listener) => listener());
  },
  save_changes() {}, send() {},
  on: (event, listener) => { (listeners[event] ||= []).push(listener); },
  off: (event, listener) => {
    listeners[event] = (listeners[event] || []).filter((other) => other !== listener);
  },
};
// A hidden page draws nothing yet.
if (!innerWidth) await new Promise((resolve) => addEventListener("resize", resolve, { once: true }));
// JupyterLab's theme may differ from that of the system.
const light = frameElement?.ownerDocument.body.dataset.jpThemeLight;
const themed = light ? [frameElement, document.documentElement] : [];
themed.forEach((element) => { element.style.colorScheme = light === "true" ? "light" : "dark"; });
const module = await import(URL.createObjectURL(new Blob([SOURCE], { type: "text/javascript" })));
const root = document.getElementById("root");
const page = frameElement?.ownerDocument ?? document;
module.default.render({ model, el: root, brush: of && brush(page, of) });
const grow = () => { if (frameElement) frameElement.style.height = root.scrollHeight + 12 + "px"; };
new ResizeObserver(grow).observe(root);
