// Helpers of the modules; the text of this file is prepended to each module that uses them.

// Create an element with these properties and append it to a parent.
function make(tag, properties = {}, parent = null) {
  const element = Object.assign(document.createElement(tag), properties);
  parent?.append(element);
  return element;
}

// Decode base64 text into a typed array.
function decodeArray(text, ArrayType) {
  const characters = atob(text), bytes = new Uint8Array(characters.length);
  for (let i = 0; i < characters.length; i++) bytes[i] = characters.charCodeAt(i);
  return new ArrayType(bytes.buffer);
}

// Red, green and blue of a color such as "#0072B2".
const parseColor = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

const formatCount = (count) => count.toLocaleString("en");

// Read an attribute of the model that holds JSON.
const readJson = (model, attribute) => JSON.parse(model.get(attribute) || "{}");

// Write the view of a person to the model.
function writeView(model, view) {
  model.set("view", JSON.stringify(view));
  model.save_changes();
}

// Create the root of a module: it takes keys while it has the focus.
function makeRoot(parent, className, style) {
  make("style", { textContent: style }, parent);
  const root = make("div", { className, tabIndex: 0 }, parent);
  root.dataset.lmSuppressShortcuts = "true"; // otherwise JupyterLab's shortcuts act on the notebook
  return root;
}

// Height of a module in CSS. A page without Python adapts the height of its frame to the content, so that a part of the
// frame's own height would shrink with it.
const STATIC_HEIGHT_PX = 460, isStatic = location.href === "about:srcdoc";
const moduleHeight = isStatic ? `${STATIC_HEIGHT_PX}px` : "clamp(320px, 66vh, 640px)";

// Call an action when its key is pressed; keys with Ctrl, Alt or Meta belong to the browser.
function onKey(root, actionOf) {
  root.onkeydown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const action = actionOf(event);
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  };
}

// Position of a pointer event within an element, in CSS pixels.
function pointerPosition(element, event) {
  const box = element.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

// Call handlers when Python changes `data` or `view`; returns a function that removes them.
function observeModel(model, onData, onView) {
  model.on("change:data", onData);
  model.on("change:view", onView);
  return () => {
    model.off("change:data", onData);
    model.off("change:view", onView);
  };
}
